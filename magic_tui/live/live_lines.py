"""The text of the Live screen: the current state, memory and disk, and the events in words."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from engine.runs import events
from engine.runs.events import Phase, RunEvent
from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, standing
from magic_tui.text.cells import fit, join_that_fit, pad, wrap
from magic_tui.text.numbers import bytes_text, counted, loss_text, pace_text
from magic_tui.text.phase_text import UNITS, phase_facts
from magic_tui.text.states import MEANINGS, PHASE_NAMES, sign

if TYPE_CHECKING:
    from engine.runs.run_history import Message, Snapshot

_RUN_NAME_WIDTH = 24
_REASON_LINES = 2
_USAGE_NAME_WIDTH = 8
_FULL, _EMPTY = "█", "░"
_CLOCK_WIDTH = 10
_MESSAGE_LINES = 6
_WORK = {"attribute": "an attribution", "validate": "a validation"}
_ALARMING = (events.Warned, events.Failed, events.Interrupted)


def now_lines(snapshot: "Snapshot", run: View | None, width: int) -> list[Text]:
    """State and phase, then the queue and the pace of steps; at most four lines.

    Without ``run``, only what the journal says about that point of the history.
    """
    if run is None:
        lines = [Text("◷ ", no_wrap=True).append(_position(snapshot))]
    else:
        lines = _state_lines(snapshot, run, width)
    paces = [f"{name} {pace_text(s)}" for name, s in snapshot.step_seconds.items()]
    waiting = _waiting(run) if run is not None else []
    return [*lines, Text(join_that_fit([*waiting, *paces], width, " · "), "dim", no_wrap=True)]


def _position(snapshot: "Snapshot") -> str:
    name = PHASE_NAMES.get(snapshot.phase or "", "nothing yet")
    has_steps = snapshot.phase in (Phase.TRAIN, Phase.REPLAY)
    return f"{name} {snapshot.done}/{snapshot.total}" if has_steps else name


def _state_lines(snapshot: "Snapshot", run: View, width: int) -> list[Text]:
    """Facts that do not fit are left out as wholes; a long sentence goes below."""
    state = str(standing(run)[0])
    head = sign(state).append(f"{fit(one_line(run['name']), _RUN_NAME_WIDTH)} ", "bold")
    room = max(8, width - head.cell_len)
    phase = snapshot.progress
    if phase is not None and state != UNREADABLE and not RunState(state).finished:
        facts = phase_facts(phase.view(moving=RunState(state).at_work))
        return [head.append(join_that_fit([state, *facts], room, " · "))]
    state, words = _state_words(run)
    if cell_len(state) + cell_len(words) <= room:
        return [head.append(state + words)]
    more = wrap(words.lstrip(": "), width - 2, _REASON_LINES)
    return [head.append(state), *(Text("  " + line, no_wrap=True) for line in more)]


def _state_words(run: View) -> tuple[str, str]:
    """The state with its reason."""
    state, reason = standing(run)
    if state == RunState.SUCCEEDED:
        last = run["job"]
        if last is not None and last["state"] == RunState.FAILED:
            what = _job_text(last)
            return str(state), f"; {what} failed: {one_line(last['reason'] or 'see its log')}"
        return str(state), " · 4 shows what helped and harmed" if run["attributions"] else ""
    words = reason or MEANINGS.get(state)
    return str(state), f": {one_line(words)}" if words else ""


def _waiting(run: View) -> list[str]:
    """The attributions and validations that wait for the current job."""
    jobs = [job for job in run["jobs"] if not RunState(job["state"]).settled]
    behind = [_job_text(job) for job in jobs[1:] if job["attribution"] is not None]
    if not behind:
        return []
    first = "the training" if jobs[0]["attribution"] is None else _job_text(jobs[0])
    return [f"{', '.join(behind)} waits behind {first}"]


def _job_text(job: View) -> str:
    """A job by the attribution that it computes or validates."""
    name = str(job["attribution"])
    return f"the validation of {name}" if job["work"] == "validate" else name


def usage_lines(
    snapshot: "Snapshot", run: View | None, engine: View | None, budget: float | None, width: int
) -> Iterator[Text]:
    """Memory and disk, then one line for each device."""
    widths = (width, max(6, min(24, width - 66)))
    limit = snapshot.predicted or budget or (engine or {}).get("memory_total")
    words = [f"{bytes_text(snapshot.memory)} with Python, peak {bytes_text(snapshot.peak)}"]
    if snapshot.predicted is not None:
        words.append(f"predicted {bytes_text(snapshot.predicted)}")
    if budget is not None:
        words.append(f"budget {bytes_text(budget)}")
    if engine is not None:
        total = bytes_text(engine["memory_total"])
        words.append(f"machine {bytes_text(engine['memory_used'])} of {total}")
    yield _usage_line("memory", snapshot.memory, limit, words, widths)
    if run is not None or engine is not None:
        size = None if run is None else run["trajectory_bytes"] + run["scores_bytes"]
        free = None if engine is None else engine["disk_free"]
        words = [f"{bytes_text(size)} of this run", f"{bytes_text(free)} free"]
        whole = None if size is None or free is None else size + free
        yield _usage_line("disk", size, whole, words, widths)
    for device in (engine or {}).get("devices") or ():
        used, total = device["memory_used"], device["memory_total"]
        words = [f"{bytes_text(used)} of {bytes_text(total)}", one_line(device["name"])]
        if device["run"]:
            words.append(f"run {one_line(device['run'])}")
        yield _usage_line(one_line(f"GPU {device['id']}"), used, total, words, widths)


def _usage_line(
    name: str, used: float | None, limit: float | None, words: list[str], widths: tuple[int, int]
) -> Text:
    width, bar_width = widths
    line = Text(no_wrap=True).append(pad(name, _USAGE_NAME_WIDTH), "bold")
    share = min(1.0, used / limit) if used is not None and limit else 0.0
    full = round(share * bar_width)
    style = "color(215)" if share > 0.9 else "color(75)"
    line.append(_FULL * full, style).append(_EMPTY * (bar_width - full), "dim").append("  ")
    return line.append(join_that_fit(words, max(0, width - line.cell_len), " · "))


def message_lines(message: "Message", width: int) -> Iterator[Text]:
    """The time of an event and what happened."""
    clock = time.strftime("%H:%M:%S", time.localtime(message.time))
    style = "color(215)" if isinstance(message.event, _ALARMING) else ""
    for sentence in sentences(message.event):
        lines = wrap(one_line(sentence), max(8, width - _CLOCK_WIDTH), _MESSAGE_LINES)
        for index, line in enumerate(lines):
            head = clock if index == 0 else ""
            yield Text(no_wrap=True).append(head.ljust(_CLOCK_WIDTH), "dim").append(line, style)


def sentences(event: RunEvent) -> Iterator[str]:
    """An event in words; nothing for the events of single steps."""
    sentence = _SENTENCES.get(type(event))
    if sentence is not None:
        yield sentence(event)
    if isinstance(event, events.Started):
        yield from (f"! {warning}" for warning in event.warnings)


def _started(event: events.Started) -> str:
    again = f", attempt {event.attempt}" if event.attempt > 1 else ""
    return f"{_WORK.get(event.work, 'the run')} began{again} (process {event.pid})"


def _resumed(event: events.Resumed) -> str:
    name, done = PHASE_NAMES.get(event.phase, event.phase), counted(event.done, "step")
    return f"{name} resumed at step {event.step}, {done} done before"


def _phase(event: events.PhaseStarted) -> str:
    name, unit = PHASE_NAMES.get(event.phase, event.phase), UNITS.get(event.phase)
    return f"{name} {counted(event.total, unit)}" if unit and event.total else name


def _measured(event: events.QueryMeasured) -> str:
    before, after = loss_text(event.loss_before), loss_text(event.loss_after)
    return f"query {event.query}: loss {before} before training, {after} after"


def _pass(event: events.PassStarted) -> str:
    queries = counted(len(event.queries), "query")
    if event.passes > 1:
        return f"replay, pass {event.number + 1} of {event.passes}: {queries} ({event.reason})"
    return f"replay of {queries} together"


def _reproduced(event: events.Reproduced) -> str:
    if event.exact:
        return "the last step, repeated, gave the trained state bit for bit"
    return f"the last step, repeated, differs by {event.difference:.1g} of its norm"


def _submitted(event: events.Submitted) -> str:
    ids = event.jobs or ["none"]
    named = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
    return f"{counted(len(ids), 'job')} on {event.cluster} ({named}), logs in {event.folder}"


def _retrained(event: events.Retrained) -> str:
    return f"retrained without {event.subset}: {counted(event.documents, 'document')}"


def _attributed(event: events.Attributed) -> str:
    return f"attribution {event.attribution} is complete: {counted(event.queries, 'query')}"


def _interrupted(event: events.Interrupted) -> str:
    return "stopped after saving its progress" if event.saved else "stopped without saving"


_SENTENCES: dict[type[RunEvent], Callable[[Any], str]] = {
    events.Started: _started,
    events.Resumed: _resumed,
    events.Warned: lambda event: f"! {event.message}",
    events.Planned: lambda event: f"checkpointing {event.checkpointing}: {event.reason}",
    events.PhaseStarted: _phase,
    events.QueryMeasured: _measured,
    events.PassStarted: _pass,
    events.Reproduced: _reproduced,
    events.Submitted: _submitted,
    events.Retrained: _retrained,
    events.Attributed: _attributed,
    events.Finished: lambda event: "done",
    events.Failed: lambda event: f"✗ {event.message}",
    events.Interrupted: _interrupted,
}
