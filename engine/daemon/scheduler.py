"""The scheduler: a thread that starts, stops and counts attempts.

It works on the runs with a job in the registry's queue only. Every round reads the state of their
folders and does what is missing, so that an engine that is restarted continues the work of one that
was killed.
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
from engine.daemon.job_monitor import WAITING, JobMonitor, Waiting
from engine.daemon.leases import Denied
from engine.daemon.permission import Permission
from engine.daemon.processes import launch, signal_supervisor
from engine.daemon.registry import Entry, Registry
from engine.daemon.removal import remove_unfinished_attribution
from engine.daemon.run_index import RunIndex
from engine.daemon.run_monitor import RunMonitor
from engine.daemon.slow_folders import FolderTimeouts, HungError
from engine.runs.errors import MagicError
from engine.runs.states import DesiredState, RunState

SUPERVISOR_COMMAND = [sys.executable, "-P", "-m", "engine.daemon.supervisor"]
AT_WORK_SECONDS = 0.2
WAITING_SECONDS = 1.0
IDLE_SECONDS = 5.0
"""Pauses between rounds: while a job runs, while one waits, and otherwise."""
RECHECK_SECONDS = 60.0
"""How often every run is read again, in case another program changed it."""
SIGNAL_AGAIN_SECONDS = 1.0
RETRY_SECONDS = 5.0
_SIGNALS = {DesiredState.PAUSED: signal.SIGTERM, DesiredState.CANCELLED: signal.SIGINT}
_ACTION_SECONDS = 2.0
"""How long a request may hold the lock of a folder before its jobs are passed over."""
_BEING_CHANGED = Denied("waits until a change in its folder is complete", external=False)

log = logging.getLogger(__name__)


@dataclass
class _Notes:
    """What the scheduler did for a job last; losing it only repeats work."""

    alive: bool = False
    signalled: DesiredState | None = None
    signalled_at: float = 0.0
    cleaned: bool = False
    retry_at: float = 0.0
    problem: str = ""


class Scheduler:
    """Owns the thread that starts and stops work.

    A request that changes what a folder's jobs should do holds :meth:`actions` of that folder.
    """

    def __init__(
        self,
        index: RunIndex,
        registry: Registry,
        admission: Admission,
        permission: Permission,
        timeouts: FolderTimeouts,
    ) -> None:
        """Do nothing before :meth:`start`."""
        self._actions: dict[Path, threading.RLock] = {}
        self._permission, self._timeouts = permission, timeouts
        self._index, self._registry, self._admission = index, registry, admission
        self._condition = threading.Condition()
        self._woken = self._stopping = False
        self._thread: threading.Thread | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._touched: dict[RunMonitor, None] = {}
        self._notes: WeakKeyDictionary[JobMonitor, _Notes] = WeakKeyDictionary()
        self._seen: WeakSet[RunMonitor] = WeakSet()
        self._warnings: WeakKeyDictionary[RunMonitor, str] = WeakKeyDictionary()
        self._active: list[RunMonitor] = []
        """Running or waiting in the last full round; a request may have read a newer state."""
        self._full_round_at = self._existence_checked_at = self._rechecked_at = -RECHECK_SECONDS

    def actions(self, runs: Path) -> threading.RLock:
        """The lock of a folder of runs; if one folder hangs, the others continue."""
        return self._actions.setdefault(runs, threading.RLock())

    def start(self) -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; supervisors keep running."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    def wake(self, *touched: RunMonitor) -> None:
        """Start a round now, which includes these runs."""
        with self._condition:
            self._touched.update(dict.fromkeys(touched))
            self._woken = True
            self._condition.notify_all()

    def signal_jobs(self, monitor: RunMonitor) -> None:
        """Signal the supervisors of running jobs that should be paused or cancelled."""
        for job in monitor.jobs:
            notes, now = self._notes_of(job), time.monotonic()
            if not job.held or job.desired not in _SIGNALS:
                notes.signalled = None
                continue
            due = now >= notes.signalled_at + SIGNAL_AGAIN_SECONDS
            if notes.signalled is job.desired and not due:
                continue
            if signal_supervisor(job.latest, _SIGNALS[job.desired]):
                notes.signalled, notes.signalled_at = job.desired, now

    def round(self) -> float:
        """Do what is missing now; returns the seconds until the next round."""
        self._children = [child for child in self._children if child.poll() is None]
        monitors = [monitor for monitor in self._active if self._was_at_work(monitor)]
        before = {monitor: _summary(monitor) for monitor in monitors}
        monitors = self._for_each(monitors, self._update)
        if self._is_full_round_due(monitors):
            monitors = self._runs_to_update()
            before = {monitor: _summary(monitor) for monitor in monitors} | before
            monitors = self._for_each(monitors, self._update)
            self._start_jobs(monitors)
            self._active = [monitor for monitor in monitors if not monitor.is_quiet]
        # A waiting run can only have changed in what the summary shows.
        changed = [each for each in monitors if each.at_work or _summary(each) != before[each]]
        self._for_each(changed, self._publish)
        if any(monitor.at_work for monitor in self._active):
            return AT_WORK_SECONDS
        return WAITING_SECONDS if self._active else IDLE_SECONDS

    def _loop(self) -> None:
        while not self._stopping:
            try:
                pause = self.round()
            except Exception:
                log.exception("a round of the scheduler failed; the next one follows")
                pause = WAITING_SECONDS
            with self._condition:
                self._condition.wait_for(lambda: self._woken or self._stopping, pause)

    def _for_each(
        self, monitors: Iterable[RunMonitor], action: Callable[[RunMonitor], None]
    ) -> list[RunMonitor]:
        """Call ``action`` for each run; returns the runs whose folders answered."""
        by_path = {monitor.folder.path: monitor for monitor in monitors}
        self._timeouts.for_each(by_path, lambda path: action(by_path[path]))
        hung = {path for path in by_path if self._timeouts.is_hung(path)}
        for path in hung:
            self._warn_once(by_path[path], str(HungError(path)))
        return [monitor for path, monitor in by_path.items() if path not in hung]

    def _publish(self, monitor: RunMonitor) -> None:
        """Count a change of a run's view; a view that was not requested is not computed."""
        if monitor.has_view:
            monitor.view()
        else:
            self._index.changed()

    def _was_at_work(self, monitor: RunMonitor) -> bool:
        return any(self._notes_of(job).alive for job in monitor.jobs)

    def _is_full_round_due(self, at_work: Iterable[RunMonitor]) -> bool:
        """Whether to update all runs, and not only those that were running."""
        now = time.monotonic()
        ended = any(not monitor.at_work for monitor in at_work)
        if self._woken or ended or now >= self._full_round_at + WAITING_SECONDS:
            self._full_round_at = now
            return True
        return False

    def _runs_to_update(self) -> list[RunMonitor]:
        """The runs that were touched, are new in the queue, or are unsettled now or before."""
        with self._condition:
            touched, self._touched = self._touched, {}
            woken, self._woken = self._woken, False
        now = time.monotonic()
        if recheck := now >= self._rechecked_at + RECHECK_SECONDS:
            self._rechecked_at = now
            self._index.recheck()
        if woken or recheck or now >= self._existence_checked_at + IDLE_SECONDS:
            self._existence_checked_at = now
            self._dequeue_removed()
        tracked = self._index.track(self._registry.runs)
        if not recheck:
            tracked = [each for each in tracked if each not in self._seen or not each.is_quiet]
        self._seen.update(tracked)
        return list(dict.fromkeys([*touched, *self._active, *tracked]))

    def _dequeue_removed(self) -> None:
        """Dequeue runs whose folder was removed, unless the whole folder of runs is unmounted."""
        gone = set()

        def check(run: Path) -> None:
            if not run.is_dir() and run.parent.is_dir():
                gone.add(run)

        self._timeouts.for_each(self._registry.runs, check)
        self._registry.dequeue(lambda entry: entry[0] in gone)

    def _update(self, monitor: RunMonitor) -> None:
        """Read the state of a run's jobs, signal those that should stop, clean up after others."""
        monitor.refresh()
        try:
            self.signal_jobs(monitor)
            for job in monitor.jobs:
                self._update_job(job)
        except (MagicError, OSError) as error:
            # A missing or unreadable folder must not delay the others.
            self._warn_once(monitor, str(error))
        else:
            self._warnings.pop(monitor, None)

    def _update_job(self, job: JobMonitor) -> None:
        notes = self._notes_of(job)
        ended, notes.alive = notes.alive and not job.held, job.held
        if ended:
            self._admission.record_end(job)
        cancelled = job.state is RunState.CANCELLED
        clean, notes.cleaned = cancelled and not notes.cleaned, cancelled
        if clean:
            remove_unfinished_attribution(job)

    def _warn_once(self, monitor: RunMonitor, problem: str) -> None:
        """Log a problem unless it is the one logged last."""
        if self._warnings.get(monitor) != problem:
            self._warnings[monitor] = problem
            log.warning("cannot schedule %s: %s", monitor.folder.path, problem)

    def _start_jobs(self, monitors: Iterable[RunMonitor]) -> None:
        """Start the jobs that can start, in the order of the queue."""
        queue = _waiting_jobs(monitors, self._registry)
        self._admission.refresh()
        waiting: dict[RunMonitor, dict[int, Waiting]] = {monitor: {} for monitor in monitors}
        position, busy = 0, set[Path]()
        for monitor, job in queue:
            runs = monitor.folder.path.parent
            if runs not in busy and self.actions(runs).acquire(timeout=_ACTION_SECONDS):
                try:
                    denied = self._start_job(monitor, job)
                finally:
                    self.actions(runs).release()
            else:
                busy.add(runs)
                denied = _BEING_CHANGED
            if denied is not None:
                waiting[monitor][job.number] = Waiting(position, denied.reason, denied.external)
                position += 1
        for monitor, reasons in waiting.items():
            if monitor.waiting != reasons:
                monitor.waiting = reasons

    def _start_job(self, monitor: RunMonitor, job: JobMonitor) -> Denied | None:
        """Start a job, or return why it waits."""
        if (reason := self._permission.unqueued_reason(job)) is not None:
            return Denied(reason, external=True)
        current = monitor.current()
        if current is not None and current is not job:
            return Denied(_behind(monitor, current), external=False)
        if monitor.at_work:
            return Denied("waits for the processes of this run to end", external=False)
        notes = self._notes_of(job)
        if time.monotonic() < notes.retry_at:
            return Denied(notes.problem, external=True)
        try:
            allocation = self._admission.admit(job)
            if isinstance(allocation, Denied):
                return allocation
            if (reason := self._permission.refusal(monitor.folder)) is not None:
                allocation.release()
                return Denied(reason, external=True)
            attempt, child = launch(SUPERVISOR_COMMAND, job.folder, allocation)
        except (MagicError, OSError) as error:
            notes.retry_at = time.monotonic() + RETRY_SECONDS
            notes.problem = f"could not be started: {error}; the engine tries again"
            self._warn_once(monitor, f"job {job.number} {notes.problem}")
            return Denied(notes.problem, external=True)
        self._children.append(child)
        log.info("started %s as process %d", attempt.path, child.pid)
        monitor.refresh()
        notes.alive = True
        return None

    def _notes_of(self, job: JobMonitor) -> _Notes:
        return self._notes.setdefault(job, _Notes())


