"""A list of runs: one line each where there is room, else two."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from engine.contract.events import RunState
from magic_tui.client.summary import UNREADABLE, RunSummary
from magic_tui.render.cells import pad, wrap
from magic_tui.render.numbers import age_text, bytes_text, count_text, counted
from magic_tui.safe_text import one_line

STATES = {
    RunState.SUCCEEDED: ("✓", "green"),
    RunState.RUNNING: ("▶", "blue"),
    RunState.FAILED: ("✗", "color(172)"),
    RunState.INTERRUPTED: ("◼", "color(172)"),
    UNREADABLE: ("?", "color(172)"),
}
_HEADS = (
    *("run", "name", "model"),
    *("steps", "documents", "attributions", "trajectory", "scores", "age"),
)
_LEFT = 3
"""Columns that are aligned to the left; the others hold numbers."""
_GAP = "  "
_NOTE_LINES = 4


def run_lines(runs: Sequence[RunSummary], width: int) -> Iterator[Text]:
    """The runs as lines of at most ``width`` cells."""
    rows = [_cells(run) for run in runs]
    widths = [max(cell_len(text) for text in column) for column in zip(_HEADS, *rows, strict=True)]
    room = width - 2 - sum(widths) - len(_GAP) * (len(widths) - 1) + widths[1] + widths[2]
    if room < 24:
        for run in runs:
            yield from _two_lines(run, width)
        return
    widths[2] = min(widths[2], max(room // 2, room - widths[1]))
    widths[1] = min(widths[1], room - widths[2])
    yield Text("  ").append_text(_row(_HEADS, widths, "dim"))
    for run, row in zip(runs, rows, strict=True):
        yield _sign(run).append_text(_row(row, widths, ""))
        yield from _notes(run.problem or "", width)


def _cells(run: RunSummary) -> tuple[str, ...]:
    if run.problem is not None:
        return (run.id, UNREADABLE, *[""] * (len(_HEADS) - 2))
    return (
        one_line(run.id),
        one_line(run.name),
        _model(run),
        _steps(run),
        "–" if run.documents is None else count_text(run.documents),
        str(run.attributions),
        bytes_text(run.trajectory_bytes),
        bytes_text(run.scores_bytes),
        "–" if run.age is None else age_text(run.age),
    )


def _two_lines(run: RunSummary, width: int) -> Iterator[Text]:
    head = _sign(run).append(one_line(run.id), "bold")
    if run.problem is not None:
        yield head.append(_GAP + UNREADABLE)
        yield from _notes(run.problem, width)
        return
    tail = run.state if run.age is None else f"{run.state} · {age_text(run.age)}"
    room = width - head.cell_len - len(_GAP) * 2 - len(tail)
    yield head.append(_GAP + pad(one_line(run.name), room) + _GAP).append(tail, "dim")
    facts = [_model(run), f"{_steps(run)} steps"]
    if run.documents is not None:
        facts.append(counted(run.documents, "document"))
    facts.append(counted(run.attributions, "attribution"))
    facts.append(f"{bytes_text(run.trajectory_bytes)} trajectory")
    facts.append(f"{bytes_text(run.scores_bytes)} scores")
    yield from _notes(" · ".join(facts), width)


def _notes(text: str, width: int) -> Iterator[Text]:
    for line in wrap(one_line(text), width - 2, _NOTE_LINES):
        yield Text("  " + line, "dim")


def _row(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    padded = [
        pad(cell, width) if index < _LEFT else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return Text(_GAP.join(padded), style, no_wrap=True)


def _sign(run: RunSummary) -> Text:
    sign, style = STATES.get(run.state, STATES[UNREADABLE])
    return Text(no_wrap=True).append(f"{sign} ", style)


def _model(run: RunSummary) -> str:
    """A hub id as it is; of a local folder the last part."""
    model = one_line(run.model)
    return model.rstrip("/").rsplit("/", 1)[-1] if model.startswith("/") else model


def _steps(run: RunSummary) -> str:
    if run.total_steps is None:
        return "–"
    if run.steps == run.total_steps:
        return count_text(run.steps)
    return f"{count_text(run.steps)}/{count_text(run.total_steps)}"
