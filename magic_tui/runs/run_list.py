"""The list of runs, newest first, and the difference between two configs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from engine.evaluation.verdict import kind_text
from engine.runs.errors import MagicError
from engine.runs.run_folder import RunFolder
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
    """A column and its width; the last columns appear only if they fit."""

    head: str
    width: int
    right: bool = False


_COLUMNS = (
    Column("name", 16),
    Column("state", 11),
    Column("activity", 17),
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
    """Runs, one per line."""

    runs: Sequence[View] = ()

    def update(self, runs: Sequence[View], marked: str | None) -> None:
        """Replace the runs; the cursor stays on its run."""
        current = self.current
        self.runs = runs
        ids = [run["id"] for run in runs]
        self.marked = {ids.index(marked)} if marked in ids else set()
        if current is not None and current["id"] in ids:
            self.cursor = ids.index(current["id"])
        self.reload()

    @property
    def current(self) -> View | None:
        """The run under the cursor."""
        return self.runs[self.cursor] if self.cursor < len(self.runs) else None

    def count(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def line(self, index: int, width: int) -> Text:
        """One run."""
        run = self.runs[index]
        columns = _columns_in(width - 2)
        return sign(standing(run)[0]).append_text(_row(_cells(run), columns))


def head_line(width: int) -> Text:
    """The column names."""
    columns = _columns_in(width - 4)
    return Text("    ", "dim").append_text(_row([c.head for c in _COLUMNS], columns))


def difference_lines(marked: View, run: View, width: int) -> Iterator[Text]:
    """One line per differing field: the marked run's value → this run's value."""
    title = f"{one_line(marked['name'])} (marked) → {one_line(run['name'])} {one_line(run['id'])}"
    yield Text(fit(title, width), "bold")
    try:
        before, after = (RunFolder(Path(view["path"])).config_fields() for view in (marked, run))
    except (MagicError, OSError) as error:
        yield Text(fit(f"! {one_line(str(error))}", width), "color(172)")
        return
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not names:
        yield Text("the same config", "dim")
        return
    room = min(36, max(len(name) for name in names))
    half = max(8, (width - room - 6) // 2)
    for name in names:
        values = [fit(one_line(str(side.get(name, "–"))), half) for side in (before, after)]
        line = Text(no_wrap=True).append(pad(name, room), "dim").append("  ")
        yield line.append(values[0]).append(" → ").append(values[1], "bold")


def heartbeat(run: View) -> str | None:
    """``silent 4 min`` for a running run without recent events."""
    if standing(run)[0] not in (RunState.RUNNING, RunState.PAUSING, RunState.CANCELLING):
        return None
    try:
        silence = time.time() - (Path(run["path"]) / "events.jsonl").stat().st_mtime
    except OSError:
        return None
    return f"silent {age_text(silence)}" if silence > _STALE_SECONDS else None


def _columns_in(width: int) -> list[int]:
    """Indices of the columns that fit."""
    indices, room = [], width + 2
    for index, column in enumerate(_COLUMNS):
        room -= column.width + 2
        if room < 0:
            break
        indices.append(index)
    return indices


def _row(cells: Sequence[str], columns: Sequence[int]) -> Text:
    parts = []
    for index in columns:
        width = _COLUMNS[index].width
        cell = fit(cells[index], width)
        parts.append(cell.rjust(width) if _COLUMNS[index].right else pad(cell, width))
    return Text("  ".join(parts), no_wrap=True)


def _cells(run: View) -> list[str]:
    phase = run["phase"] or {}
    activity, left, state = _activity(run), "", standing(run)[0]
    if phase and state != UNREADABLE and not RunState(state).finished:
        left = duration_text(phase.get("remaining_seconds"))
    known = run["state"] != UNREADABLE or run["created"] is not None
    size = run["trajectory_bytes"] + run["scores_bytes"]
    return [
        one_line(run["name"]) or "–",
        state if state != UNREADABLE else "unknown" if known else "unreadable",
        activity,
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
    """LDS with its subset share: ``0.95@5%``."""
    if known is None:
        return "–"
    text = kind_text(known[0])
    share = f"@{text[3:].replace(' ', '')}" if text.startswith("at ") else ""
    return f"{known[1]:.2f}{share}"


def _activity(run: View) -> str:
    """The current phase, or the reason for the state."""
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
