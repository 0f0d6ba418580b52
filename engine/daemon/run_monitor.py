"""The view of one run, computed from its folder and updated when that changes."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from engine.daemon.job_monitor import (
    WAITING,
    JobMonitor,
    Waiting,
    is_reliable,
    modification_times,
    modified_at,
)
from engine.daemon.run_facts import Identity, Sizes, count_documents
from engine.runs.api_schema import JobView, PhaseView, RunView
from engine.runs.errors import MagicError
from engine.runs.jobs import jobs_of
from engine.runs.manifest import MANIFEST, parts_of
from engine.runs.run_folder import RunFolder
from engine.runs.run_progress import JournalFold, RunProgress
from engine.runs.score_store import list_attributions
from engine.runs.states import RunState

UNREADABLE: Literal["unreadable"] = "unreadable"
_NO_JOBS = (
    "it has no jobs and no trajectory, so it was not written by this version of magic; move it to "
    "another folder"
)
_BAD_FILES = (MagicError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""Errors from files that are damaged or were written by another program."""


class RunMonitor:
    """One run; thread-safe."""

    def __init__(
        self,
        path: Path,
        changed: Callable[[], None],
        unqueued_reason: Callable[[JobMonitor], str | None] = lambda job: None,
    ) -> None:
        """Monitor the run in ``path``.

        Args:
            path: the folder of the run.
            changed: called at every change of the view.
            unqueued_reason: returns why the engine does not start a job; None if it does.
        """
        self.folder = RunFolder(path)
        self.jobs: list[JobMonitor] = []
        self.waiting: Mapping[int, Waiting] = {}
        self.problem: str | None = None
        """Why its jobs cannot be read."""
        self._changed, self.unqueued_reason = changed, unqueued_reason
        self._lock = threading.RLock()
        self._view: RunView | None = None
        self._seen: tuple[Mapping[int, Waiting], list[Path], tuple[int, ...]] | None = None
        self._identity: tuple[tuple[int, ...], Identity] | None = None
        self._documents: tuple[int, int | None] = (0, None)
        self._trained: tuple[tuple[int, ...], bool] | None = None
        self._progress = JournalFold(self.folder.events_file, RunProgress)
        self._sizes = Sizes(self.folder)

    @property
    def settled(self) -> bool:
        """Whether its state stays as it is until a user acts."""
        return self.problem is not None or all(job.state.settled for job in self.jobs)

    @property
    def is_quiet(self) -> bool:
        """Whether it is settled and all its processes have exited."""
        return self.settled and not self.at_work

    @property
    def has_view(self) -> bool:
        """Whether its view was ever requested."""
        return self._view is not None

    @property
    def at_work(self) -> bool:
        """Whether a process of it is alive."""
        return any(job.held for job in self.jobs)

    def refresh(self) -> None:
        """Read the state of its jobs."""
        with self._lock:
            try:
                known = {job.number: job for job in self.jobs}
                jobs = [known.get(f.number) or JobMonitor(f) for f in jobs_of(self.folder)]
                for job in jobs:
                    job.refresh()
                self.jobs, self.problem = jobs, None
            except _BAD_FILES as error:
                self.problem = _sentence(self.folder, error)

    def name(self) -> str | None:
        """The name in its config; None if that cannot be read."""
        with self._lock:
            try:
                return self._identify().name
            except _BAD_FILES:
                return None

    def view(self) -> RunView:
        """The view of its present state."""
        with self._lock:
            if self._view is not None and self._is_unchanged():
                return self._view
            self.refresh()
            # Read first, so that a change during the rest is noticed next time.
            watched = self._watched()
            stamp = modification_times(watched)
            try:
                if self.problem is None:
                    view = self._read()
                else:
                    view = unreadable(self.folder, self.problem)
            except _BAD_FILES as error:
                view = unreadable(self.folder, _sentence(self.folder, error))
            if view != self._view:
                self._view = view
                self._changed()
            # A file may become readable without a change of its modification time.
            reliable = view.state != UNREADABLE and is_reliable(stamp)
            self._seen = (self.waiting, watched, stamp) if reliable else None
            return view

    def current(self) -> JobMonitor | None:
        """The first job that is not finished, else the last."""
        unfinished = (job for job in self.jobs if not job.state.finished)
        return next(unfinished, self.jobs[-1] if self.jobs else None)

    def close(self) -> None:
        """Close its journal."""
        with self._lock:
            self._progress.close()

    def _read(self) -> RunView:
        identity = self._identify()
        progress = self._progress.update(keep_open=self.at_work)
        jobs = [_job_view(job, self._waiting(job)) for job in self.jobs]
        self._sizes.update(tuple(job.state for job in jobs), self.at_work and not self.settled)
        current = self.current()
        job = None if current is None else jobs[self.jobs.index(current)]
        if job is None and not self.folder.has_trajectory():
            return unreadable(self.folder, _NO_JOBS)
        state, reason = self._state(jobs)
        over = job is None or job.state.finished
        phase = None
        if progress.phase is not None:
            phase = PhaseView(**progress.phase.view(moving=self.at_work))
        return RunView(
            id=self.folder.id,
            path=str(self.folder.path),
            name=identity.name,
            state=state,
            reason=reason,
            job=job,
            jobs=jobs,
            model=identity.model,
            trust_remote_code=identity.trust_remote_code,
            code=identity.code,
            created=identity.created,
            phase=None if over and state is RunState.SUCCEEDED else phase,
            steps=progress.steps,
            total_steps=progress.total_steps,
            documents=self._count_documents(),
            attributions=len(list_attributions(self.folder.attributions)),
            trajectory_bytes=self._sizes.trajectory,
            scores_bytes=self._sizes.scores,
            memory=progress.memory,
            events=progress.events,
        )

    def _state(self, jobs: list[JobView]) -> tuple[RunState, str | None]:
        """State and reason of the run: those of its training job."""
        training = next((job for job in jobs if job.work == "run"), None)
        if training is None:
            return RunState.SUCCEEDED, None
        lost = training.state in (RunState.FAILED, RunState.CANCELLED)
        if lost and self._is_trained():
            # The training is complete: only the attribution of the config's queries failed.
            return RunState.SUCCEEDED, None
        return training.state, training.reason

    def _is_trained(self) -> bool:
        """Whether the training is complete, also if the trajectory was removed since."""
        run = self.folder
        manifests = [part / MANIFEST for part in parts_of(run.trajectory)]
        stamp = modification_times([run.trajectory, *manifests, run.attributions])
        if self._trained is None or self._trained[0] != stamp:
            removed = not run.trajectory.exists()
            reached = removed and self._progress.fold.is_trained
            attributed = bool(list_attributions(run.attributions))
            self._trained = (stamp, reached or attributed or run.has_trajectory())
        return self._trained[1]

    def _is_unchanged(self) -> bool:
        """Whether nothing has changed since the view was computed, by modification times alone."""
        if self._seen is None or self.at_work:
            return False
        waiting, watched, stamp = self._seen
        return waiting is self.waiting and stamp == modification_times(watched)

    def _watched(self) -> list[Path]:
        """Paths whose modification times show every change of a run that is not running."""
        run = self.folder
        files = [run.config_file, run.events_file, run.documents_file]
        folders = [run.path / "jobs", run.trajectory, run.attributions]
        return [*files, *folders, *(path for job in self.jobs for path in job.watched)]

    def _identify(self) -> Identity:
        """What its config contains, read again only when the file changed."""
        file = self.folder.config_file.stat()
        stamp = (file.st_mtime_ns, file.st_size, file.st_ino)
        if self._identity is None or self._identity[0] != stamp:
            self._identity = (stamp, Identity.read(self.folder))
        return self._identity[1]

    def _waiting(self, job: JobMonitor) -> Waiting | None:
        """Why a job waits: it is not in the queue, or the scheduler's reason."""
        if job.state in WAITING and (reason := self.unqueued_reason(job)) is not None:
            return Waiting(None, reason, blocked=True)
        return self.waiting.get(job.number)

    def _count_documents(self) -> int | None:
        stamp = modified_at(self.folder.documents_file)
        if self._documents[0] != stamp:
            self._documents = (stamp, count_documents(self.folder))
        return self._documents[1]


def _job_view(job: JobMonitor, waiting: Waiting | None) -> JobView:
    state, reason = job.state, job.reason()
    if waiting is not None and state in WAITING:
        if waiting.blocked:
            state = RunState.BLOCKED
        elif state is RunState.BLOCKED:
            state = RunState.QUEUED
        reason = waiting.reason or reason
    return JobView(
        number=job.number,
        work=job.request.work,
        attribution=job.request.attribution,
        state=state,
        reason=reason,
        exit_code=job.exit_code(),
        repeats=job.repeats(),
        attempts=len(job.attempts),
        queue_position=waiting.position if waiting and state in WAITING else None,
        devices=job.devices(),
    )


def unreadable(folder: RunFolder, reason: str) -> RunView:
    """The view of a run that cannot be read."""
    return RunView.blank(folder.id, str(folder.path), UNREADABLE, reason)


def _sentence(folder: RunFolder, error: Exception) -> str:
    if isinstance(error, MagicError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or folder.path}: {error.strerror}; check that it may be read"
    return (
        f"a file in {folder.path / 'jobs'} is damaged ({type(error).__name__}: {error}); restore "
        "it from a backup"
    )
