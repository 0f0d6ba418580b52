"""What ``magic validate`` found, as JSON-ready values, and whether it is good enough."""

import math
from collections.abc import Mapping
from typing import Any

from engine.contract.errors import ExitCode, MagicError
from magic_tui.client.trust import Trust
from magic_tui.client.validation import Points, Validation, mean
from magic_tui.client.verdict import verdict_facts


class UntrustedError(MagicError):
    """The mean LDS is lower than was asked for."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        """Carry what was found, for ``--json``."""
        super().__init__(message)
        self.facts = facts


def check_threshold(facts: dict[str, Any], threshold: float | None) -> None:
    """Return if what was found reaches the threshold, or there is none.

    Raises:
        UntrustedError: if the mean LDS is lower, or not known.
    """
    lds = facts["lds"]
    if threshold is None or (lds is not None and lds >= threshold):
        return
    known = lds is not None and not math.isnan(lds)
    said = f"the mean LDS is {lds:.3f}" if known else "no LDS is known"
    raise UntrustedError(f"{said}, under the threshold {threshold:g}", facts)


def validated_facts(trust: Trust, others: Mapping[str, Validation]) -> dict[str, Any]:
    """LDS, Pearson's correlation and error by kind of subset and by query, and the verdict.

    ``others`` are what baselines made of the same retrainings.
    """
    found = trust.validation
    return {
        "lds": None if found is None else found.lds,
        "interval": None if trust.interval is None else list(trust.interval),
        "subsets": 0 if found is None else found.subsets,
        "kinds": [] if found is None else [kind_facts(found, kind) for kind in found.kinds],
        "queries": [] if found is None else [_query_facts(points) for points in found.points],
        "baselines": {
            method: {"lds": found.lds, "interval": list(found.interval)}
            for method, found in others.items()
        },
        "smoothness": trust.probes.smoothness,
        "straightness": trust.probes.straightness,
        "agreement": None if trust.probes.agreement is None else trust.probes.agreement[0],
        "verdict": verdict_facts(trust.verdict),
        "file": str(trust.file),
    }


def kind_facts(found: Validation, kind: str) -> dict[str, Any]:
    """The figures of one kind of subset, on average over the queries."""
    own = found.of_kind(kind)
    return {
        "kind": kind,
        "subsets": own.subsets,
        "lds": own.lds,
        "interval": own.interval,
        "pearson": mean([points.pearson for points in own.points]),
        "error": mean([points.error for points in own.points]),
    }


def _query_facts(points: Points) -> dict[str, Any]:
    return {
        "query": points.query,
        "subsets": len(points.subsets),
        "lds": points.lds,
        "pearson": points.pearson,
        "error": points.error,
    }
