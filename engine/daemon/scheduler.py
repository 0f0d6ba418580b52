"""The loop that brings about what is asked: it starts, stops and counts attempts.

It looks after the runs that have a job in the registry's queue, and after no others. It remembers
nothing that matters: every round looks at what their folders say and does what is missing, so that
an engine that is started anew goes on where another one was killed.
"""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary, WeakSet

from engine.daemon.admission import Admission
from engine.daemon.cleaning import remove_unfinished_attribution
from engine.daemon.job_monitor import JobMonitor, Waiting
from engine.daemon.launch import ask_to_stop, launch
from engine.daemon.leases import Denied
from engine.daemon.permission import Permission
from engine.daemon.queue_order import behind, in_order
from engine.daemon.registry import Registry
from engine.daemon.run_index import RunIndex
from engine.daemon.slow_folders import HungError, Patience
from engine.daemon.views import RunMonitor
from engine.runs.errors import MagicError
from engine.runs.states import DesiredState, RunState

SUPERVISOR_COMMAND = [sys.executable, "-P", "-m", "engine.daemon.supervisor"]
AT_WORK_SECONDS = 0.2
WAITING_SECONDS = 1.0
IDLE_SECONDS = 5.0
RECHECK_SECONDS = 60.0
"""How often everything is read again, for what another program may have changed."""
ASK_AGAIN_SECONDS = 1.0
RETRY_SECONDS = 5.0
"""How long a job waits whose process could not be started."""
_SIGNALS = {DesiredState.PAUSED: signal.SIGTERM, DesiredState.CANCELLED: signal.SIGINT}

log = logging.getLogger(__name__)

_CHANGE_SECONDS = 2.0
"""How long what a user changes in a folder takes at most, as long as its disk answers."""
_BEING_CHANGED = Denied("waits until what is being changed in its folder is done", others=False)


@dataclass
class _Notes:
    """What saves doing a thing twice for a job; nothing is wrong if it is forgotten."""

    alive: bool = False
    asked: DesiredState | None = None
    asked_at: float = 0.0
    cleaned: bool = False
    again_at: float = 0.0
    problem: str = ""


