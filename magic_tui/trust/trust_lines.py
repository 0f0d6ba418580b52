"""What is known of how far scores can be trusted, as lines; and the scatter of retrainings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from engine.evaluation.lds_index import kind_text
from engine.evaluation.predictions import Points, Validation
from engine.evaluation.trust import Numerics, Probes, Trust
from engine.runs.safe_text import one_line
from engine.scores.findings import rounding_text
from magic_tui.text.cells import wrap
from magic_tui.text.numbers import counted

POINT, SEVERAL, OUTLIER, LINE, CURSOR = "•", "●", "◆", "·", "◎"
GROWTH = 1e4
"""A cotangent that grows by more over the replay makes much of little rounding."""
_NAME_WIDTH = 14
_MOST_LINES = 4

Floats = NDArray[np.float64]


def verdict_lines(trust: Trust, width: int) -> Iterator[Text]:
    """The verdict, its reason and what may help."""
    verdict = trust.verdict
    yield Text(f"{verdict.sign} {verdict.words}", "bold", no_wrap=True)
    said = [verdict.reason, verdict.remedy and f"What may help: {verdict.remedy}."]
    for sentence in filter(None, said):
        for line in wrap(one_line(sentence), width, _MOST_LINES):
            yield Text(line, no_wrap=True)


def trust_lines(trust: Trust, query: int, width: int) -> Iterator[Text]:
    """Every fact with its name, wrapped."""
    for name, value in _facts(trust, query):
        wrapped = wrap(one_line(value), width - _NAME_WIDTH, _MOST_LINES) or [""]
        for index, line in enumerate(wrapped):
            label = name if index == 0 else ""
            yield Text().append(label.ljust(_NAME_WIDTH), "dim").append(line)


@dataclass(frozen=True)
class Frame:
    """What part of the plane a scatter shows; both axes alike, so that y = x is the diagonal."""

    low: float
    high: float

    @classmethod
    def of(cls, points: Points) -> "Frame":
        """The frame that holds all points, with a little room."""
        values = np.concatenate([points.predicted, points.actual])
        low, high = float(values.min()), float(values.max())
        room = 0.04 * (high - low) or 0.5
        return cls(low - room, high + room)

    def place(self, values: Floats, cells: int) -> NDArray[np.int64]:
        """The cell of every value."""
        share = (values - self.low) / (self.high - self.low)
        return np.clip((share * cells).astype(np.int64), 0, cells - 1)


def scatter_rows(points: Points, width: int, height: int, cursor: int | None) -> list[Text]:
    """Predicted to the right, what came out upwards, the line where both agree."""
    frame, off = Frame.of(points), points.outliers()
    columns, rows = frame.place(points.predicted, width), frame.place(points.actual, height)
    grid = [[(" ", "") for _ in range(width)] for _ in range(height)]
    for column in range(width):
        grid[min(height - 1, column * height // width)][column] = (LINE, "dim")
    for index, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        taken = grid[row][column][0] in (POINT, SEVERAL)
        sign, style = (SEVERAL if taken else POINT), "color(75)"
        if off[index]:
            sign, style = OUTLIER, "color(208)"
        grid[row][column] = (sign, style)
    if cursor is not None:
        grid[int(rows[cursor])][int(columns[cursor])] = (CURSOR, "bold reverse")
    made = []
    for row_cells in reversed(grid):
        text = Text(no_wrap=True, end="")
        for sign, style in row_cells:
            text.append(sign, style)
        made.append(text)
    return made


def point_text(points: Points, index: int) -> str:
    """One retrained subset in a line."""
    predicted, actual = float(points.predicted[index]), float(points.actual[index])
    far = ", an outlier" if points.outliers()[index] else ""
    subset = one_line(points.subsets[index])
    return (
        f"subset {subset}: predicted {predicted:.5g}, came out {actual:.5g} "
        f"({actual - predicted:+.2g}{far})"
    )


def _facts(trust: Trust, query: int) -> Iterator[tuple[str, str]]:
    validation = trust.validation
    if validation is not None:
        yield from _validated(validation, query)
    yield from _probed(trust.probes)
    yield from _arithmetic(trust.numerics, query)
    if validation is None:
        yield "", ""
        yield from _to_do(trust)


def _validated(validation: Validation, query: int) -> Iterator[tuple[str, str]]:
    for kind, found in validation.ranked.items():
        value = f"{_number(found.lds)} on average of {counted(len(found.points), 'query')}"
        if not math.isnan(found.interval[0]):
            value += f", 95 % within {found.interval[0]:.2f} and {found.interval[1]:.2f}"
        yield _lds_name(kind), f"{value}, {counted(found.subsets, 'subset')}"
    retrained = counted(validation.subsets, "subset")
    if validation.skipped:
        retrained += f", {counted(validation.skipped, 'line')} left out: not finite"
    yield "retrained", retrained
    points = validation.of_query(query)
    if points is None:
        yield "this query", "was not validated"
        return
    for kind in validation.ranked:
        own = points.of_kind(kind)
        if own.subsets:
            yield f"this, {kind_text(kind)}" if kind else "this query", _of_query(own)


def _of_query(points: Points) -> str:
    return (
        f"LDS {_number(points.lds)}, Pearson {_number(points.pearson)}, mean absolute error "
        f"{points.error:.2g} where φ spreads by {points.spread:.2g}, "
        f"{counted(int(points.outliers().sum()), 'outlier')}"
    )


def _lds_name(kind: str) -> str:
    return f"LDS {kind_text(kind)}".strip()


def _probed(probes: Probes) -> Iterator[tuple[str, str]]:
    if probes.smoothness is not None:
        said = f"{probes.smoothness:.3f} of 1 (metasmoothness, three trainings)"
        if probes.straightness is not None:
            said += f"; the two halves of φ's way are {probes.straightness:.2f} of 1 alike"
        yield "smoothness", said
    if probes.agreement is not None:
        correlation, difference = probes.agreement
        yield (
            "agreement",
            f"a replay in other micro-batches: scores correlate {correlation:.4f} and differ by "
            f"{difference:.1e} of their size at most",
        )


def _arithmetic(numerics: Numerics, query: int) -> Iterator[tuple[str, str]]:
    yield "computed in", numerics.dtype + "".join(f", {name} forced" for name in numerics.forced)
    yield "eps_root", f"{numerics.eps_root:g}"
    if numerics.reproduced is not None:
        off = f" (gradients differ by {numerics.difference:.1e})" if numerics.difference else ""
        same = "came out the same, bit for bit" if numerics.reproduced else f"differs{off}"
        yield "last step", f"taken again, it {same}"
    if query < len(numerics.rounding):
        yield "rounding", rounding_text(numerics.rounding[query])
    for sentence in numerics.findings:
        yield "warning", sentence
    if query in numerics.norms:
        end, start, most = numerics.norms[query]
        growth = most / end if end > 0 else math.inf
        value = f"{end:.3g} at the last step, {start:.3g} at the first, {most:.3g} at most"
        if growth > GROWTH:
            value += "; it grows much, and rounding with it"
        yield "cotangent", value


def _to_do(trust: Trust) -> Iterator[tuple[str, str]]:
    """What tells more of scores that nobody has validated."""
    if trust.numerics.dtype != "float64":
        yield (
            "rounding",
            "magic validate --count 0 --agreement replays once more in other micro-batches: what "
            "differs much is rounding",
        )
    if not trust.numerics.eps_root > 0:
        yield (
            "smoothness",
            "eps_root is 0: where a gradient is near 0 a step is not smooth, and scores may be "
            "far too large; train with a larger one, as 1e-8, and compare",
        )
    yield (
        "validation",
        "leaves documents out, trains again and compares; this screen shows LDS and every subset "
        "as they come",
    )
    yield "command", f"magic validate {trust.run} -a {trust.attribution}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
