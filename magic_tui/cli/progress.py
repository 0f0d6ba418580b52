"""The progress of a run on stderr: a bar for each phase on a terminal, else a line every 10 %."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.text import Text

from engine.runs import events
from engine.runs.events import Phase
from engine.runs.run_progress import PhaseProgress, RunProgress
from engine.runs.safe_text import safe_text
from engine.runs.states import RunState
from magic_tui.client.engine import standing
from magic_tui.client.stream import Message
from magic_tui.live.live_lines import sentences
from magic_tui.text.cells import join_that_fit, wrap
from magic_tui.text.numbers import share_text
from magic_tui.text.phase_text import details, extent, summary
from magic_tui.text.states import MEANINGS, PHASE_NAMES

_LINES = 10
"""Lines for each phase where there is no terminal."""
_NAME_WIDTH = 10
_BAR_WIDTH = 20
_REASON_LINES = 3
_WAITING = (RunState.QUEUED, RunState.BLOCKED, RunState.STARTING, RunState.INTERRUPTED)
_ENDING = (RunState.PAUSING, RunState.CANCELLING)


@dataclass(frozen=True)
class Waiting:
    """Replaces the phase while no process works on the run."""

    name: str
    reason: str


class ProgressView:
    """Shows the messages of a run's stream; use as a context manager around it."""

    def __init__(self, console: Console) -> None:
        """Write to ``console``: bars if it is a terminal, plain lines if not."""
        self.console = console
        self._progress = RunProgress()
        self._phase: PhaseProgress | None = None
        """The phase on screen."""
        self._bar: _Bar | None = _Bar(console) if console.is_terminal else None
        self._tenths = 0
        self._printed: set[str] = set()
        self._waiting: Waiting | None = None

    def __enter__(self) -> "ProgressView":
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def add(self, message: Message) -> None:
        """Show one message."""
        if message.kind == "record":
            self._add_record(message.data)
        elif message.kind == "state":
            self._set_state(message.data)
        elif message.kind == "reset":
            self._end_phase(succeeded=False)
            self._progress = RunProgress()
        elif message.kind == "waiting":
            reason = "the engine was stopped; the run continues without it"
            self._set_waiting(Waiting("no engine", reason))

    def _set_state(self, run: dict[str, Any]) -> None:
        state, reason = standing(run)
        if state in _WAITING:
            self._set_waiting(Waiting(str(state), reason or MEANINGS[state]))
            return
        self._set_waiting(None)
        if state in _ENDING:
            self._print_once(f"{state}: {MEANINGS[state]}", "")

    def _set_waiting(self, waiting: Waiting | None) -> None:
        if waiting == self._waiting:
            return
        self._waiting = waiting
        if self._bar is not None:
            self._bar.wait(waiting)
        elif waiting is not None:
            self._print_line(waiting.name, waiting.reason)

    def _add_record(self, record: dict[str, Any]) -> None:
        event = self._progress.add(record)
        current = self._progress.phase
        if isinstance(event, events.Started):
            self._end_phase(succeeded=False)
            self._begin_phase(PhaseProgress(Phase.PREPARE, 0))
        elif isinstance(event, events.PhaseStarted):
            self._end_phase()
            if current is not None:
                self._begin_phase(current)
        elif isinstance(event, events.Attributed | events.Finished):
            self._end_phase()
        elif isinstance(event, events.Failed | events.Interrupted):
            self._end_phase(succeeded=False)
        elif self._phase is not None:
            self._update()
        self._print_event(event)

    def _print_event(self, event: events.RunEvent | None) -> None:
        if isinstance(event, events.Started):
            for warning in event.warnings:
                self._print_once(f"warning: {warning}", "yellow")
        elif isinstance(event, events.Warned):
            self._print_once(f"warning: {event.message}", "yellow")
        elif isinstance(event, events.Planned):
            self._print_line("trajectory", f"{event.checkpointing}: {event.reason}")
        elif isinstance(event, events.Submitted):
            self._print_line("submitted", next(sentences(event)))
        elif isinstance(event, events.Reproduced) and not event.exact:
            self._print_once(
                "warning: repeating the last step did not give the trained state bit for bit; "
                "the scores contain this rounding difference", "yellow"
            )  # fmt: skip

    def _begin_phase(self, phase: PhaseProgress) -> None:
        self._phase, self._tenths = phase, 0
        if self._bar is not None:
            self._bar.begin(phase)

    def _end_phase(self, succeeded: bool = True) -> None:
        phase, self._phase = self._phase, None
        if self._bar is not None:
            self._bar.end()
        if succeeded and phase is not None and phase.done and phase.phase is not Phase.PREPARE:
            self._print_line(PHASE_NAMES[phase.phase], summary(phase), done=True)

    def _update(self) -> None:
        phase = self._phase
        assert phase is not None
        if self._bar is not None:
            self._bar.update(phase)
            return
        tenths = _LINES * phase.done // phase.total if phase.total else 0
        if self._tenths < tenths < _LINES:
            self._tenths = tenths
            share = share_text(phase.done / phase.total)
            facts = "  ".join([share, *extent(phase), *details(phase)])
            self._print_line(PHASE_NAMES[phase.phase], facts)

    def _print_line(self, name: str, facts: str, done: bool = False) -> None:
        line = Text()
        line.append("✓ " if done else "  ", "green")
        line.append(name.ljust(_NAME_WIDTH + 1))
        line.append(safe_text(facts), "" if done else "dim")
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def _print_once(self, sentence: str, style: str) -> None:
        if sentence not in self._printed:
            self._printed.add(sentence)
            self.console.print(
                Text(safe_text(sentence), style), soft_wrap=not self.console.is_terminal
            )


class _Bar:
    """The bar of the current phase; removed when the phase ends."""

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
            PHASE_NAMES[phase.phase],
            total=phase.total or None,
            visible=self._wait is None,
            content=phase,
        )

    def update(self, phase: PhaseProgress) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=phase.done, total=phase.total or None)

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def wait(self, waiting: Waiting | None) -> None:
        """Show a reason in place of the phase; with None, show the phase again."""
        if self._wait is not None:
            self._progress.remove_task(self._wait)
        self._wait = None
        if waiting is not None:
            self._wait = self._progress.add_task(waiting.name, total=None, content=waiting)
        if self._task is not None:
            self._progress.update(self._task, visible=waiting is None)


class _TwoLines(Progress):
    """A bar, and below it as many of the latest figures as fit into the terminal's width."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        indent = " " * (_NAME_WIDTH + 2)
        for task in self.tasks:
            if task.visible:
                for line in _second_lines(task.fields["content"], self.console.width - len(indent)):
                    yield Text(indent + line, "dim", no_wrap=True)


class _Name(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.description).ljust(_NAME_WIDTH - 1), no_wrap=True)


class _Extent(ProgressColumn):
    def render(self, task: Task) -> Text:
        content = task.fields["content"]
        facts = extent(content) if isinstance(content, PhaseProgress) else []
        return Text("  ".join(facts), no_wrap=True)


def _second_lines(content: PhaseProgress | Waiting, width: int) -> list[str]:
    if isinstance(content, Waiting):
        return wrap(safe_text(content.reason), width, _REASON_LINES)
    return [join_that_fit(details(content), width)]
