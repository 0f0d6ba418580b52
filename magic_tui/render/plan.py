"""What a run would take, as lines of text."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from magic_tui.render.cells import wrap
from magic_tui.render.numbers import bytes_text, count_text, counted, duration_text, pace_text
from magic_tui.safe_text import one_line

_HEADS = ("trajectory", "disk", "memory", "train", "replay")
_WIDTHS = (12, 9, 9, 9, 9)
_NOTE_LINES = 4
_MEMORY_NOTE = "memory comes on top of Python and its libraries, about 400 MB"


def plan_lines(plan: dict[str, Any], width: int) -> Iterator[Text]:
    """Sizes, a table of schedules with the chosen one marked, the reason and the warnings."""
    yield Text(_sizes(plan))
    yield Text(_work(plan))
    yield Text()
    yield Text("    " + _columns(_HEADS), "dim")
    for schedule in plan["schedules"]:
        chosen = schedule["name"] == plan["chosen"]
        yield _schedule_line(schedule, chosen)
        if schedule.get("why_not"):
            for line in wrap(one_line(schedule["why_not"]), width - 6, 2):
                yield Text("      " + line, "dim")
    yield Text()
    yield from _paragraph(f"{plan['chosen']}: {plan['reason']}", width, "")
    free = f"free here: {bytes_text(plan.get('free_disk'))} disk, "
    yield Text(free + f"{bytes_text(plan.get('free_memory'))} memory", "dim")
    for line in wrap(_MEMORY_NOTE, width, _NOTE_LINES):
        yield Text(line, "dim")
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
    if plan.get("queries"):
        parts.append(counted(plan["queries"], "query"))
        passes = counted(plan["passes"], "pass") + " of replay"
        if plan.get("query_tolerance") is not None:
            passes = f"at most {passes}, fewer if the trained model's query gradients are alike"
        parts.append(passes)
        parts.append(f"{plan['queries_per_pass']} at once")
    else:
        parts.append("no queries yet: ask them later with magic attribute")
    return " · ".join(parts)


def _schedule_line(schedule: dict[str, Any], chosen: bool) -> Text:
    cells = (
        one_line(schedule["name"]),
        bytes_text(schedule["disk_bytes"]),
        bytes_text(schedule["memory_bytes"]),
        duration_text(schedule["train_seconds"]),
        duration_text(schedule["replay_seconds"]),
    )
    sign = "▶" if chosen else " " if schedule["fits"] else "✗"
    style = "bold" if chosen else "" if schedule["fits"] else "dim"
    return Text(f"  {sign} {_columns(cells)}", style, no_wrap=True)


def _columns(cells: tuple[str, ...]) -> str:
    first, *others = zip(cells, _WIDTHS, strict=True)
    return first[0].ljust(first[1]) + "".join(cell.rjust(width + 1) for cell, width in others)


def _paragraph(text: str, width: int, style: str) -> Iterator[Text]:
    for line in wrap(one_line(text), width, _NOTE_LINES):
        yield Text(line, style)
