"""The engine as the faces see it: what it can be asked.

Answers stay the plain dictionaries of ``engine.runs.api_schema``: reading its models would take
longer than most verbs do.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from engine.runs.environment import environment_of_a_run
from engine.runs.errors import ExitCode, MagicError, UnreachableError
from engine.runs.paths import runs_folder
from engine.runs.states import RunState, View
from magic_tui.client.http import Answer, BrokenOffError, NobodyError, Question, ask
from magic_tui.client.start import BUSY, reach, reach_or_start, stopped_note

API_VERSION = 1
"""The version of the interface that is spoken here."""
UNREADABLE = "unreadable"
"""The state of a run whose files cannot be read."""
_NOT_FOUND, _CONFLICT = 404, 409
RunAction = Literal["pause", "resume", "cancel"]
_POLL_SECONDS, _LOOK_SECONDS = 25.0, 0.2
_REMOVE_SECONDS, _BUSY_SECONDS = 600.0, 5.0
_MOST_ASKED = 3
STOPPED = (
    "the engine was stopped; runs go on without it; start it with: magic engine start, then ask "
    "again"
)
_RESTING = (RunState.PAUSED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)


class StoppedError(UnreachableError):
    """The engine was stopped on purpose, so that no other one is started."""


class RefusedError(MagicError):
    """The engine refused a request; carries its sentence and exit code."""

    repeated = False
    """Whether it, or an engine before it, may have granted the same request already."""

    def __init__(self, message: str, exit_code: int, status: int = 0) -> None:
        """Keep the engine's own sentence."""
        super().__init__(message)
        self.status = status
        with contextlib.suppress(ValueError):
            self.exit_code = ExitCode(exit_code)


