"""A list of runs: one line for each run if the terminal is wide enough, else two."""

import time
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, standing
from magic_tui.text.cells import fit, pad, wrap
from magic_tui.text.numbers import age_text, bytes_text, count_text, counted
from magic_tui.text.states import sign

_HEADS = (
    *("run", "name", "model", "state"),
    *("steps", "documents", "attributions", "trajectory", "scores", "age"),
)
_LEFT = 4
"""Columns aligned to the left; the others hold numbers."""
_GAP = "  "
_NOTE_LINES = 4


def run_lines(runs: Sequence[View], width: int) -> Iterator[Text]:
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
        yield sign(standing(run)[0]).append_text(_row(row, widths, ""))
        yield from _notes(_reason(run), width)
        yield from _attributions(run, width)


def model_text(run: View) -> str:
    """A hub id, or the last part of a local path."""
    model = one_line(run["model"])
    return model.rstrip("/").rsplit("/", 1)[-1] if model.startswith("/") else model


def steps_text(run: View) -> str:
    """Steps trained, and of how many while there are some to go."""
    if run["total_steps"] is None:
        return "–"
    if run["steps"] == run["total_steps"]:
        return count_text(run["steps"])
    return f"{count_text(run['steps'])}/{count_text(run['total_steps'])}"


def run_age(run: View) -> str:
    """The age of a run; a dash if unknown."""
    created = run["created"]
    return "–" if created is None else age_text(max(0.0, time.time() - created))


def _cells(run: View) -> tuple[str, ...]:
    if run["state"] == UNREADABLE:
        return (one_line(run["id"]), "", "", UNREADABLE, *[""] * (len(_HEADS) - _LEFT))
    return (
        one_line(run["id"]),
        one_line(run["name"]),
        model_text(run),
        standing(run)[0],
        steps_text(run),
        "–" if run["documents"] is None else count_text(run["documents"]),
        str(run["attributions"]),
        bytes_text(run["trajectory_bytes"]),
        bytes_text(run["scores_bytes"]),
        run_age(run),
    )


def _two_lines(run: View, width: int) -> Iterator[Text]:
    state = standing(run)[0]
    head = sign(state).append(one_line(run["id"]), "bold")
    if state == UNREADABLE:
        yield head.append(_GAP + UNREADABLE)
        yield from _notes(_reason(run), width)
        return
    tail = state if run["created"] is None else f"{state} · {run_age(run)}"
    room = width - head.cell_len - len(_GAP) * 2 - len(tail)
    yield head.append(_GAP + pad(one_line(run["name"]), room) + _GAP).append(tail, "dim")
    facts = [model_text(run)]
    if run["total_steps"] is not None:
        facts.append(f"{steps_text(run)} steps")
    if run["documents"] is not None:
        facts.append(counted(run["documents"], "document"))
    facts.append(counted(run["attributions"], "attribution"))
    facts.append(f"{bytes_text(run['trajectory_bytes'])} trajectory")
    facts.append(f"{bytes_text(run['scores_bytes'])} scores")
    yield from _notes(" · ".join(facts), width)
    yield from _notes(_reason(run), width)
    yield from _attributions(run, width)


def queries_text(attribution: View, words: int) -> str:
    """The number of an attribution's queries, and the first words of some."""
    count, texts = attribution["queries"], attribution["texts"]
    if count is None:
        source = attribution["source"]
        return "queries not read yet" if source is None else f"queries of {source}"
    quoted = [f"“{fit(text, words)}”" for text in texts]
    more = " …" if count > len(quoted) else ""
    return f"{counted(count, 'query')}: {' '.join(quoted)}{more}"


def _attributions(run: View, width: int) -> Iterator[Text]:
    """All attributions of a run in one line, the latest first."""
    parts = []
    for each in reversed(run.get("attribution_list") or ()):
        done = each["state"] == RunState.SUCCEEDED
        parts.append(f"{each['attribution']} {queries_text(each, 24) if done else each['state']}")
    if parts:
        yield Text("  " + fit(one_line(" · ".join(parts)), width - 2), "dim", no_wrap=True)


def _reason(run: View) -> str:
    """The reason of a run's state; empty if it succeeded."""
    state, reason = standing(run)
    return "" if state == RunState.SUCCEEDED else reason or ""


def _notes(text: str, width: int) -> Iterator[Text]:
    for line in wrap(one_line(text), width - 2, _NOTE_LINES):
        yield Text("  " + line, "dim")


def _row(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    padded = [
        pad(cell, width) if index < _LEFT else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return Text(_GAP.join(padded), style, no_wrap=True)
