"""Scores, times, sizes and shares as text."""

import math
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def score_text(score: float) -> str:
    """A signed score with four significant digits: ``+1.234e-05``."""
    return f"{score:+.3e}"


def loss_text(loss: float) -> str:
    """A loss with four decimals."""
    return f"{loss:.4f}"


def bytes_text(size: float | None) -> str:
    """A size in decimal units: ``1.2 GB``; a dash if unknown."""
    if size is None:
        return "–"
    power = 0
    while abs(size) >= 999.5 and power < len(_UNITS) - 1:
        size, power = size / 1000, power + 1
    digits = 1 if power and abs(size) < 9.95 else 0
    return f"{size:.{digits}f} {_UNITS[power]}"


def duration_text(seconds: float | None) -> str:
    """A duration: ``0.4 s``, ``12 s``, ``3:05``, ``1:02:03``, ``2 d 4 h``; a dash if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def age_text(seconds: float) -> str:
    """An age in one unit: ``now``, ``5 min``, ``3 h``, ``12 d``."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"


def pace_text(seconds: float) -> str:
    """Seconds per step: ``0.123 s/step``."""
    digits = 3 if seconds < 1 else 2 if seconds < 10 else 1
    return f"{seconds:.{digits}f} s/step"


def share_text(share: float) -> str:
    """A fraction in per cent: ``31 %``, ``0.4 %``."""
    if not math.isfinite(share):
        return "–"
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"


def count_text(count: float) -> str:
    """An integer with thousands separators: ``12,345``."""
    return f"{count:,.0f}"


def in_all(queries: int) -> str:
    """The total after a query's index: indices start at 0, so "of 4" would mislead."""
    return f" · {count_text(queries)} in all"


def derivative_text(check: dict[str, Any]) -> str:
    """How far a run's derivatives are from finite differences."""
    if not check["passed"]:
        return f"{'forced' if check['forced'] else 'refused'}: {check['problem']}"
    return (
        f"{check['error']:.1e} off finite differences in {check['dtype']} (at most "
        f"{check['bound']:.0e}), {check['seconds']:.1f} s"
    )


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 document``, ``3 queries``."""
    if count == 1:
        return f"1 {noun}"
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun[-1] == "s" else "s")
    return f"{count_text(count)} {plural}"
