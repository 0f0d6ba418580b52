"""What ``magic validate`` found, as JSON-ready values, and whether it is good enough."""

from collections.abc import Mapping
from typing import Any

from engine.contract.errors import ExitCode, MagicError
from magic_tui.client.trust import Trust
from magic_tui.client.validation import Points, Validation, mean
from magic_tui.client.verdict import verdict_facts


class UntrustedError(MagicError):
    """The mean LDS is lower than was asked for."""

    exit_code = ExitCode.UNTRUSTED

    @classmethod
    def check(cls, trust: Trust, threshold: float) -> None:
        """Raise it if the LDS does not reach the threshold, or there is none."""
        lds = float("nan") if trust.validation is None else trust.validation.lds
        if not lds >= threshold:
            raise cls(f"the mean LDS is {lds:.3f}, under the threshold {threshold:g}")


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
