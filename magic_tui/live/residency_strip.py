"""The step-residency strip: what was trained, which train states are where, how far replay is.

One cell stands for one step or for several; STORE has one more, for the state after the last.
Of several that differ the cell shows the least advanced for TRAIN and REPLAY, and for STORE how
many states are kept.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rich.text import Text

from magic_tui.live.run_history import Snapshot
from magic_tui.text.numbers import count_text

DONE, TO_COME, REBUILDING, CARRIED, CURSOR, ABSENT = "█", "░", "▒", "▓", "◀", "·"
LABEL_WIDTH = 8
_BLUE, _ORANGE, _DIM = "color(75)", "color(215)", "dim"


def strip_lines(moment: Snapshot, first: int, last: int, width: int) -> list[Text]:
    """Three lines for steps ``first`` up to ``last``, of ``width`` cells."""
    tail = _tails(moment)
    # As wide as any text to come: what grows must not move the strip.
    room = width - LABEL_WIDTH - _widest(moment) - 2
    edges = _edges(first, last, room)
    rows = (_train(moment, edges), _store(moment, edges), _replay(moment, edges))
    lines = []
    for name, cells, end in zip(("TRAIN", "STORE", "REPLAY"), rows, tail, strict=True):
        line = Text(no_wrap=True).append(name.ljust(LABEL_WIDTH), "bold")
        for sign, style in cells:
            line.append(sign, style)
        line.append(" " * (room + 1 - len(cells)) + " " + end, _DIM if end == "–" else "")
        lines.append(line)
    return lines


def legend(width: int) -> Text:
    """What the signs mean, as much as fits."""
    parts = (
        ("D", _BLUE, "on disk"), ("R", _ORANGE, "in memory"), ("2", _BLUE, "so many in one cell"),
        (CURSOR, _ORANGE, "cursor"), (CARRIED, _BLUE, "carried"), (REBUILDING, _ORANGE, "rebuilt"),
        (ABSENT, _DIM, "absent, to come"),
    )  # fmt: skip
    line = Text(" " * LABEL_WIDTH, no_wrap=True)
    for sign, style, words in parts:
        if line.cell_len + len(words) + 4 > width:
            break
        line.append(sign, style).append(f" {words}  ", _DIM)
    return line


def _tails(moment: Snapshot) -> tuple[str, str, str]:
    total = count_text(moment.steps)
    disk, held = int(moment.disk.sum()), int(moment.held.sum())
    store = f"{count_text(disk)} D" + (f" {count_text(held)} R" if held else "")
    replay = "–" if moment.cursor is None else f"{count_text(moment.steps - moment.cursor)}/{total}"
    return f"{count_text(moment.trained)}/{total}", store, replay


def _widest(moment: Snapshot) -> int:
    """Cells of the longest text right of the strip at any moment of this run."""
    states = count_text(moment.steps + 1)
    return len(f"{states} D {states} R")


def _edges(first: int, last: int, width: int) -> list[tuple[int, int]]:
    """The steps that each cell stands for; fewer cells than ``width`` if there are fewer steps."""
    count = max(0, last - first)
    if count == 0 or width < 1:
        return []
    if count <= width:
        # Whole cells for a step each: a step is as easy to see as there is room.
        each = width // count
        return [(first + i // each, first + i // each + 1) for i in range(count * each)]
    marks = np.linspace(first, last, width + 1).astype(int).tolist()
    return list(pairwise(marks))


def _train(moment: Snapshot, edges: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(DONE, _BLUE) if stop <= moment.trained else (TO_COME, _DIM) for _, stop in edges]


def _store(moment: Snapshot, edges: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    cells = []
    before: tuple[int, int] | None = None
    for start, stop in edges:
        disk, held = int(moment.disk[start:stop].sum()), int(moment.held[start:stop].sum())
        sign, style = ABSENT, _DIM
        if disk or held:
            sign, style = ("R", _ORANGE) if held else ("D", _BLUE)
            kept = int((moment.disk[start:stop] | moment.held[start:stop]).sum())
            if kept < stop - start and kept > 1:
                sign = str(kept) if kept < 10 else "+"
        if (start, stop) == before and sign in "DR":
            # A wide step is named once.
            sign = " "
        cells.append((sign, style))
        before = (start, stop)
    if edges and edges[-1][1] == moment.steps:
        held, disk = bool(moment.held[-1]), bool(moment.disk[-1])
        cells.append(("R", _ORANGE) if held else ("D", _BLUE) if disk else (ABSENT, _DIM))
    return cells


def _replay(moment: Snapshot, edges: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    cells: list[tuple[str, str]] = []
    cursor = moment.cursor
    for start, stop in edges:
        if cursor is None:
            cells.append((ABSENT, _DIM))
        elif start <= cursor < stop and cursor > 0:
            cells.append((CURSOR, f"bold {_ORANGE}"))
        elif start >= cursor:
            cells.append((CARRIED, _BLUE))
        elif _meets(moment.rebuilding, start, stop):
            cells.append((REBUILDING, _ORANGE))
        else:
            cells.append((ABSENT, _DIM))
    return cells


def _meets(span: tuple[int, int] | None, start: int, stop: int) -> bool:
    return span is not None and span[0] < stop and span[1] >= start
