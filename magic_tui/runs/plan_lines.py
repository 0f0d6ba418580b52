"""The plan of a run as lines of text: sizes, and a table of what every checkpointing costs."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from engine.runs.safe_text import one_line
from magic_tui.text.cells import wrap
from magic_tui.text.numbers import (
    bytes_text,
    count_text,
    counted,
    derivative_text,
    duration_text,
    pace_text,
)

_HEADS = ("trajectory", "disk", "memory", "RAM", "train", "replay")
_WIDTHS = (12, 9, 9, 9, 9, 9)
_RAM = 3
"""Index of the column that only GPU runs have."""
_NOTE_LINES = 4
_PROCESS_NOTE = "memory: peak of the process"
_GPU_NOTE = "memory: peak of the GPU; RAM: peak of the process"


def plan_lines(plan: dict[str, Any], width: int) -> Iterator[Text]:
    """Sizes, a table of checkpointings with the chosen one marked, the reason and the warnings."""
    yield Text(_sizes(plan))
    yield Text(_work(plan))
    if plan.get("derivative"):
        yield from _paragraph(f"derivatives: {derivative_text(plan['derivative'])}", width, "")
    yield Text()
    if plan.get("micro_batch_reason"):
        yield from _paragraph(f"micro-batches: {plan['micro_batch_reason']}", width, "")
        yield Text()
    on_gpu = plan.get("device", "cpu") != "cpu"
    yield Text("    " + _columns(_HEADS, on_gpu), "dim")
    for schedule in plan["schedules"]:
        chosen = schedule["name"] == plan["chosen"]
        yield _schedule_line(schedule, chosen, on_gpu)
        if schedule.get("shortfall"):
            for line in wrap(one_line(schedule["shortfall"]), width - 6, 2):
                yield Text("      " + line, "dim")
    yield Text()
    yield from _paragraph(f"{plan['chosen']}: {plan['reason']}", width, "")
    free = f"free: {bytes_text(plan.get('free_disk'))} disk, "
    free += f"{bytes_text(plan.get('free_memory'))} memory"
    if on_gpu:
        free += f", {bytes_text(plan.get('free_host_memory'))} RAM"
    for note in (free, _GPU_NOTE if on_gpu else _PROCESS_NOTE):
        yield from _paragraph(note, width, "dim")
    for warning in plan.get("warnings") or ():
        yield from _paragraph(f"warning: {warning}", width, "yellow")


def _sizes(plan: dict[str, Any]) -> str:
    return " · ".join(
        (
            _parameters(plan),
            counted(plan["documents"], "document"),
            counted(plan["rows"], "row"),
            counted(plan["steps"], "step"),
        )
    )


def _parameters(plan: dict[str, Any]) -> str:
    trained, frozen = count_text(plan["parameters"]), plan.get("frozen_parameters")
    return f"{trained} parameters" + (f" trained, {count_text(frozen)} frozen" if frozen else "")


def _work(plan: dict[str, Any]) -> str:
    parts = [pace_text(plan["step_seconds"])] if plan.get("step_seconds") is not None else []
    if plan.get("prepare_seconds") is not None:
        parts.append(f"{duration_text(plan['prepare_seconds'])} to prepare")
    if plan.get("queries"):
        parts.append(counted(plan["queries"], "query"))
        parts.append(counted(plan["passes"], "pass") + " of replay")
        parts.append(f"{plan['queries_per_pass']} at once")
    else:
        parts.append("no queries yet: add them later with magic attribute")
    return " · ".join(parts)


def _schedule_line(schedule: dict[str, Any], chosen: bool, on_gpu: bool) -> Text:
    cells = (
        one_line(schedule["name"]),
        bytes_text(schedule["disk_bytes"]),
        bytes_text(schedule["memory_bytes"]),
        bytes_text(schedule.get("host_memory_bytes")),
        duration_text(schedule["train_seconds"]),
        duration_text(schedule["replay_seconds"]),
    )
    mark = "▶" if chosen else " " if schedule["fits"] else "✗"
    style = "bold" if chosen else "" if schedule["fits"] else "dim"
    return Text(f"  {mark} {_columns(cells, on_gpu)}", style, no_wrap=True)


def _columns(cells: tuple[str, ...], on_gpu: bool) -> str:
    columns = [
        column
        for index, column in enumerate(zip(cells, _WIDTHS, strict=True))
        if on_gpu or index != _RAM
    ]
    first, *others = columns
    return first[0].ljust(first[1]) + "".join(cell.rjust(width + 1) for cell, width in others)


def _paragraph(text: str, width: int, style: str) -> Iterator[Text]:
    for line in wrap(one_line(text), width, _NOTE_LINES):
        yield Text(line, style)
