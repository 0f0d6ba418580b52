"""What is known to be wrong with a run's training and an attribution's scores; loads little."""

import contextlib
from pathlib import Path
from typing import Any

from engine.runs.checksummed import read_record
from engine.runs.errors import MagicError
from engine.runs.run_folder import RunFolder


def findings_of(run: RunFolder, record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Kind and sentence of each: of the replay that ``record`` completes, then of the training.

    Raises:
        RunError: if a file is damaged.
    """
    of_training = (read_record(run.findings_file) or {}).get("findings", [])
    return tuple((f["kind"], f["message"]) for f in (*record.get("findings", ()), *of_training))


def largest_rounding(record: dict[str, Any]) -> float | None:
    """Of an attribution's estimates of rounding, one a query, the largest; None if it has none."""
    return max((e for e in record.get("rounding") or () if e is not None), default=None)


def warnings_view(run: Path, attribution: str | None = None) -> dict[str, Any]:
    """``warnings``, and by query ``rounding``, of a run and its latest or a named attribution.

    Either is left out where there is none; what cannot be read is told with the verdict.
    """
    folder, record = RunFolder(run), dict[str, Any]()
    if next(run.glob("attributions/[!.]*/complete.json"), None) is not None:
        record = _completion(folder, attribution)
    found: dict[str, Any] = {"rounding": record["rounding"]} if record.get("rounding") else {}
    with contextlib.suppress(MagicError, OSError):
        if sentences := [sentence for _, sentence in findings_of(folder, record)]:
            found["warnings"] = sentences
    return found


def _completion(run: RunFolder, attribution: str | None) -> dict[str, Any]:
    # Loads numpy, which only a run with scores needs.
    from engine.runs.score_store import find_attribution, read_completion

    with contextlib.suppress(MagicError, OSError):
        return read_completion(find_attribution(run.attributions, attribution)) or {}
    return {}


def rounding_text(error: float | None) -> str:
    """What rounding is estimated to do to scores; ``error`` is relative, None where all are 0."""
    if error is None:
        return "all scores are 0"
    if error >= 1:
        return "estimated to change the scores altogether"
    return f"estimated to change the scores by {error:.1e} of their size"
