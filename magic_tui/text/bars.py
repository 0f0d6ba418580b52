"""Signed bars around a centre line: helpful (negative) to the left, harmful to the right."""

import math

HELPFUL, HARMFUL = "color(33)", "color(172)"
CENTRE = "│"
_FULL, _LEFT_HALF, _RIGHT_HALF = "█", "▐", "▌"


def signed_bar(value: float, largest: float, half_width: int) -> tuple[str, str]:
    """The parts left and right of the centre line, each ``half_width`` cells wide.

    ``largest`` fills ``half_width`` cells; a value other than zero shows at least half a cell.
    """
    halves = _half_cells(abs(value), largest, half_width)
    full, half = divmod(halves, 2)
    if value < 0:
        return (_LEFT_HALF * half + _FULL * full).rjust(half_width), " " * half_width
    return " " * half_width, (_FULL * full + _RIGHT_HALF * half).ljust(half_width)


def _half_cells(size: float, largest: float, half_width: int) -> int:
    if math.isnan(size) or size == 0 or not largest > 0:
        return 0
    if not math.isfinite(largest):
        return 2 * half_width if math.isinf(size) else 1
    return max(1, min(2 * half_width, round(2 * half_width * size / largest)))
