"""How far the scores of an attribution can be trusted, gathered from the files of its run."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.evaluation.lds import mean_defined
from engine.evaluation.validation import VALIDATION_FILE, Points, Validation, read_validation
from engine.evaluation.verdict import Facts, Verdict, kind_text, verdict, verdict_facts
from engine.runs.checksummed import read_record
from engine.runs.errors import ExitCode, MagicError, RunError
from engine.runs.run_folder import RunFolder
from engine.runs.run_history import read_history
from engine.runs.score_store import find_attribution, read_completion
from engine.scores.attribution import Attribution
from engine.scores.run_records import findings_of, largest_rounding

AGREEMENT_FILE = "numerical_agreement.json"
Stamp = tuple[int, int] | None
"""Modification time and size of a file; None if there is none."""


@dataclass(frozen=True)
class Numerics:
    """The arithmetic of an attribution; None where nothing was recorded."""

    dtype: str
    eps_root: float
    forced: tuple[str, ...]
    reproduced: bool | None
    """Whether repeating the last training step gave the same bits."""
    difference: float | None
    """Relative difference of the gradients of the repeated step."""
    rounding: tuple[float | None, ...]
    """By query, the estimated relative rounding error of its scores; empty if it is not known."""
    findings: tuple[str, ...]
    """Problems of the training and the replay, though every number is finite."""
    norms: dict[int, tuple[float, float, float]]
    """By query, the norm of the gradient ∂φ/∂s at the last step, at the first, and the largest."""


@dataclass(frozen=True)
class Indicators:
    """Measurements that need at most two retrainings; None where nothing was measured."""

    metasmoothness: float | None
    linearity: float | None
    """How equal the changes of φ over the two halves of a subset's weight are, over all queries."""
    numerical_agreement: tuple[float, float] | None
    """Lowest correlation over queries with a replay in other micro-batches, and the largest
    relative difference."""


@dataclass(frozen=True)
class Trust:
    """Everything on the Trust screen."""

    run: str
    attribution: str
    verdict: Verdict
    validation: Validation | None
    indicators: Indicators
    numerics: Numerics
    queries: int
    folder: Path
    """The attribution's folder."""

    @property
    def file(self) -> Path:
        """The table of retrained subsets, which may not exist yet."""
        return self.folder / VALIDATION_FILE


