"""What a run is doing, on stderr: a bar a phase on a terminal, else a line every 10 %."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.text import Text

from engine.runs.events import Event, Phase
from engine.runs.safe_text import safe_text
from engine.runs.states import RunState
from magic_tui.client.engine import standing
from magic_tui.client.stream import Message
from magic_tui.live.event_lines import sentences
from magic_tui.live.phases import PhaseProgress
from magic_tui.text.cells import join_that_fit, wrap
from magic_tui.text.numbers import share_text
from magic_tui.text.states import MEANINGS

_LINES = 10
_NAME_WIDTH = 10
_BAR_WIDTH = 20
_REASON_LINES = 3
_ENDINGS = (Event.ATTRIBUTED, Event.FINISHED, Event.FAILED, Event.INTERRUPTED)
_WAITING = (RunState.QUEUED, RunState.BLOCKED, RunState.STARTING, RunState.INTERRUPTED)
_ENDING = (RunState.PAUSING, RunState.CANCELLING)


@dataclass(frozen=True)
class Waiting:
    """Shown in a phase's place while none is at work."""

    name: str
    reason: str


class ProgressView:
    """Shows what a stream of events says as it comes; use as a context manager around it."""

    def __init__(self, console: Console) -> None:
        """Write to ``console``: bars if it is a terminal, plain lines if not."""
        self.console = console
        self._phase: PhaseProgress | None = None
        self._bar: _Bar | None = _Bar(console) if console.is_terminal else None
        self._tenths = 0
        self._said: set[str] = set()
        self._left: dict[tuple[str, str | None], PhaseProgress] = {}
        self._waiting: Waiting | None = None

    def __enter__(self) -> "ProgressView":
        """Begin showing."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def take(self, message: Message) -> None:
        """Show one message."""
        if message.kind == "record":
            self._event(message.data)
        elif message.kind == "state":
            self._state(message.data)
        elif message.kind == "reset":
            self._end_phase(well=False)
        elif message.kind == "waiting":
            self._wait(Waiting("no engine", "the engine was stopped; the run goes on without it"))

    def _state(self, run: dict[str, Any]) -> None:
        state, reason = standing(run)
        if state in _WAITING:
            self._wait(Waiting(str(state), reason or MEANINGS[state]))
            return
        self._wait(None)
        if state in _ENDING:
            self._say_once(f"{state}: {MEANINGS[state]}", "")

    def _wait(self, waiting: Waiting | None) -> None:
        if waiting == self._waiting:
            return
        self._waiting = waiting
        if self._bar is not None:
            self._bar.wait(waiting)
        elif waiting is not None:
            self._line(waiting.name, waiting.reason)

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == Event.STARTED:
            # What an attempt before it began and did not end has come to nothing.
            self._end_phase(well=False)
            self._begin_phase({**event, "phase": Phase.PREPARE, "total": 0})
            for warning in event.get("warnings", ()):
                self._say_once(f"warning: {warning}", "yellow")
        elif kind == Event.WARNING:
            self._say_once(f"warning: {event['message']}", "yellow")
        elif kind == Event.PLANNED:
            self._line("trajectory", f"{event['schedule']}: {event['reason']}")
        elif kind == Event.SUBMITTED:
            self._line("submitted", next(sentences(event)))
        elif kind == Event.PHASE:
            self._end_phase()
            self._begin_phase(event)
        elif kind in _ENDINGS:
            self._end_phase(well=kind in (Event.ATTRIBUTED, Event.FINISHED))
        elif self._phase is not None:
            self._phase.take(event)
            self._show()
        if kind == Event.REPRODUCED and not event["exact"]:
            self._say_once(
                "warning: the last step, taken again, did not give the trained state bit for bit; "
                "scores carry that rounding difference", "yellow"
            )  # fmt: skip

    def _begin_phase(self, event: dict[str, Any]) -> None:
        time = event.get("time", 0.0)
        self._phase = PhaseProgress(event["phase"], int(event.get("total") or 0), time, time)
        self._phase.attribution = event.get("attribution")
        left = self._left.pop(self._phase.key, None)
        if left is not None:
            self._phase.go_on_from(left)
        self._tenths = 0
        if self._bar is not None:
            self._bar.begin(self._phase)

    def _end_phase(self, well: bool = True) -> None:
        phase, self._phase = self._phase, None
        if self._bar is not None:
            self._bar.end()
        if phase is None or phase.phase == Phase.PREPARE:
            return
        if not well:
            self._left[phase.key] = phase
        elif phase.done:
            self._line(phase.name, phase.summary(), done=True)

    def _show(self) -> None:
        phase = self._phase
        assert phase is not None
        if self._bar is not None:
            self._bar.show(phase)
            return
        tenths = _LINES * phase.done // phase.total if phase.total else 0
        if self._tenths < tenths < _LINES:
            self._tenths = tenths
            share = share_text(phase.done / phase.total)
            self._line(phase.name, "  ".join([share, *phase.extent(), *phase.details()]))

    def _line(self, name: str, facts: str, done: bool = False) -> None:
        line = Text()
        line.append("✓ " if done else "  ", "green")
        line.append(name.ljust(_NAME_WIDTH + 1))
        line.append(safe_text(facts), "" if done else "dim")
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def _say_once(self, sentence: str, style: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self.console.print(
                Text(safe_text(sentence), style), soft_wrap=not self.console.is_terminal
            )


class _Bar:
    """The bar of the phase that runs; it goes away when the phase has ended."""

    def __init__(self, console: Console) -> None:
        self._progress = _TwoLines(
            SpinnerColumn("dots", style="blue"),
            _Name(),
            BarColumn(_BAR_WIDTH, complete_style="blue", finished_style="blue"),
            _Extent(),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None
        self._wait: TaskID | None = None

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def begin(self, phase: PhaseProgress) -> None:
        self._task = self._progress.add_task(
            phase.name, total=phase.total or None, visible=self._wait is None, shown=phase
        )

    def show(self, phase: PhaseProgress) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=phase.done, total=phase.total or None)

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def wait(self, waiting: Waiting | None) -> None:
        """Show why nothing happens in the phase's place, or the phase again."""
        if self._wait is not None:
            self._progress.remove_task(self._wait)
        self._wait = None
        if waiting is not None:
            self._wait = self._progress.add_task(waiting.name, total=None, shown=waiting)
        if self._task is not None:
            self._progress.update(self._task, visible=waiting is None)


class _TwoLines(Progress):
    """A bar, and below it as many of the latest figures as the terminal has room for."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        indent = " " * (_NAME_WIDTH + 2)
        for task in self.tasks:
            if task.visible:
                for line in _details(task.fields["shown"], self.console.width - len(indent)):
                    yield Text(indent + line, "dim", no_wrap=True)


class _Name(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.description).ljust(_NAME_WIDTH - 1), no_wrap=True)


class _Extent(ProgressColumn):
    def render(self, task: Task) -> Text:
        shown = task.fields["shown"]
        extent = shown.extent() if isinstance(shown, PhaseProgress) else []
        return Text("  ".join(extent), no_wrap=True)


def _details(shown: PhaseProgress | Waiting, width: int) -> list[str]:
    if isinstance(shown, Waiting):
        return wrap(safe_text(shown.reason), width, _REASON_LINES)
    return [join_that_fit(shown.details(), width)]
