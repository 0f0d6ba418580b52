"""How far the scores of an attribution can be trusted: what validation found, if there was any."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.records.run_folder import RunFolder
from engine.records.score_store import find_attribution, read_completion
from magic_tui.client.attribution import Attribution
from magic_tui.client.history import read_history
from magic_tui.client.validation import VALIDATION_FILE, Validation, read_validation

TRUSTED, DOUBTFUL = 0.8, 0.5
"""Mean LDS from which scores are trusted, and under which they are not to be believed."""
FEWEST = 5
"""Retrained subsets without which no verdict is given."""

Stamp = tuple[int, int] | None
"""When a file was changed and how long it is; None where there is none."""


@dataclass(frozen=True)
class Verdict:
    """What the head of every screen says."""

    sign: str
    """``✓``, ``!``, ``✗`` or ``○``."""
    words: str
    style: str


NOT_VALIDATED = Verdict("○", "not validated", "dim")


@dataclass(frozen=True)
class Numerics:
    """What is known of the arithmetic of an attribution; None where nothing was recorded."""

    dtype: str
    eps_root: float
    forced: tuple[str, ...]
    reproduced: bool | None
    difference: float | None
    """Of the last step's gradients, when it was taken again."""
    norms: dict[int, tuple[float, float, float]]
    """By query, the cotangent's norm at the end of training, at its start, and at most."""


@dataclass(frozen=True)
class Trust:
    """Everything that the Trust screen shows."""

    run: str
    attribution: str
    verdict: Verdict
    reason: str
    validation: Validation | None
    interval: tuple[float, float] | None
    """Where the mean LDS lies with 95 %."""
    numerics: Numerics
    queries: int
    folder: Path
    """Where the attribution is."""

    @property
    def file(self) -> Path:
        """Where its retrained subsets are, or will be."""
        return self.folder / VALIDATION_FILE


def read_verdict(run: Path, attribution: str | None) -> Verdict:
    """The verdict on an attribution of the run in folder ``run``; the latest if none is named.

    Raises:
        UsageError: if there is no such attribution.
        RunError: if ``validation.csv`` is damaged.
    """
    path = find_attribution(RunFolder(run).attributions, attribution)
    return _verdict(path, _stamp(path / "complete.json"), _stamp(path / "validation.csv"))


def read_trust(opened: Attribution) -> Trust:
    """What is known of how far an attribution can be trusted.

    Raises:
        UsageError: if the config cannot be read.
        RunError: if a file is damaged.
    """
    record = opened.scores.record or {}
    validation = read_validation(opened.path)
    verdict, reason = _judged(validation, record)
    numerics = _numerics(opened.run, opened.id, record.get("reproduced"))
    interval = None if validation is None else validation.interval
    return Trust(
        opened.run.id,
        opened.id,
        verdict,
        reason,
        validation,
        interval,
        numerics,
        opened.scores.queries,
        opened.path,
    )


@functools.lru_cache(maxsize=4)
def _verdict(path: Path, completed: Stamp, validated: Stamp) -> Verdict:
    """The verdict on an attribution as long as its files are those of the stamps."""
    record = read_completion(path) or {}
    return _judged(read_validation(path), record)[0]


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _judged(validation: Validation | None, record: dict[str, Any]) -> tuple[Verdict, str]:
    if validation is None:
        if record.get("reproduced") is False:
            return (
                Verdict("!", "not reproduced", "bold"),
                "the last training step, taken again, did not come out the same, and no "
                "retraining has checked the scores",
            )
        return NOT_VALIDATED, (
            f"nobody has left documents out, trained again and compared: {_exactness(record)}, "
            "but how far they predict such changes is not known"
        )
    lds, count = validation.lds, validation.ranked_subsets
    if count < FEWEST or np.isnan(lds):
        words = f"{count} retrained"
        return Verdict("!", words, "bold"), f"{FEWEST} retrained subsets are the least to judge by"
    words = f"LDS {lds:.2f}"
    if lds >= TRUSTED:
        reason = f"predictions rank {count} retrained subsets much as they came out"
        return Verdict("✓", f"trusted, {words}", "bold"), reason
    remedy = "raise eps_root or batch_size, or lower the learning rate, and train again"
    if lds >= DOUBTFUL:
        reason = f"predictions rank {count} retrained subsets only roughly: {remedy}"
        return Verdict("!", f"doubtful, {words}", "bold"), reason
    reason = f"predictions hardly rank {count} retrained subsets: do not believe them; {remedy}"
    return Verdict("✗", f"don't trust, {words}", "bold reverse"), reason


def _exactness(record: dict[str, Any]) -> str:
    outside = (record.get("subspace") or {}).get("outside", 0.0)
    if outside == 0:
        return "the scores are exact derivatives"
    return (
        "the scores are derivatives of which fewer directions were replayed than queries asked "
        f"(at most {100 * outside:.2g} % of a query's gradient left out)"
    )


def _numerics(run: RunFolder, attribution: str, reproduced: bool | None) -> Numerics:
    config, history = run.config(), read_history(run)
    norms: dict[int, tuple[float, float, float]] = {}
    for each in history.passes_of(attribution):
        for place, query in enumerate(() if each.are_directions else each.queries):
            by_step = {
                step: value[place]
                for step, value in sorted(each.norms.items())
                if place < len(value) and value[place] is not None
            }
            values = [float(value) for value in by_step.values() if value is not None]
            if values:
                norms[query] = (values[-1], values[0], max(values))
    known = history.reproduced.get(attribution)
    return Numerics(
        config.model.dtype,
        config.training.optimizer.eps_root,
        tuple(config.force),
        reproduced,
        None if known is None else known[1],
        norms,
    )
