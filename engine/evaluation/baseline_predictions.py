"""What other methods predict of the retrainings of an attribution."""

import numpy as np

from engine.evaluation.predictions import (
    Floats,
    Points,
    Validation,
    read_left_out,
    read_validation,
)
from engine.runs.checksummed import verify
from engine.runs.errors import RunError
from engine.scores.attribution import Attribution

FOLDER = "baselines"


def read_baselines(opened: Attribution) -> dict[str, Validation]:
    """By method, its predictions of the same subsets beside what came out.

    Its scores have a scale of their own: ranks and linear correlation mean something, errors do
    not.

    Raises:
        RunError: if a file is damaged.
    """
    files = sorted((opened.path / FOLDER).glob("*.npy"))
    validation = read_validation(opened.path) if files else None
    if validation is None:
        return {}
    left_out = read_left_out(opened.run)
    found = {}
    for file in files:
        verify(file)
        try:
            scores = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{file} cannot be read ({type(error).__name__}); remove it and validate again"
            ) from None
        points = tuple(_predicted(each, scores, left_out) for each in validation.points)
        found[file.stem] = Validation(points, validation.skipped)
    return found


def _predicted(points: Points, scores: Floats, left_out: dict[str, list[int]]) -> Points:
    """The same subsets with another method's predictions."""
    sums = [-scores[points.query, left_out.get(name, [])].sum() for name in points.subsets]
    return Points(points.query, points.subsets, points.kinds, np.array(sums), points.actual)