class Scheduler:
    """Owns the thread that starts and stops work.

    Hold the :meth:`actions` of a folder of runs to change what is asked in it.
    """

    def __init__(
        self,
        library: RunIndex,
        registry: Registry,
        admission: Admission,
        permission: Permission,
        patience: Patience,
    ) -> None:
        """Do nothing before :meth:`start`."""
        self._actions: dict[Path, threading.RLock] = {}
        self._permission, self._patience = permission, patience
        self._library, self._registry, self._admission = library, registry, admission
        self._condition = threading.Condition()
        self._woken = self._stopping = False
        self._thread: threading.Thread | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._touched: dict[RunMonitor, None] = {}
        self._notes: WeakKeyDictionary[JobMonitor, _Notes] = WeakKeyDictionary()
        self._seen: WeakSet[RunMonitor] = WeakSet()
        self._complaints: WeakKeyDictionary[RunMonitor, str] = WeakKeyDictionary()
        self._active: list[RunMonitor] = []
        """At work or waiting when last looked at; whoever asks for a view may know better."""
        self._served = self._looked = self._rechecked = -RECHECK_SECONDS

    def actions(self, runs: Path) -> threading.RLock:
        """The lock of a folder of runs: where one hangs, the others go on."""
        return self._actions.setdefault(runs, threading.RLock())

    def start(self) -> None:
        """Begin to schedule."""
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; supervisors go on."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    def wake(self, *touched: RunMonitor) -> None:
        """Look at once, and at these runs in any case."""
        with self._condition:
            self._touched.update(dict.fromkeys(touched))
            self._woken = True
            self._condition.notify_all()

    def ask(self, watch: RunMonitor) -> None:
        """Signal the processes of jobs that should stop."""
        for job in watch.jobs:
            notes, now = self._noted(job), time.monotonic()
            if not job.held or job.desired not in _SIGNALS:
                notes.asked = None
            elif (
                notes.asked is not job.desired or now >= notes.asked_at + ASK_AGAIN_SECONDS
            ) and ask_to_stop(job, _SIGNALS[job.desired]):
                notes.asked, notes.asked_at = job.desired, now

    def round(self) -> float:
        """Do what is missing now; returns the seconds until the next look."""
        self._children = [child for child in self._children if child.poll() is None]
        watches = [watch for watch in self._active if self._was_at_work(watch)]
        before = {watch: _told(watch) for watch in watches}
        watches = self._each(watches, self._follow)
        if self._is_due(watches):
            watches = self._due()
            before = {watch: _told(watch) for watch in watches} | before
            watches = self._each(watches, self._follow)
            self._serve(watches)
            self._active = [watch for watch in watches if watch.at_work or not watch.settled]
        # Of a run that only waits, nothing else can have changed.
        changed = [w for w in watches if w.at_work or _told(w) != before[w]]
        self._each(changed, self._tell)
        if any(watch.at_work for watch in self._active):
            return AT_WORK_SECONDS
        return WAITING_SECONDS if self._active else IDLE_SECONDS

    def _each(
        self, watches: Iterable[RunMonitor], action: Callable[[RunMonitor], None]
    ) -> list[RunMonitor]:
        """Do something with each run; those whose folders answer."""
        by_path = {watch.folder.path: watch for watch in watches}
        self._patience.each(by_path, lambda path: action(by_path[path]))
        hanging = {path for path in by_path if self._patience.is_hanging(path)}
        for path in hanging:
            self._complain(by_path[path], str(HungError(path)))
        return [watch for path, watch in by_path.items() if path not in hanging]

    def _tell(self, watch: RunMonitor) -> None:
        """Count a change of a run's view; one that nobody has seen need not be made for that."""
        if watch.shown:
            watch.view()
        else:
            self._library.changed()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                pause = self.round()
            except Exception:
                log.exception("a round of the scheduler failed; it goes on")
                pause = WAITING_SECONDS
            with self._condition:
                self._condition.wait_for(lambda: self._woken or self._stopping, pause)

    def _was_at_work(self, watch: RunMonitor) -> bool:
        return any(self._noted(job).alive for job in watch.jobs)

    def _is_due(self, at_work: Iterable[RunMonitor]) -> bool:
        """Whether to look at all runs, and not only at those that were at work."""
        now = time.monotonic()
        ended = any(not watch.at_work for watch in at_work)
        if self._woken or ended or now >= self._served + WAITING_SECONDS:
            self._served = now
            return True
        return False

    def _due(self) -> list[RunMonitor]:
        """The runs to look at: those touched, new in the queue, or unsettled now or before."""
        with self._condition:
            touched, self._touched = self._touched, {}
            woken, self._woken = self._woken, False
        now = time.monotonic()
        if recheck := now >= self._rechecked + RECHECK_SECONDS:
            self._rechecked = now
            self._library.recheck()
        if woken or recheck or now >= self._looked + IDLE_SECONDS:
            self._looked = now
            self._look()
        known = self._library.follow(self._registry.runs)
        if not recheck:
            known = [w for w in known if w not in self._seen or w.at_work or not w.settled]
        self._seen.update(known)
        return list(dict.fromkeys([*touched, *self._active, *known]))

    def _look(self) -> None:
        """Take the runs that are gone out of the queue; a disk that is away may come back."""
        gone = set()

        def look(run: Path) -> None:
            if not run.is_dir() and run.parent.is_dir():
                gone.add(run)

        self._patience.each(self._registry.runs, look)
        self._registry.leave(lambda entry: entry[0] in gone)

    def _follow(self, watch: RunMonitor) -> None:
        """Act on what became of the jobs of a run."""
        watch.refresh()
        try:
            self.ask(watch)
            for job in watch.jobs:
                self._follow_job(job)
        except (MagicError, OSError) as error:
            # One folder that is gone, or cannot be read, must not hold up the others.
            self._complain(watch, str(error))
        else:
            self._complaints.pop(watch, None)

    def _complain(self, watch: RunMonitor, problem: str) -> None:
        """Write a problem into the log, once."""
        if self._complaints.get(watch) != problem:
            self._complaints[watch] = problem
            log.warning("cannot look after %s: %s", watch.folder.path, problem)

    def _follow_job(self, job: JobMonitor) -> None:
        notes = self._noted(job)
        ended, notes.alive = notes.alive and not job.held, job.held
        if ended:
            self._admission.note_end(job)
        cancelled = job.state is RunState.CANCELLED
        clean, notes.cleaned = cancelled and not notes.cleaned, cancelled
        if clean:
            remove_unfinished_attribution(job)

    def _serve(self, watches: Iterable[RunMonitor]) -> None:
        """Start what can be started, the first in the queue first."""
        queue = in_order(watches, self._registry)
        self._admission.look()
        waiting: dict[RunMonitor, dict[int, Waiting]] = {watch: {} for watch in watches}
        position, busy = 0, set[Path]()
        for watch, job in queue:
            runs = watch.folder.path.parent
            if runs not in busy and self.actions(runs).acquire(timeout=_CHANGE_SECONDS):
                try:
                    refused = self._try(watch, job)
                finally:
                    self.actions(runs).release()
            else:
                busy.add(runs)
                refused = _BEING_CHANGED
            if refused is not None:
                waiting[watch][job.number] = Waiting(position, refused.reason, refused.others)
                position += 1
        for watch, reasons in waiting.items():
            if watch.waiting != reasons:
                watch.waiting = reasons

    def _try(self, watch: RunMonitor, job: JobMonitor) -> Denied | None:
        """Start a job, or say why not."""
        if (reason := self._permission.not_asked(job)) is not None:
            return Denied(reason, others=True)
        current = watch.current()
        if current is not None and current is not job:
            return Denied(behind(watch, current), others=False)
        if watch.at_work:
            return Denied("waits for the processes of this run to end", others=False)
        notes = self._noted(job)
        if time.monotonic() < notes.again_at:
            return Denied(notes.problem, others=True)
        try:
            allotted = self._admission.admit(job)
            if isinstance(allotted, Denied):
                return allotted
            if (reason := self._permission.refusal(watch.folder)) is not None:
                allotted.give_back()
                return Denied(reason, others=True)
            attempt, child = launch(SUPERVISOR_COMMAND, job.folder, allotted)
        except (MagicError, OSError) as error:
            notes.again_at = time.monotonic() + RETRY_SECONDS
            notes.problem = f"could not be started: {error}; it is tried again"
            self._complain(watch, f"job {job.number} {notes.problem}")
            return Denied(notes.problem, others=True)
        self._children.append(child)
        log.info("started %s as process %d", attempt.path, child.pid)
        watch.refresh()
        notes.alive = True
        return None

    def _noted(self, job: JobMonitor) -> _Notes:
        return self._notes.setdefault(job, _Notes())


def _told(watch: RunMonitor) -> tuple[object, ...]:
    """What a view tells of the jobs of a run that is not at work."""
    return (watch.problem, tuple(job.state for job in watch.jobs), watch.waiting)