def _waiting_jobs(
    monitors: Iterable[RunMonitor], registry: Registry
) -> list[tuple[RunMonitor, JobMonitor]]:
    """The waiting jobs of the queue, the first one first; finished jobs are dequeued."""
    jobs = [(each, job) for each in monitors if not each.problem for job in each.jobs]
    by_entry = {(each.folder.path, job.number): job for each, job in jobs}

    def is_finished(entry: Entry) -> bool:
        # Read while the registry is locked: a job that was resumed meanwhile must stay queued.
        return entry in by_entry and by_entry[entry].state.finished

    registry.dequeue(is_finished)
    queue = [
        (position, (each, job))
        for each, job in jobs
        if job.state in WAITING
        and (position := registry.position((each.folder.path, job.number))) is not None
    ]
    return [entry for _, entry in sorted(queue, key=lambda pair: pair[0])]


def _behind(monitor: RunMonitor, current: JobMonitor) -> str:
    """Why a job waits for an earlier one of its run."""
    if current.state is RunState.PAUSED:
        return (
            f"waits for job {current.number} of this run, which is paused; resume it with: "
            f"magic resume {monitor.folder.id}"
        )
    return f"waits for job {current.number} of this run"


def _summary(monitor: RunMonitor) -> tuple[object, ...]:
    """What the view of a run shows of its jobs while none is running."""
    return (monitor.problem, tuple(job.state for job in monitor.jobs), monitor.waiting)