class Engine:
    """The engine at a socket, asked about the runs of one folder."""

    def __init__(self, socket: Path, view: View, runs_dir: Path | None = None) -> None:
        """Speak to the engine at ``socket`` that ``view`` tells of."""
        self.socket = socket
        self.view = view
        self.started = False
        """Whether it was started just now, for this."""
        self.cut_off = False
        """Whether it was stopped before it could answer that it had queued a run."""
        self.runs_dir = str(runs_folder(runs_dir).absolute())

    def submit(self, run_id: str, config: Mapping[str, Any]) -> View:
        """Queue a new run; safe to be asked again with the same id.

        Raises:
            RefusedError: if the engine refuses it.
            UnreachableError: if it was not queued, because the engine was stopped.
        """
        wanted = {
            "id": run_id,
            "runs_dir": self.runs_dir,
            "config": config,
            "environment": environment_of_a_run(os.environ),
        }
        try:
            return self._ask(Question("POST", "/v1/runs", {}, wanted))
        except StoppedError:
            from magic_tui.client.submitted import submitted_after_all

            view = submitted_after_all(self.runs_dir, run_id, config, str(self.view["pid"]))
            self.cut_off = True
            return view
        except UnreachableError as error:
            raise UnreachableError(f"run {run_id}: {error}") from None

    def attribute(self, run_id: str, asked: Mapping[str, Any]) -> View:
        """Queue new queries of a run's trajectory: its last job."""
        wanted = {"request": asked, "environment": environment_of_a_run(os.environ)}
        path = f"/v1/runs/{run_id}/attributions"
        # Asked twice it would be done twice.
        return self._ask(Question("POST", path, self.query(), wanted), again=False)

    def validate(self, run_id: str, attribution: str | None, asked: Mapping[str, Any]) -> View:
        """Queue retrainings that check an attribution of a run: its last job."""
        environment = environment_of_a_run(os.environ)
        wanted = {"attribution": attribution, "request": asked, "environment": environment}
        path = f"/v1/runs/{run_id}/validations"
        # Asked twice it finds everything done, but would stand in the list of jobs twice.
        return self._ask(Question("POST", path, self.query(), wanted), again=False)

    def accepts_code(self, run_id: str) -> bool:
        """Whether the engine may load the code that a run brings."""
        question = Question("GET", f"/v1/runs/{run_id}/code", self.query())
        return bool(self._ask(question)["accepted"])

    def accept_code(self, run_id: str) -> None:
        """Accept the code of a run as it is now."""
        self._ask(Question("POST", f"/v1/runs/{run_id}/code", self.query()))

    def find(self, wanted: str | None) -> View:
        """The run of an id, a unique prefix of one, or a name; the latest if left out."""
        more = {} if wanted is None else {"selector": wanted}
        return self._ask(Question("GET", "/v1/runs/find", self.query(more)))

    def run(self, run_id: str) -> View:
        """One run."""
        return self._ask(Question("GET", f"/v1/runs/{run_id}", self.query()))

    def runs(self) -> list[View]:
        """All runs, oldest first."""
        return list(self._ask(Question("GET", "/v1/runs", self.query()))["runs"])

    def act(self, run_id: str, verb: RunAction) -> View:
        """Ask for a pause, for going on or for an end of all unfinished jobs."""
        try:
            return self._ask(Question("POST", f"/v1/runs/{run_id}/{verb}", self.query()))
        except RefusedError as error:
            if not error.repeated or error.status != _CONFLICT:
                raise
            # The request was granted before, so there is nothing left to do.
            view = self.run(run_id)
            if verb == "resume" and is_resting(view):
                raise
            return view

    def remove(self, run_id: str, what: Literal["run", "trajectory"]) -> View:
        """Remove a run or its trajectory; what that freed, None if nobody counted."""
        query = self.query({"what": what})
        question = Question("DELETE", f"/v1/runs/{run_id}", query, timeout=_REMOVE_SECONDS)
        try:
            return self._ask(question)
        except RefusedError as error:
            if not error.repeated or error.status != _NOT_FOUND:
                raise
            return {"removed": f"{self.runs_dir}/{run_id}", "freed_bytes": None}

    def folder(self, verb: Literal["allow", "forget"]) -> View:
        """Accept that others may write in the folder of the runs, or start nothing there."""
        return self._ask(Question("POST", f"/v1/folders/{verb}", self.query()))

    def wait(self, run_id: str, timeout: float | None = None, job: int | None = None) -> View:
        """The run once a job of it, or all are settled; or as it is at the time-out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            seconds = min(left, _POLL_SECONDS)
            one = {} if job is None else {"job": str(job)}
            query = self.query({"timeout": f"{seconds:.3f}", **one})
            path = f"/v1/runs/{run_id}/wait"
            view = self._ask(Question("GET", path, query, timeout=seconds + 30.0))
            if is_settled(view, job) or (deadline is not None and time.monotonic() >= deadline):
                return view

    def wait_until(self, run_id: str, done: Callable[[View], bool], timeout: float | None) -> View:
        """The run once ``done`` says so, or as it is at the time-out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            view = self.run(run_id)
            if done(view) or (deadline is not None and time.monotonic() >= deadline):
                return view
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> View:
        """End the engine, wait until it has ended, and tell how it was just before.

        Raises:
            UnreachableError: if there is none any more, or it does not end.
        """
        from magic_tui.client.stopping import end_engine

        reached = reach()
        if reached is None:
            raise UnreachableError("there is no engine any more to be stopped")
        self.socket, self.view = reached
        end_engine(self.socket, int(self.view["pid"]))
        return self.view

    def reconnect(self) -> bool:
        """Reach the engine anew; start one unless it was stopped on purpose.

        Returns:
            Whether there is one.
        """
        if stopped_note().exists():
            reached = reach()
            if reached is None:
                return False
        else:
            reached, _ = reach_or_start()
        self.socket, self.view = reached
        check_version(self.view)
        return True

    def query(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """A query that names the folder of the runs."""
        return {"runs_dir": self.runs_dir, **(more or {})}

    def _ask(self, question: Question, again: bool = True) -> View:
        """One answer; asked ``again`` of the next engine if this one ends meanwhile."""
        busy_until = time.monotonic() + _BUSY_SECONDS
        asked = broken = 0
        while True:
            try:
                answer = ask(self.socket, question)
            except BrokenOffError as error:
                broken += 1
                asked += not isinstance(error, NobodyError)
                if broken == _MOST_ASKED or (asked and not again):
                    raise UnreachableError(
                        f"the engine did not answer ({error}); see with magic status whether it "
                        "took the request before asking again"
                    ) from None
                if not self.reconnect():
                    raise StoppedError(STOPPED) from None
                continue
            if answer.status < 400:
                return dict(answer.json())
            if answer.status != BUSY or time.monotonic() >= busy_until:
                refused = refusal(answer)
                refused.repeated = bool(asked)
                raise refused
            time.sleep(_LOOK_SECONDS)


def connect(runs_dir: Path | None = None) -> Engine:
    """The engine, started if none answers.

    Raises:
        UnreachableError: if none can be reached, or it speaks another version.
    """
    reached, started = reach_or_start()
    check_version(reached[1])
    # Whoever started it, it is not stopped any more.
    stopped_note().unlink(missing_ok=True)
    engine = Engine(*reached, runs_dir)
    engine.started = started
    return engine


def connect_if_running() -> Engine | None:
    """The engine, of whatever version, or None if none runs."""
    reached = reach()
    return None if reached is None else Engine(*reached)


def check_version(view: View) -> None:
    """Refuse an engine of another version.

    Raises:
        UnreachableError: if it speaks another version.
    """
    spoken = view.get("api_version")
    if spoken != API_VERSION:
        raise UnreachableError(
            f"the engine that runs speaks version {spoken} of its interface, this magic version "
            f"{API_VERSION}: run magic engine stop first (runs go on without it)"
        )


def is_settled(view: View, job: int | None = None) -> bool:
    """Whether nothing happens any more, with one job or with all, until somebody asks for it."""
    wanted = [j for j in view["jobs"] if job is None or j["number"] == job]
    return all(RunState(j["state"]).settled for j in wanted)


def standing(view: View) -> tuple[str, str | None]:
    """State and reason of what goes on in a run: of its first unfinished job, else the run's own.

    A run's own state is that of its training; what is asked of it later never changes that.
    """
    job = view["job"]
    if job is None or view["state"] == UNREADABLE or RunState(job["state"]).finished:
        return view["state"], view["reason"]
    return job["state"], job["reason"]


def is_resting(view: View) -> bool:
    """Whether a run has not been taken up, or is about to end."""
    return standing(view)[0] in (*_RESTING, RunState.PAUSING, RunState.CANCELLING)


def is_finished(view: View) -> bool:
    """Whether a run and all that was asked of it is over, or it cannot be read at all."""
    state = standing(view)[0]
    return state == UNREADABLE or RunState(state).finished


def refusal(answer: Answer) -> RefusedError:
    """What an answer that reports an error says."""
    problem = answer.json()
    try:
        return RefusedError(str(problem["message"]), int(problem["exit_code"]), answer.status)
    except (ValueError, KeyError, TypeError):
        return RefusedError(
            f"the engine answered with HTTP status {answer.status}; see its log: "
            "magic engine status names it",
            int(ExitCode.RUN_FAILED),
            answer.status,
        )
