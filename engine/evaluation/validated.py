"""What ``magic validate`` found, as JSON-ready values, and whether it is good enough."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.evaluation.lds_index import kind_text
from engine.evaluation.predictions import Points, Validation, mean
from engine.evaluation.trust import Trust
from engine.evaluation.verdict import verdict_facts
from engine.runs.errors import ExitCode, MagicError


class UntrustedError(MagicError):
    """The LDS of a kind of subsets is lower than was asked for."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        """Carry what was found, for ``--json``."""
        super().__init__(message)
        self.facts = facts


def check_threshold(
    facts: dict[str, Any], threshold: float | None, kinds: Sequence[str] = ()
) -> None:
    """Return if the LDS of every kind of subsets reaches the threshold, or there is none.

    Args:
        facts: those of :func:`validated_facts`.
        threshold: the lowest mean LDS over queries that is good enough.
        kinds: those that have to reach it; all that have an LDS if left out.

    Raises:
        UntrustedError: if an LDS is lower, or not known.
    """
    if threshold is None:
        return
    known = {each["kind"]: each["lds"] for each in facts["kinds"]}
    for kind in kinds or facts["ranked"] or ("",):
        lds = known.get(kind, math.nan)
        if lds >= threshold:
            continue
        where = kind_text(kind) and f" {kind_text(kind)}"
        said = f"no LDS{where} is known" if math.isnan(lds) else f"the LDS{where} is {lds:.3f}"
        raise UntrustedError(f"{said}, under the threshold {threshold:g}", facts)


def validated_facts(trust: Trust, others: Mapping[str, Validation]) -> dict[str, Any]:
    """LDS, Pearson's correlation and error by kind of subset and by query, and the verdict.

    ``lds`` is that of the kind ``lds_of``, which decides the verdict; ``ranked`` are the kinds
    whose LDS counts. ``others`` are what baselines made of the same retrainings.
    """
    found = trust.validation
    kind, deciding = (None if found is None else found.deciding) or (None, None)
    return {
        "lds": None if deciding is None else deciding.lds,
        "lds_of": kind,
        "interval": None if deciding is None else list(deciding.interval),
        "subsets": 0 if found is None else found.subsets,
        "ranked": [] if found is None else list(found.ranked),
        "kinds": [] if found is None else _kinds(found),
        "queries": [] if found is None else [_query_facts(points) for points in found.points],
        "baselines": {
            method: {"kinds": [kind_facts(other, each) for each in other.ranked]}
            for method, other in others.items()
        },
        "smoothness": trust.probes.smoothness,
        "straightness": trust.probes.straightness,
        "agreement": None if trust.probes.agreement is None else trust.probes.agreement[0],
        "verdict": verdict_facts(trust.verdict),
        "file": str(trust.file),
    }


def kind_facts(found: Validation, kind: str) -> dict[str, Any]:
    """The figures of one kind of subset, on average over the queries."""
    own = found.by_kind[kind]
    return {
        "kind": kind,
        "subsets": own.subsets,
        "lds": own.lds,
        "interval": list(own.interval),
        "pearson": mean([points.pearson for points in own.points]),
        "error": mean([points.error for points in own.points]),
        "spread": mean([points.spread for points in own.points]),
    }


def _kinds(found: Validation) -> list[dict[str, Any]]:
    return [kind_facts(found, kind) for kind in found.kinds]


def _query_facts(points: Points) -> dict[str, Any]:
    return {"query": points.query, "kinds": list(map(points_facts, points.by_kind))}


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
