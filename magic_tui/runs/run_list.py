"""The runs of a folder as a list, newest first."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from engine.evaluation.verdict import kind_text
from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, standing
from magic_tui.runs.run_lines import model_text, run_age, steps_text
from magic_tui.text.cells import fit, pad
from magic_tui.text.numbers import age_text, bytes_text, count_text, duration_text, share_text
from magic_tui.text.states import PHASE_NAMES, sign
from magic_tui.widgets.virtual_list import VirtualList

_STALE_SECONDS = 60.0


@dataclass(frozen=True)
class Column:
    """A column and how wide it is; the wide ones come only where there is room."""

    head: str
    width: int
    right: bool = False


_COLUMNS = (
    Column("name", 16),
    Column("state", 11),
    Column("doing", 17),
    Column("left", 7, True),
    Column("LDS", 8, True),
    Column("age", 6, True),
    Column("scores", 6, True),
    Column("memory", 7, True),
    Column("disk", 7, True),
    Column("steps", 11, True),
    Column("model", 18),
    Column("run", 24),
)


class RunList(VirtualList):
    """Lines of runs; which ones is told with :meth:`show`."""

    runs: Sequence[View] = ()

    def show(self, runs: Sequence[View], marked: str | None) -> None:
        """Show these runs; the cursor stays on the run it is on."""
        here = self.current
        self.runs = runs
        ids = [run["id"] for run in runs]
        self.marked = {ids.index(marked)} if marked in ids else set()
        if here is not None and here["id"] in ids:
            self.cursor = ids.index(here["id"])
        self.reload()

    @property
    def current(self) -> View | None:
        """The run under the cursor."""
        return self.runs[self.cursor] if self.cursor < len(self.runs) else None

    def count(self) -> int:
        """How many runs."""
        return len(self.runs)

    def line(self, index: int, width: int) -> Text:
        """One run."""
        run = self.runs[index]
        columns = _columns_in(width - 2)
        return sign(standing(run)[0]).append_text(_row(_cells(run), columns))


def head_line(width: int) -> Text:
    """The names of the columns."""
    columns = _columns_in(width - 4)
    return Text("    ", "dim").append_text(_row([c.head for c in _COLUMNS], columns))


def heartbeat(run: View) -> str | None:
    """``stale 4 min`` for a run at work that has said nothing for a while."""
    if standing(run)[0] not in (RunState.RUNNING, RunState.PAUSING, RunState.CANCELLING):
        return None
    try:
        silence = time.time() - (Path(run["path"]) / "events.jsonl").stat().st_mtime
    except OSError:
        return None
    return f"silent {age_text(silence)}" if silence > _STALE_SECONDS else None


def _columns_in(width: int) -> list[int]:
    """Indices of the columns that fit, the first ones first."""
    kept, room = [], width + 2
    for index, column in enumerate(_COLUMNS):
        room -= column.width + 2
        if room < 0:
            break
        kept.append(index)
    return kept


def _row(cells: Sequence[str], columns: Sequence[int]) -> Text:
    parts = []
    for index in columns:
        width = _COLUMNS[index].width
        cell = fit(cells[index], width)
        parts.append(cell.rjust(width) if _COLUMNS[index].right else pad(cell, width))
    return Text("  ".join(parts), no_wrap=True)


def _cells(run: View) -> list[str]:
    phase = run["phase"] or {}
    doing, left, state = _doing(run), "", standing(run)[0]
    if phase and state != UNREADABLE and not RunState(state).finished:
        left = duration_text(phase.get("remaining_seconds"))
    known = run["state"] != UNREADABLE or run["created"] is not None
    size = run["trajectory_bytes"] + run["scores_bytes"]
    return [
        one_line(run["name"]) or "–",
        state if state != UNREADABLE else "unknown" if known else "unreadable",
        doing,
        "" if left == "–" else left,
        _lds(run.get("lds")),
        run_age(run),
        str(run["attributions"]),
        bytes_text(run["memory"]),
        bytes_text(size or None),
        steps_text(run),
        model_text(run),
        one_line(run["id"]),
    ]


def _lds(known: tuple[str, float] | None) -> str:
    """As ``0.95@5%``: an LDS says nothing without its share."""
    if known is None:
        return "–"
    text = kind_text(known[0])
    share = f"@{text[3:].replace(' ', '')}" if text.startswith("at ") else ""
    return f"{known[1]:.2f}{share}"


def _doing(run: View) -> str:
    """What it is at, or why it stands."""
    silent = heartbeat(run)
    if silent is not None:
        return silent
    phase, (state, reason) = run["phase"], standing(run)
    if state in (RunState.FAILED, RunState.BLOCKED, RunState.QUEUED, UNREADABLE):
        return one_line(reason or "")
    if phase is None or state == RunState.SUCCEEDED:
        return f"{count_text(run['documents'])} documents" if run["documents"] else ""
    name = PHASE_NAMES.get(phase["phase"], phase["phase"])
    return f"{name} {share_text(phase['done'] / phase['total'])}" if phase["total"] else name
