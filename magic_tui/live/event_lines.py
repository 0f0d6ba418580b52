"""The events of a run told in words, one or more lines each."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.text import Text

from engine.runs.events import Event
from engine.runs.safe_text import one_line
from magic_tui.live.phases import UNITS
from magic_tui.text.cells import wrap
from magic_tui.text.numbers import counted, loss_text
from magic_tui.text.states import PHASE_NAMES

_CLOCK_WIDTH = 10
_MOST_LINES = 6
_WORK = {"attribute": "an attribution", "validate": "a validation"}
_ALARMING = (Event.WARNING, Event.FAILED, Event.INTERRUPTED)


def story_lines(event: dict[str, Any], width: int) -> Iterator[Text]:
    """When it was and what happened."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.get("time") or 0.0))
    style = "color(215)" if event["event"] in _ALARMING else ""
    for words in sentences(event):
        lines = wrap(one_line(words), max(8, width - _CLOCK_WIDTH), _MOST_LINES)
        for index, line in enumerate(lines):
            head = clock if index == 0 else ""
            yield Text(no_wrap=True).append(head.ljust(_CLOCK_WIDTH), "dim").append(line, style)


def sentences(event: dict[str, Any]) -> Iterator[str]:
    """What an event says, in words."""
    kind = event["event"]
    teller = _TELLERS.get(kind)
    if teller is not None:
        yield teller(event)
    if kind == Event.STARTED:
        yield from (f"! {warning}" for warning in event.get("warnings") or ())


def _started(event: dict[str, Any]) -> str:
    attempt = event.get("attempt") or 1
    again = f", attempt {attempt}" if attempt > 1 else ""
    work = _WORK.get(event.get("work") or "", "the run")
    return f"{work} began{again} (process {event.get('pid')})"


def _resumed(event: dict[str, Any]) -> str:
    phase = PHASE_NAMES.get(event["phase"], event["phase"])
    done = counted(int(event.get("done") or 0), "step")
    return f"{phase} goes on at step {event.get('step')}: {done} need not be taken again"


def _phase(event: dict[str, Any]) -> str:
    name = PHASE_NAMES.get(event["phase"], str(event["phase"]))
    total = int(event.get("total") or 0)
    unit = UNITS.get(event["phase"])
    return f"{name} {counted(total, unit)}" if unit and total else name


def _measured(event: dict[str, Any]) -> str:
    before, after = loss_text(event["loss_before"]), loss_text(event["loss_after"])
    return f"query {event['query']}: loss {before} before training, {after} after"


def _pass(event: dict[str, Any]) -> str:
    queries = counted(len(event.get("queries") or ()), "query")
    if (event.get("passes") or 1) > 1:
        place = f"pass {event['number'] + 1} of {event['passes']}"
        return f"replay, {place}: {queries} ({event.get('reason')})"
    return f"replay of {queries} at once"


def _reproduced(event: dict[str, Any]) -> str:
    if event.get("exact"):
        return "the last step, taken again, came out the same bit for bit"
    return f"the last step, taken again, differs by {event.get('difference', 0):.1g} of its norm"


def _submitted(event: dict[str, Any]) -> str:
    ids = event.get("jobs") or ["none"]
    named = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
    where = f"on {event.get('cluster')} ({named}), logs in {event.get('folder')}"
    return f"{counted(len(ids), 'job')} {where}"


def _retrained(event: dict[str, Any]) -> str:
    documents = counted(int(event.get("documents") or 0), "document")
    return f"trained again without {event.get('subset')}: {documents}"


def _attributed(event: dict[str, Any]) -> str:
    queries = counted(int(event.get("queries") or 0), "query")
    return f"attribution {event.get('attribution')} is complete: {queries}"


_TELLERS: dict[str, Callable[[dict[str, Any]], str]] = {
    Event.STARTED: _started,
    Event.RESUMED: _resumed,
    Event.WARNING: lambda event: f"! {event.get('message')}",
    Event.PLANNED: lambda event: f"schedule {event.get('schedule')}: {event.get('reason')}",
    Event.PHASE: _phase,
    Event.MEASURED: _measured,
    Event.PASS: _pass,
    Event.REPRODUCED: _reproduced,
    Event.SUBMITTED: _submitted,
    Event.RETRAINED: _retrained,
    Event.ATTRIBUTED: _attributed,
    Event.FINISHED: lambda event: "done",
    Event.FAILED: lambda event: f"✗ {event.get('message')}",
    Event.INTERRUPTED: lambda event: (
        "stopped, and saved where it was" if event.get("saved") else "stopped without saving"
    ),
}