class LowLdsError(MagicError):
    """The LDS of a kind of subsets is below the threshold, or not known."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        """Carry the facts of :func:`validation_facts` for ``--json``."""
        super().__init__(message)
        self.facts = facts


def read_verdict(run: Path, attribution: str | None) -> Verdict:
    """The verdict on an attribution of the run in folder ``run``, by default on the latest.

    Raises:
        UsageError: if there is no such attribution, or the config cannot be read.
        RunError: if a file is damaged.
    """
    folder = RunFolder(run)
    path = find_attribution(folder.attributions, attribution)
    files = ("complete.json", VALIDATION_FILE, AGREEMENT_FILE)
    of_run = (folder.metasmoothness_file, folder.findings_file)
    stamps = (*(_stamp(path / name) for name in files), *map(_stamp, of_run))
    return _verdict(run, path, stamps)


def read_trust(attribution: Attribution) -> Trust:
    """Everything known about the trust in an attribution.

    Raises:
        UsageError: if the config cannot be read.
        RunError: if a file is damaged.
    """
    run, record = attribution.run, attribution.scores.record or {}
    validation = read_validation(attribution.path)
    indicators = _indicators(run, attribution.path)
    # The intervals take a second. Compute them here, in a thread of the dashboard; they are cached.
    for each in {} if validation is None else validation.ranked.values():
        each.interval  # noqa: B018
    return Trust(
        run.id,
        attribution.id,
        verdict(_facts(run, record, validation, indicators)),
        validation,
        indicators,
        _numerics(run, attribution.id, record),
        attribution.scores.queries,
        attribution.path,
    )


def validation_facts(trust: Trust, baselines: Mapping[str, Validation]) -> dict[str, Any]:
    """LDS, Pearson's correlation and error by kind of subset and by query, as JSON-ready values.

    ``lds`` is the LDS of the kind ``lds_kind``, which decides the verdict; ``ranked`` are the kinds
    that have an LDS. ``baselines`` are other methods' predictions of the same retrainings.
    """
    validation, indicators = trust.validation, trust.indicators
    kind, deciding = (None if validation is None else validation.deciding) or (None, None)
    agreement = indicators.numerical_agreement
    return {
        "lds": None if deciding is None else deciding.lds,
        "lds_kind": kind,
        "interval": None if deciding is None else list(deciding.interval),
        "subsets": 0 if validation is None else validation.subsets,
        "ranked": [] if validation is None else list(validation.ranked),
        "kinds": []
        if validation is None
        else [kind_facts(validation, each) for each in validation.kinds],
        "queries": []
        if validation is None
        else [
            {"query": points.query, "kinds": [points_facts(each) for each in points.by_kind]}
            for points in validation.points
        ],
        "baselines": {
            method: {"kinds": [kind_facts(other, each) for each in other.ranked]}
            for method, other in baselines.items()
        },
        "metasmoothness": indicators.metasmoothness,
        "linearity": indicators.linearity,
        "numerical_agreement": None if agreement is None else agreement[0],
        "verdict": verdict_facts(trust.verdict),
        "file": str(trust.file),
    }


def kind_facts(validation: Validation, kind: str) -> dict[str, Any]:
    """The figures of one kind of subset, as means over the queries."""
    own = validation.by_kind[kind]
    return {
        "kind": kind,
        "subsets": own.subsets,
        "lds": own.lds,
        "interval": list(own.interval),
        "pearson": mean_defined([points.pearson for points in own.points]),
        "error": mean_defined([points.error for points in own.points]),
        "spread": mean_defined([points.spread for points in own.points]),
    }


def points_facts(points: Points) -> dict[str, Any]:
    """The figures of one query and one kind of subset."""
    return {
        "kind": points.kinds[0],
        "subsets": len(points.subsets),
        "lds": points.lds,
        "pearson": points.pearson,
        "error": points.error,
        "spread": points.spread,
    }


def check_threshold(
    facts: dict[str, Any], threshold: float | None, kinds: Sequence[str] = ()
) -> None:
    """Check that the LDS of every kind of subset reaches a threshold.

    Args:
        facts: those of :func:`validation_facts`.
        threshold: the lowest acceptable mean LDS over queries; None checks nothing.
        kinds: the kinds to check; by default all that have an LDS.

    Raises:
        LowLdsError: if an LDS is lower, or not known.
    """
    if threshold is None:
        return
    known = {each["kind"]: each["lds"] for each in facts["kinds"]}
    for kind in kinds or facts["ranked"] or ("",):
        lds = known.get(kind, math.nan)
        if lds >= threshold:
            continue
        where = kind_text(kind) and f" {kind_text(kind)}"
        what = f"no LDS{where} is known" if math.isnan(lds) else f"the LDS{where} is {lds:.3f}"
        raise LowLdsError(f"{what}, under the threshold {threshold:g}", facts)


@functools.lru_cache(maxsize=4)
def _verdict(run: Path, path: Path, stamps: tuple[Stamp, ...]) -> Verdict:
    """The verdict, cached until one of its files changes."""
    folder, record = RunFolder(run), read_completion(path) or {}
    return verdict(_facts(folder, record, read_validation(path), _indicators(folder, path)))


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _facts(
    run: RunFolder, record: dict[str, Any], validation: Validation | None, indicators: Indicators
) -> Facts:
    config = run.config()
    optimizer = config.training.optimizer
    ranked = {} if validation is None else validation.ranked
    kind, deciding = (None if validation is None else validation.deciding) or ("", None)
    constant = {p.query for each in ranked.values() for p in each.points if p.is_constant}
    most = max((each.subsets for each in ranked.values()), default=0)
    agreement = indicators.numerical_agreement
    return Facts(
        lds=None if deciding is None else deciding.lds,
        lds_label=kind_text(kind),
        subsets=most if deciding is None else deciding.subsets,
        constant_queries=len(constant),
        metasmoothness=indicators.metasmoothness,
        linearity=indicators.linearity,
        numerical_agreement=None if agreement is None else agreement[0],
        reproduced=record.get("reproduced"),
        rounding=largest_rounding(record),
        findings=findings_of(run, record),
        derivative=(record.get("derivative") or {}).get("problem", ""),
        optimizer=optimizer.name,
        eps_root=optimizer.eps_root,
        dtype=config.model.dtype,
        forced=tuple(config.force),
    )


def _indicators(run: RunFolder, attribution: Path) -> Indicators:
    smooth = read_record(run.metasmoothness_file)
    agreed = read_record(attribution / AGREEMENT_FILE)
    try:
        return Indicators(
            None if smooth is None else float(smooth["metasmoothness"]),
            None if smooth is None else _linearity(smooth["measurements"].get(attribution.name)),
            None if agreed is None else (min(agreed["correlation"]), max(agreed["difference"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(
            f"{run.metasmoothness_file} or {attribution / AGREEMENT_FILE} is damaged; remove it "
            "and measure again"
        ) from None


def _linearity(measured: list[list[float]] | None) -> float | None:
    """1 − Σ|b − a| / Σ(|a| + |b|) over queries, with a and b the changes of φ over the two halves.

    Args:
        measured: φ of every query at full, half and no weight of a subset, (3, query).

    Returns:
        None if φ was not measured, or never changed.
    """
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
            values = each.norms(place).tolist()
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
        None if known is None else known.difference,
        tuple(record.get("rounding") or ()),
        tuple(sentence for _, sentence in findings_of(run, record)),
        norms,
    )
