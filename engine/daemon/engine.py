"""The engine: one queue over any number of runs folders.

It runs only jobs that were submitted to it, or resumed through it. A request about a folder starts
nothing in it, changes nothing in it and is not stored.
"""

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from engine.daemon.admission import Admission
from engine.daemon.desired_state import RunAction, affected_jobs, set_desired_state
from engine.daemon.devices import Devices
from engine.daemon.leases import Leases
from engine.daemon.overview import Overview
from engine.daemon.permission import SHARED, Permission
from engine.daemon.registry import Entry, Registry
from engine.daemon.removal import What, clear, finish_removals, hide, size_of
from engine.daemon.run_index import RunIndex
from engine.daemon.run_monitor import RunMonitor, unreadable
from engine.daemon.scheduler import Scheduler
from engine.daemon.settings import Settings
from engine.daemon.slow_folders import FOLDER_SECONDS, FolderTimeouts, HungError
from engine.runs.api_schema import (
    CodeView,
    EngineView,
    Removed,
    RunView,
    SubmitAttribution,
    SubmitRun,
    SubmitValidation,
)
from engine.runs.errors import ConflictError, MagicError, NotFoundError, RunError
from engine.runs.jobs import jobs_of
from engine.runs.listing import find_run
from engine.runs.loaded_code import code_of
from engine.runs.run_folder import RunFolder
from engine.runs.submission import submit_attribution, submit_run, submit_validation

_REMOVING = "removing"
"""The fact that a removal in a runs folder has begun."""
P = ParamSpec("P")
T = TypeVar("T")


def _with_timeout(
    method: Callable[Concatenate["Engine", Path, P], T],
) -> Callable[Concatenate["Engine", Path, P], T]:
    """Limit the time of a method that reads or writes a run, in case its disk hangs."""

    @functools.wraps(method)
    def limited(self: "Engine", runs_dir: Path, /, *rest: P.args, **more: P.kwargs) -> T:
        path = runs_dir / str(rest[0]) if rest else runs_dir
        return self._timeouts.call(path, lambda: method(self, runs_dir, *rest, **more))

    return limited


