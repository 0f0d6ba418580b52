"""How far the scores of an attribution can be trusted: what was measured of it, if anything was."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.evaluation.lds_index import kind_text
from engine.evaluation.predictions import (
    VALIDATION_FILE,
    Validation,
    read_validation,
)
from engine.evaluation.verdict import Facts, Verdict, judge
from engine.runs.checksummed import read_record
from engine.runs.errors import RunError
from engine.runs.history import read_history
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import find_attribution, read_completion
from engine.scores.attribution import Attribution
from engine.scores.findings import findings_of, largest_rounding

AGREEMENT_FILE = "agreement.json"
Stamp = tuple[int, int] | None
"""When a file was changed and how long it is; None where there is none."""


@dataclass(frozen=True)
class Numerics:
    """What is known of the arithmetic of an attribution; None where nothing was recorded."""

    dtype: str
    eps_root: float
    forced: tuple[str, ...]
    reproduced: bool | None
    difference: float | None
    """Of the last step's gradients, when it was taken again."""
    rounding: tuple[float | None, ...]
    """By query, the relative error of its scores to expect; empty where it is not known."""
    findings: tuple[str, ...]
    """What is wrong with the training and the replay, though every number is finite."""
    norms: dict[int, tuple[float, float, float]]
    """By query, the cotangent's norm at the end of training, at its start, and at most."""


@dataclass(frozen=True)
class Probes:
    """What was measured without many retrainings; None where nothing was."""

    smoothness: float | None
    """The metasmoothness of the training."""
    straightness: float | None
    """How alike the two halves of φ's way are, over all queries."""
    agreement: tuple[float, float] | None
    """Lowest correlation over queries with a replay in other micro-batches, largest difference."""


@dataclass(frozen=True)
class Trust:
    """Everything that the Trust screen shows."""

    run: str
    attribution: str
    verdict: Verdict
    validation: Validation | None
    probes: Probes
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
        UsageError: if there is no such attribution, or the config cannot be read.
        RunError: if a file is damaged.
    """
    folder = RunFolder(run)
    path = find_attribution(folder.attributions, attribution)
    files = ("complete.json", VALIDATION_FILE, AGREEMENT_FILE)
    of_run = (folder.smoothness_file, folder.findings_file)
    stamps = (*(_stamp(path / name) for name in files), *map(_stamp, of_run))
    return _verdict(run, path, stamps)


def read_trust(opened: Attribution) -> Trust:
    """What is known of how far an attribution can be trusted.

    Raises:
        UsageError: if the config cannot be read.
        RunError: if a file is damaged.
    """
    record = opened.scores.record or {}
    validation, probes = read_validation(opened.path), _probes(opened.run, opened.path)
    # Worked out here, in a thread, and kept with the validation.
    for found in {} if validation is None else validation.ranked.values():
        found.interval  # noqa: B018
    return Trust(
        opened.run.id,
        opened.id,
        judge(_facts(opened.run, record, validation, probes)),
        validation,
        probes,
        _numerics(opened.run, opened.id, record),
        opened.scores.queries,
        opened.path,
    )


@functools.lru_cache(maxsize=4)
def _verdict(run: Path, path: Path, stamps: tuple[Stamp, ...]) -> Verdict:
    """The verdict on an attribution as long as its files are those of the stamps."""
    folder, record = RunFolder(run), read_completion(path) or {}
    return judge(_facts(folder, record, read_validation(path), _probes(folder, path)))


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _facts(
    run: RunFolder, record: dict[str, Any], validation: Validation | None, probes: Probes
) -> Facts:
    config = run.config()
    optimizer = config.training.optimizer
    ranked = {} if validation is None else validation.ranked
    kind, deciding = (None if validation is None else validation.deciding) or ("", None)
    unmoved = {p.query for found in ranked.values() for p in found.points if p.is_unmoved}
    most = max((found.subsets for found in ranked.values()), default=0)
    return Facts(
        lds=None if deciding is None else deciding.lds,
        lds_of=kind_text(kind),
        subsets=most if deciding is None else deciding.subsets,
        unmoved=len(unmoved),
        smoothness=probes.smoothness,
        straightness=probes.straightness,
        agreement=None if probes.agreement is None else probes.agreement[0],
        reproduced=record.get("reproduced"),
        rounding=largest_rounding(record),
        findings=findings_of(run, record),
        derivative=(record.get("derivative") or {}).get("problem", ""),
        optimizer=optimizer.name,
        eps_root=optimizer.eps_root,
        dtype=config.model.dtype,
        forced=tuple(config.force),
    )


def _probes(run: RunFolder, attribution: Path) -> Probes:
    smooth, agreed = read_record(run.smoothness_file), read_record(attribution / AGREEMENT_FILE)
    try:
        return Probes(
            None if smooth is None else float(smooth["smoothness"]),
            None if smooth is None else _straightness(smooth["measurements"].get(attribution.name)),
            None if agreed is None else (min(agreed["correlation"]), max(agreed["difference"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(
            f"{run.smoothness_file} or {attribution / AGREEMENT_FILE} is damaged; remove it and "
            "measure again"
        ) from None


def _straightness(measured: list[list[float]] | None) -> float | None:
    """Of φ of every query with all weight, half of it and none; None if it never changed."""
    if measured is None:
        return None
    halves = [(half - full, last - half) for full, half, last in zip(*measured, strict=True)]
    way = sum(abs(first) + abs(second) for first, second in halves)
    return 1.0 - sum(abs(second - first) for first, second in halves) / way if way else None


def _numerics(run: RunFolder, attribution: str, record: dict[str, Any]) -> Numerics:
    config, history = run.config(), read_history(run)
    norms: dict[int, tuple[float, float, float]] = {}
    for each in history.passes_of(attribution):
        for place, query in enumerate(each.queries):
            by_step = {
                step: value[place]
                for step, value in sorted(each.norms.items())
                if place < len(value) and value[place] is not None
            }
            values = [float(value) for value in by_step.values() if value is not None]
            if values:
                norms[query] = (values[-1], values[0], max(values))
    for query, first in enumerate(record.get("replayed") or ()):
        if first in norms:
            norms[query] = norms[first]
    known = history.reproduced.get(attribution)
    return Numerics(
        config.model.dtype,
        config.training.optimizer.eps_root,
        tuple(config.force),
        record.get("reproduced"),
        None if known is None else known[1],
        tuple(record.get("rounding") or ()),
        tuple(sentence for _, sentence in findings_of(run, record)),
        norms,
    )
