"""The engine: one queue over any number of runs folders.

Only what was submitted to it, or resumed through it, is its business: looking at a folder starts
nothing there, changes nothing there and is not remembered.
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
from engine.daemon.cleaning import finish_removals
from engine.daemon.desired_state import RunAction, affected_jobs, set_desired_state
from engine.daemon.devices import Devices
from engine.daemon.leases import Leases
from engine.daemon.overview import Overview
from engine.daemon.permission import SHARED, Permission
from engine.daemon.registry import Entry, Registry
from engine.daemon.removal import What, clear, hide, size_of
from engine.daemon.run_index import RunIndex
from engine.daemon.scheduler import Scheduler
from engine.daemon.settings import Settings
from engine.daemon.slow_folders import FOLDER_SECONDS, HungError, Patience
from engine.daemon.views import RunMonitor, unreadable
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
"""An engine began to remove something in a runs folder."""
P = ParamSpec("P")
T = TypeVar("T")


def _limited(
    method: Callable[Concatenate["Engine", Path, P], T],
) -> Callable[Concatenate["Engine", Path, P], T]:
    """Have a method that works on a run of a folder give up if its folder does not answer."""

    @functools.wraps(method)
    def limited(self: "Engine", runs_dir: Path, /, *rest: P.args, **more: P.kwargs) -> T:
        path = runs_dir / str(rest[0]) if rest else runs_dir
        return self._patience.do(path, lambda: method(self, runs_dir, *rest, **more))

    return limited


class Engine:
    """Everything the HTTP interface can ask for; safe to call from several threads."""

    def __init__(self, state_folder: Path, settings: Settings) -> None:
        """Keep leases and the registry in ``state_folder``."""
        devices = Devices()
        self._leases = Leases(state_folder / "leases", settings.cpu_runs)
        self._registry = Registry(state_folder / "registry.sqlite")
        self._permission = Permission(self._registry)
        self._library = RunIndex(self._permission.not_asked)
        self._admission = Admission(self._leases, devices, settings)
        self._patience = Patience()
        self._scheduler = Scheduler(
            self._library, self._registry, self._admission, self._permission, self._patience
        )
        self._overview = Overview(
            self._library, self._registry, self._leases, devices, self._patience,
            settings.disk_floor,
        )  # fmt: skip

    def start(self) -> None:
        """Take up the runs that were asked for and begin to schedule."""
        # Of a registry that was lost, the leases still name what is at work.
        self._patience.each(self._leases.holders(), self._take_up)
        folders = {run.parent for run in self._registry.runs}
        for folder in folders.union(self._registry.said_of(_REMOVING)):
            self._tidy(folder)
        self._scheduler.start()

    def stop(self) -> None:
        """End scheduling; runs go on."""
        self._scheduler.stop()
        for watch in self._library.all():
            watch.close()
        self._registry.close()

    def submit(self, wanted: SubmitRun) -> tuple[RunView, bool]:
        """Queue a run durably; returns it and whether it was made now.

        Raises:
            ConflictError: if there is another run of that id.
        """
        given = Path(wanted.runs_dir)
        return self._patience.do(given, lambda: self._submit(_real(given), wanted))

    def _submit(self, runs: Path, wanted: SubmitRun) -> tuple[RunView, bool]:
        run = RunFolder(runs / wanted.id)
        with self._scheduler.actions(runs):
            created = not run.path.exists()
            if created:
                if (reason := self._permission.shared(runs)) is not None:
                    raise ConflictError(f"no run can start in {runs}: {reason}")
                # What an engine left that was killed while it made this very run.
                shutil.rmtree(runs / f".{wanted.id}.new", ignore_errors=True)
                with self._queued(run, 1):
                    submit_run(runs, wanted.id, wanted.config, wanted.environment)
                self._permission.accept_code(wanted.config, run)
            else:
                if run.config().digest() != wanted.config.digest():
                    raise ConflictError(
                        f"there is a run {wanted.id} with another config in {runs}; submit this "
                        "one under a new id"
                    )
                # Whoever submits it brings its code.
                self._permission.accept_code(wanted.config, run)
                self._permission.check(run)
                # An engine that was killed may have made the folder for this very request.
                self._registry.enqueue([(run.path, 1)])
            watch = self._library.find(runs, wanted.id)
        self._scheduler.wake(watch)
        return watch.view(), created

    @_limited
    def attribute(self, runs_dir: Path, run_id: str, wanted: SubmitAttribution) -> RunView:
        """Queue queries of a run's trajectory durably.

        Raises:
            NotFoundError: if there is no such run.
            ConflictError: if it has no trajectory, and none is to be expected.
        """
        watch = self._find(runs_dir, run_id)
        with self._scheduler.actions(watch.folder.path.parent):
            self._readable(watch)
            training = any(j.request.work == "run" and not j.state.finished for j in watch.jobs)
            if not training and not watch.folder.has_trajectory():
                raise ConflictError(
                    f"run {run_id} has no trajectory to ask: its training did not come to its "
                    "end, or the trajectory was removed; run the config again with: magic run"
                )
            watch.folder.config()
            self._permission.check(watch.folder)
            with self._queued(watch.folder, len(watch.jobs) + 1):
                submit_attribution(watch.folder, wanted.asked, wanted.environment)
        self._scheduler.wake(watch)
        return watch.view()

    @_limited
    def validate(self, runs_dir: Path, run_id: str, wanted: SubmitValidation) -> RunView:
        """Queue retrainings that check an attribution durably.

        Raises:
            NotFoundError: if there is no such run.
            UsageError: if it has no such attribution, or that is not complete.
        """
        watch = self._find(runs_dir, run_id)
        with self._scheduler.actions(watch.folder.path.parent):
            self._readable(watch)
            watch.folder.config()
            self._permission.check(watch.folder)
            with self._queued(watch.folder, len(watch.jobs) + 1):
                submit_validation(
                    watch.folder, wanted.attribution, wanted.asked, wanted.environment
                )
        self._scheduler.wake(watch)
        return watch.view()

    @_limited
    def act(self, runs_dir: Path, run_id: str, action: RunAction) -> RunView:
        """Pause, resume or cancel the unfinished jobs of a run.

        Raises:
            NotFoundError: if there is no such run.
            ConflictError: if that makes no sense now.
        """
        watch = self._find(runs_dir, run_id)
        with self._scheduler.actions(watch.folder.path.parent):
            self._readable(watch)
            jobs = affected_jobs(watch, action)
            if action == "resume":
                self._permission.check(watch.folder)
            with _explained():
                set_desired_state(jobs, action)
            if action == "resume":
                self._registry.enqueue((watch.folder.path, job.number) for job in jobs)
                for job in jobs:
                    self._admission.reset_failures(job.folder.path)
            watch.refresh()
            self._scheduler.ask(watch)
        self._scheduler.wake(watch)
        return watch.view()

    def remove(self, runs_dir: Path, run_id: str, what: What) -> Removed:
        """Remove a run, or its trajectory alone.

        Raises:
            NotFoundError: if there is no such run.
            ConflictError: if it is needed.
        """
        watch = self._patience.do(runs_dir, lambda: self._find(runs_dir, run_id))
        size = size_of(watch, what)
        runs = watch.folder.path.parent
        # The next engine finishes it if this one is killed.
        self._registry.say(runs, _REMOVING)
        try:
            with self._scheduler.actions(runs), _explained():
                gone = hide(watch, what)
            if what == "run":
                self._registry.forget(watch.folder.path)
                self._library.forget(watch)
            removed = clear(gone, watch, what, size)
        finally:
            self._registry.take_back(runs, _REMOVING)
        self._scheduler.wake()
        return removed

    def code(self, runs_dir: Path, run_id: str, accept: bool = False) -> CodeView:
        """The code that a run brings, after accepting it if so asked.

        Raises:
            NotFoundError: if there is no such run.
        """
        run = self._find(runs_dir, run_id).folder
        config = run.config()
        if accept:
            self._permission.accept_code(config, run)
        return CodeView(code=code_of(config), accepted=self._permission.has_accepted(config, run))

    def allow(self, folder: Path) -> Path:
        """Remember that the user accepts that others may write in a folder; its true path."""
        folder = _real(folder)
        self._registry.say(folder, SHARED)
        self._scheduler.wake()
        return folder

    def forget(self, folder: Path) -> int:
        """Start nothing in a folder any more that was asked for so far; how many jobs that were.

        What is at work goes on to its end.
        """
        return self._registry.forget(_real(folder))

    def runs(self, runs_dir: Path) -> list[RunView]:
        """All runs in a folder, oldest first."""
        watches = self._patience.do(runs_dir, lambda: self._library.runs(_real(runs_dir)))
        by_path = {watch.folder.path: watch for watch in watches}
        views: dict[Path, RunView] = {}

        def look(path: Path) -> None:
            views[path] = by_path[path].view()

        self._patience.each(by_path, look, FOLDER_SECONDS)
        return [views.get(p) or unreadable(RunFolder(p), str(HungError(p))) for p in by_path]

    @_limited
    def run(self, runs_dir: Path, run_id: str) -> RunView:
        """One run.

        Raises:
            NotFoundError: if there is no such run.
        """
        return self._find(runs_dir, run_id).view()

    @_limited
    def find(self, runs_dir: Path, wanted: str | None) -> RunView:
        """The run of an id, a unique prefix or a name; the latest if left out.

        Raises:
            NotFoundError: if none matches.
            ConflictError: if several do.
        """
        folder = _real(runs_dir)
        watches = {watch.folder.path: watch for watch in self._library.runs(folder)}

        def name(run: RunFolder) -> str | None:
            return watches[run.path].name() if run.path in watches else None

        found = find_run(folder, wanted, name)
        if found.path not in watches:
            raise NotFoundError(f"run {found.id} has just come or gone; ask again")
        return watches[found.path].view()

    def view(self, socket: str) -> EngineView:
        """The engine and its machine."""
        return self._overview.view(socket)

    def changes(self) -> int:
        """Grows whenever any run's view changed."""
        return self._library.changes

    def _find(self, runs_dir: Path, run_id: str) -> RunMonitor:
        return self._library.find(_real(runs_dir), run_id)

    @contextmanager
    def _queued(self, run: RunFolder, number: int) -> Iterator[None]:
        """Make a job that is in the queue from the moment on that it is there, or not at all."""
        entry = (run.path, number)
        self._registry.enqueue([entry])
        try:
            with _explained():
                yield
        except BaseException:
            self._registry.leave(lambda other: other == entry)
            raise
        # The scheduler takes what it does not find out of the queue.
        self._registry.enqueue([entry])

    def _take_up(self, run: Path) -> None:
        with contextlib.suppress(MagicError, OSError, ValueError, TypeError):
            self._registry.enqueue(_held(RunFolder(run)))

    def _tidy(self, folder: Path) -> None:
        """Finish, beside all else, what an engine that was killed had begun to remove or make."""

        def tidy() -> None:
            finish_removals(folder)
            self._registry.take_back(folder, _REMOVING)

        threading.Thread(target=tidy, daemon=True).start()

    @staticmethod
    def _readable(watch: RunMonitor) -> None:
        watch.refresh()
        if watch.problem is not None:
            raise ConflictError(f"run {watch.folder.id} cannot be read: {watch.problem}")


@contextmanager
def _explained() -> Iterator[None]:
    """Give what the system refuses a sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error.filename or 'the run folder'} cannot be written: {error.strerror}; check "
            "that there is room on its disk and that you may write there"
        ) from None


def _real(folder: Path) -> Path:
    """The path that all names of a folder share, so that no run is ever taken for two."""
    return Path(os.path.realpath(folder))


def _held(run: RunFolder) -> list[Entry]:
    """The jobs of a run that have a process alive."""
    jobs = jobs_of(run) if run.path.is_absolute() else []
    return [(run.path, job.number) for job in jobs if any(a.is_held() for a in job.attempts()[-1:])]
