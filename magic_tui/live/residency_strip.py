"""The step-residency strip: trained steps, where each train state is, and the replay cursor.

A cell is one step or several; STORE has one cell more, for the state after the last step. Where
several steps share a cell, TRAIN and REPLAY show the least advanced one, and STORE the number of
states that are stored.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rich.text import Text

from engine.runs.run_history import Snapshot
from magic_tui.text.numbers import count_text

DONE, TO_COME, REBUILDING, REPLAYED, CURSOR, ABSENT = "█", "░", "▒", "▓", "◀", "·"
LABEL_WIDTH = 8
_BLUE, _ORANGE, _DIM = "color(75)", "color(215)", "dim"


def strip_lines(snapshot: Snapshot, first: int, last: int, width: int) -> list[Text]:
    """Three lines for steps ``first`` up to ``last``, of ``width`` cells."""
    tail = _tails(snapshot)
    # Room for the longest text of this run, so that the strip keeps its width.
    room = width - LABEL_WIDTH - _widest(snapshot) - 2
    edges = _edges(first, last, room)
    rows = (_train(snapshot, edges), _store(snapshot, edges), _replay(snapshot, edges))
    lines = []
    for name, cells, end in zip(("TRAIN", "STORE", "REPLAY"), rows, tail, strict=True):
        line = Text(no_wrap=True).append(name.ljust(LABEL_WIDTH), "bold")
        for sign, style in cells:
            line.append(sign, style)
        line.append(" " * (room + 1 - len(cells)) + " " + end, _DIM if end == "–" else "")
        lines.append(line)
    return lines


def legend(width: int) -> Text:
    """The meaning of the signs, as many as fit."""
    parts = (
        ("D", _BLUE, "on disk"), ("R", _ORANGE, "in memory"), ("2", _BLUE, "states in one cell"),
        (CURSOR, _ORANGE, "cursor"), (REPLAYED, _BLUE, "replayed"),
        (REBUILDING, _ORANGE, "rebuilt"), (ABSENT, _DIM, "absent, to come"),
    )  # fmt: skip
    line = Text(" " * LABEL_WIDTH, no_wrap=True)
    for sign, style, words in parts:
        if line.cell_len + len(words) + 4 > width:
            break
        line.append(sign, style).append(f" {words}  ", _DIM)
    return line


def _tails(snapshot: Snapshot) -> tuple[str, str, str]:
    total = count_text(snapshot.steps)
    disk, held = int(snapshot.disk.sum()), int(snapshot.held.sum())
    store = f"{count_text(disk)} D" + (f" {count_text(held)} R" if held else "")
    replay = (
        "–"
        if snapshot.cursor is None
        else f"{count_text(snapshot.steps - snapshot.cursor)}/{total}"
    )
    return f"{count_text(snapshot.trained)}/{total}", store, replay


def _widest(snapshot: Snapshot) -> int:
    """Cells of the longest text at the right of the strip in any snapshot of this run."""
    states = count_text(snapshot.steps + 1)
    return len(f"{states} D {states} R")


def _edges(first: int, last: int, width: int) -> list[tuple[int, int]]:
    """The half-open range of steps of each cell."""
    count = max(0, last - first)
    if count == 0 or width < 1:
        return []
    if count <= width:
        # Each step is as many whole cells wide as there is room for.
        each = width // count
        return [(first + i // each, first + i // each + 1) for i in range(count * each)]
    marks = np.linspace(first, last, width + 1).astype(int).tolist()
    return list(pairwise(marks))


def _train(snapshot: Snapshot, edges: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(DONE, _BLUE) if stop <= snapshot.trained else (TO_COME, _DIM) for _, stop in edges]


def _store(snapshot: Snapshot, edges: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    cells = []
    before: tuple[int, int] | None = None
    for start, stop in edges:
        disk, held = int(snapshot.disk[start:stop].sum()), int(snapshot.held[start:stop].sum())
        sign, style = ABSENT, _DIM
        if disk or held:
            sign, style = ("R", _ORANGE) if held else ("D", _BLUE)
            stored = int((snapshot.disk[start:stop] | snapshot.held[start:stop]).sum())
            if 1 < stored < stop - start:
                sign = str(stored) if stored < 10 else "+"
        if (start, stop) == before and sign in "DR":
            # A step that is several cells wide has one letter.
            sign = " "
        cells.append((sign, style))
        before = (start, stop)
    if edges and edges[-1][1] == snapshot.steps:
        held, disk = bool(snapshot.held[-1]), bool(snapshot.disk[-1])
        cells.append(("R", _ORANGE) if held else ("D", _BLUE) if disk else (ABSENT, _DIM))
    return cells


def _replay(snapshot: Snapshot, edges: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    cells: list[tuple[str, str]] = []
    cursor = snapshot.cursor
    for start, stop in edges:
        if cursor is None:
            cells.append((ABSENT, _DIM))
        elif start <= cursor < stop and cursor > 0:
            cells.append((CURSOR, f"bold {_ORANGE}"))
        elif start >= cursor:
            cells.append((REPLAYED, _BLUE))
        elif _meets(snapshot.rebuilding, start, stop):
            cells.append((REBUILDING, _ORANGE))
        else:
            cells.append((ABSENT, _DIM))
    return cells


def _meets(span: tuple[int, int] | None, start: int, stop: int) -> bool:
    return span is not None and span[0] < stop and span[1] >= start