class Engine:
    """Every operation of the HTTP interface; thread-safe."""

    def __init__(self, state_folder: Path, settings: Settings) -> None:
        """Store leases and the registry in ``state_folder``."""
        devices = Devices()
        self._leases = Leases(state_folder / "leases", settings.cpu_runs)
        self._registry = Registry(state_folder / "registry.sqlite")
        self._permission = Permission(self._registry)
        self._index = RunIndex(self._permission.unqueued_reason)
        self._admission = Admission(self._leases, devices, settings)
        self._timeouts = FolderTimeouts()
        self._scheduler = Scheduler(
            self._index, self._registry, self._admission, self._permission, self._timeouts
        )
        self._overview = Overview(
            self._index, self._registry, self._leases, devices, self._timeouts,
            settings.disk_floor,
        )  # fmt: skip

    def start(self) -> None:
        """Find the running jobs, finish interrupted removals and start the scheduler."""
        # If the registry was lost, the leases still name the running jobs.
        self._timeouts.for_each(self._leases.holders(), self._enqueue_running)
        folders = {run.parent for run in self._registry.runs}
        for folder in folders.union(self._registry.paths_with_fact(_REMOVING)):
            self._finish_removals(folder)
        self._scheduler.start()

    def stop(self) -> None:
        """Stop the scheduler; running jobs continue."""
        self._scheduler.stop()
        for monitor in self._index.all():
            monitor.close()
        self._registry.close()

    def submit(self, submission: SubmitRun) -> tuple[RunView, bool]:
        """Queue a run durably; returns its view and whether it was created now.

        Raises:
            ConflictError: if there is another run of that id.
        """
        folder = Path(submission.runs_dir)
        return self._timeouts.call(folder, lambda: self._submit(_real(folder), submission))

    def _submit(self, runs: Path, submission: SubmitRun) -> tuple[RunView, bool]:
        run = RunFolder(runs / submission.id)
        with self._scheduler.actions(runs):
            created = not run.path.exists()
            if created:
                if (reason := self._permission.shared(runs)) is not None:
                    raise ConflictError(f"no run can start in {runs}: {reason}")
                # Left by an engine that was killed during this submission.
                shutil.rmtree(runs / f".{submission.id}.new", ignore_errors=True)
                with self._queued(run, 1):
                    submit_run(runs, submission.id, submission.config, submission.environment)
                self._permission.accept_code(submission.config, run)
            else:
                if run.config().digest() != submission.config.digest():
                    raise ConflictError(
                        f"there is a run {submission.id} with another config in {runs}; submit "
                        "this one under a new id"
                    )
                # The submission names the code, so the user accepts it.
                self._permission.accept_code(submission.config, run)
                self._permission.check(run)
                # An engine that was killed may have created the folder and not queued the job.
                self._registry.enqueue([(run.path, 1)])
            monitor = self._index.find(runs, submission.id)
        self._scheduler.wake(monitor)
        return monitor.view(), created

    @_with_timeout
    def attribute(self, runs_dir: Path, run_id: str, submission: SubmitAttribution) -> RunView:
        """Queue an attribution of queries durably.

        Raises:
            NotFoundError: if there is no such run.
            ConflictError: if it has no trajectory and is not training.
        """
        monitor = self._find(runs_dir, run_id)
        with self._scheduler.actions(monitor.folder.path.parent):
            self._refresh(monitor)
            training = any(j.request.work == "run" and not j.state.finished for j in monitor.jobs)
            if not training and not monitor.folder.has_trajectory():
                raise ConflictError(
                    f"run {run_id} has no trajectory to replay: its training did not finish, or "
                    "the trajectory was removed; run the config again with: magic run"
                )
            monitor.folder.config()
            self._permission.check(monitor.folder)
            with self._queued(monitor.folder, len(monitor.jobs) + 1):
                submit_attribution(monitor.folder, submission.request, submission.environment)
        self._scheduler.wake(monitor)
        return monitor.view()

    @_with_timeout
    def validate(self, runs_dir: Path, run_id: str, submission: SubmitValidation) -> RunView:
        """Queue a validation of an attribution durably.

        Raises:
            NotFoundError: if there is no such run.
            UsageError: if it has no such attribution, or that is not complete.
        """
        monitor = self._find(runs_dir, run_id)
        with self._scheduler.actions(monitor.folder.path.parent):
            self._refresh(monitor)
            monitor.folder.config()
            self._permission.check(monitor.folder)
            with self._queued(monitor.folder, len(monitor.jobs) + 1):
                submit_validation(
                    monitor.folder,
                    submission.attribution,
                    submission.request,
                    submission.environment,
                )
        self._scheduler.wake(monitor)
        return monitor.view()

    @_with_timeout
    def act(self, runs_dir: Path, run_id: str, action: RunAction) -> RunView:
        """Pause, resume or cancel the unfinished jobs of a run.

        Raises:
            NotFoundError: if there is no such run.
            ConflictError: if the action does not apply in its present state.
        """
        monitor = self._find(runs_dir, run_id)
        with self._scheduler.actions(monitor.folder.path.parent):
            self._refresh(monitor)
            jobs = affected_jobs(monitor, action)
            if action == "resume":
                self._permission.check(monitor.folder)
            with _explained():
                set_desired_state(jobs, action)
            # Queued only once it counts as unfinished, or the scheduler would dequeue it again.
            monitor.refresh()
            if action == "resume":
                self._registry.enqueue((monitor.folder.path, job.number) for job in jobs)
                for job in jobs:
                    self._admission.reset_failures(job.folder.path)
            self._scheduler.signal_jobs(monitor)
        self._scheduler.wake(monitor)
        return monitor.view()

    def remove(self, runs_dir: Path, run_id: str, what: What) -> Removed:
        """Remove a run, or its trajectory alone.

        Raises:
            NotFoundError: if there is no such run.
            ConflictError: if a job needs it.
        """
        monitor = self._timeouts.call(runs_dir, lambda: self._find(runs_dir, run_id))
        size = size_of(monitor, what)
        runs = monitor.folder.path.parent
        # If this engine is killed, the next one finishes the removal.
        self._registry.set_fact(runs, _REMOVING)
        try:
            with self._scheduler.actions(runs), _explained():
                hidden = hide(monitor, what)
            if what == "run":
                self._registry.forget(monitor.folder.path)
                self._index.remove(monitor)
            removed = clear(hidden, monitor, what, size)
        finally:
            self._registry.clear_fact(runs, _REMOVING)
        self._scheduler.wake()
        return removed

    def code(self, runs_dir: Path, run_id: str, accept: bool = False) -> CodeView:
        """The code that a run loads, which is accepted first if ``accept``.

        Raises:
            NotFoundError: if there is no such run.
        """
        run = self._find(runs_dir, run_id).folder
        config = run.config()
        if accept:
            self._permission.accept_code(config, run)
        return CodeView(code=code_of(config), accepted=self._permission.has_accepted(config, run))

    def allow(self, folder: Path) -> Path:
        """Store that the user accepts that others may write in a folder; returns its real path."""
        folder = _real(folder)
        self._registry.set_fact(folder, SHARED)
        self._scheduler.wake()
        return folder

    def forget(self, folder: Path) -> int:
        """Dequeue all jobs of a folder and delete its facts; returns the number of jobs.

        Running jobs continue.
        """
        return self._registry.forget(_real(folder))

    def runs(self, runs_dir: Path) -> list[RunView]:
        """All runs in a folder, oldest first."""
        monitors = self._timeouts.call(runs_dir, lambda: self._index.runs(_real(runs_dir)))
        by_path = {monitor.folder.path: monitor for monitor in monitors}
        views: dict[Path, RunView] = {}

        def read(path: Path) -> None:
            views[path] = by_path[path].view()

        self._timeouts.for_each(by_path, read, FOLDER_SECONDS)
        return [views.get(p) or unreadable(RunFolder(p), str(HungError(p))) for p in by_path]

    @_with_timeout
    def run(self, runs_dir: Path, run_id: str) -> RunView:
        """One run.

        Raises:
            NotFoundError: if there is no such run.
        """
        return self._find(runs_dir, run_id).view()

    @_with_timeout
    def find(self, runs_dir: Path, selector: str | None) -> RunView:
        """The run of an id, a unique prefix or a name; the latest if None.

        Raises:
            NotFoundError: if none matches.
            ConflictError: if several do.
        """
        folder = _real(runs_dir)
        monitors = {monitor.folder.path: monitor for monitor in self._index.runs(folder)}

        def name(run: RunFolder) -> str | None:
            return monitors[run.path].name() if run.path in monitors else None

        run = find_run(folder, selector, name)
        if run.path not in monitors:
            raise NotFoundError(f"run {run.id} was added or removed just now; try again")
        return monitors[run.path].view()

    def view(self, socket: str) -> EngineView:
        """The engine and its machine."""
        return self._overview.view(socket)

    def changes(self) -> int:
        """A count of changes of any run's view."""
        return self._index.changes

    def _find(self, runs_dir: Path, run_id: str) -> RunMonitor:
        return self._index.find(_real(runs_dir), run_id)

    @contextmanager
    def _queued(self, run: RunFolder, number: int) -> Iterator[None]:
        """Queue a job before the block creates it; dequeue it if the block fails."""
        entry = (run.path, number)
        self._registry.enqueue([entry])
        try:
            with _explained():
                yield
        except BaseException:
            self._registry.dequeue(lambda other: other == entry)
            raise
        # The scheduler may have dequeued it while its folder did not exist.
        self._registry.enqueue([entry])

    def _enqueue_running(self, run: Path) -> None:
        with contextlib.suppress(MagicError, OSError, ValueError, TypeError):
            self._registry.enqueue(_running_jobs(RunFolder(run)))

    def _finish_removals(self, folder: Path) -> None:
        """Finish, in a thread, the removals and submissions of an engine that was killed."""

        def finish() -> None:
            finish_removals(folder)
            self._registry.clear_fact(folder, _REMOVING)

        threading.Thread(target=finish, daemon=True).start()

    @staticmethod
    def _refresh(monitor: RunMonitor) -> None:
        monitor.refresh()
        if monitor.problem is not None:
            raise ConflictError(f"run {monitor.folder.id} cannot be read: {monitor.problem}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn an error of the system into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error.filename or 'the run folder'} cannot be written: {error.strerror}; check "
            "that there is room on its disk and that you may write there"
        ) from None


def _real(folder: Path) -> Path:
    """The real path, so that each run has one path."""
    return Path(os.path.realpath(folder))


def _running_jobs(run: RunFolder) -> list[Entry]:
    """The jobs of a run that have a process alive."""
    jobs = jobs_of(run) if run.path.is_absolute() else []
    return [(run.path, job.number) for job in jobs if any(a.is_held() for a in job.attempts()[-1:])]
