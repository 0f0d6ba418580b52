"""The client's view of the engine: its operations.

Results are plain dictionaries as defined in ``engine.runs.api_schema``; parsing them with its
models would take longer than most verbs do.
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
from magic_tui.client.engine_process import (
    BUSY,
    engine_pid,
    reach,
    reach_or_start,
    stop_engine,
    stopped_note,
)
from magic_tui.client.http import DisconnectedError, NotListeningError, Request, Response, send

API_VERSION = 1
"""The version of the HTTP interface that this client uses."""
UNREADABLE = "unreadable"
"""The state of a run whose files cannot be read."""
_NOT_FOUND, _CONFLICT = 404, 409
RunAction = Literal["pause", "resume", "cancel"]
_WAIT_SECONDS, _POLL_SECONDS = 25.0, 0.2
_REMOVE_SECONDS, _BUSY_SECONDS, _EXIT_SECONDS = 600.0, 5.0, 15.0
_MOST_ATTEMPTS = 3
STOPPED = "the engine was stopped; runs continue without it; start it with: magic engine start"
_RESTING = (RunState.PAUSED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)


class StoppedError(UnreachableError):
    """The user stopped the engine, so no other one is started."""


class RefusedError(MagicError):
    """The engine refused a request; carries its message and exit code."""

    repeated = False
    """Whether an earlier attempt at the same request may have succeeded."""

    def __init__(self, message: str, exit_code: int, status: int = 0) -> None:
        """Store the engine's message."""
        super().__init__(message)
        self.status = status
        with contextlib.suppress(ValueError):
            self.exit_code = ExitCode(exit_code)


class Engine:
    """The engine at a socket, for requests about the runs of one folder."""

    def __init__(self, socket: Path, view: View, runs_dir: Path | None = None) -> None:
        """Use the engine at ``socket``, whose view of itself is ``view``."""
        self.socket = socket
        self.view = view
        self.started = False
        """Whether it was started for this client."""
        self.cut_off = False
        """Whether it was stopped before it confirmed a submission."""
        self.runs_dir = str(runs_folder(runs_dir).absolute())

    def submit(self, run_id: str, config: Mapping[str, Any]) -> View:
        """Queue a new run; a repetition with the same id changes nothing.

        Raises:
            RefusedError: if the engine refuses it.
            UnreachableError: if it was not queued, because the engine was stopped.
        """
        body = {
            "id": run_id,
            "runs_dir": self.runs_dir,
            "config": config,
            "environment": environment_of_a_run(os.environ),
        }
        try:
            return self._send(Request("POST", "/v1/runs", body=body))
        except StoppedError:
            view = _submitted_before_stop(self.runs_dir, run_id, config, str(self.view["pid"]))
            self.cut_off = True
            return view
        except UnreachableError as error:
            raise UnreachableError(f"run {run_id}: {error}") from None

    def attribute(self, run_id: str, request: Mapping[str, Any]) -> View:
        """Queue an attribution of queries: the run's last job."""
        body = {"request": request, "environment": environment_of_a_run(os.environ)}
        path = f"/v1/runs/{run_id}/attributions"
        # A repetition would add a second job.
        return self._send(Request("POST", path, self.query(), body), repeatable=False)

    def validate(self, run_id: str, attribution: str | None, request: Mapping[str, Any]) -> View:
        """Queue a validation of an attribution: the run's last job."""
        environment = environment_of_a_run(os.environ)
        body = {"attribution": attribution, "request": request, "environment": environment}
        path = f"/v1/runs/{run_id}/validations"
        # A repetition would add a second job.
        return self._send(Request("POST", path, self.query(), body), repeatable=False)

    def accepts_code(self, run_id: str) -> bool:
        """Whether the engine may load the code of a run."""
        request = Request("GET", f"/v1/runs/{run_id}/code", self.query())
        return bool(self._send(request)["accepted"])

    def accept_code(self, run_id: str) -> None:
        """Accept the present code of a run."""
        self._send(Request("POST", f"/v1/runs/{run_id}/code", self.query()))

    def find(self, selector: str | None) -> View:
        """The run of an id, a unique prefix of one, or a name; the latest if None."""
        more = {} if selector is None else {"selector": selector}
        return self._send(Request("GET", "/v1/runs/find", self.query(more)))

    def run(self, run_id: str) -> View:
        """One run."""
        return self._send(Request("GET", f"/v1/runs/{run_id}", self.query()))

    def runs(self) -> list[View]:
        """All runs, oldest first."""
        return list(self._send(Request("GET", "/v1/runs", self.query()))["runs"])

    def act(self, run_id: str, action: RunAction) -> View:
        """Pause, resume or cancel all unfinished jobs of a run."""
        try:
            return self._send(Request("POST", f"/v1/runs/{run_id}/{action}", self.query()))
        except RefusedError as error:
            if not error.repeated or error.status != _CONFLICT:
                raise
            # The first attempt succeeded, so nothing is left to do.
            view = self.run(run_id)
            if action == "resume" and is_resting(view):
                raise
            return view

    def remove(self, run_id: str, what: Literal["run", "trajectory"]) -> View:
        """Remove a run or its trajectory; ``freed_bytes`` is None if it is unknown."""
        query = self.query({"what": what})
        request = Request("DELETE", f"/v1/runs/{run_id}", query, timeout=_REMOVE_SECONDS)
        try:
            return self._send(request)
        except RefusedError as error:
            if not error.repeated or error.status != _NOT_FOUND:
                raise
            return {"removed": f"{self.runs_dir}/{run_id}", "freed_bytes": None}

    def folder(self, action: Literal["allow", "forget"]) -> View:
        """Accept that others may write in the folder of the runs, or dequeue its jobs."""
        return self._send(Request("POST", f"/v1/folders/{action}", self.query()))

    def wait(self, run_id: str, timeout: float | None = None, job: int | None = None) -> View:
        """The run once a job of it, or all, are settled; its present state after ``timeout`` s."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            seconds = min(left, _WAIT_SECONDS)
            one = {} if job is None else {"job": str(job)}
            query = self.query({"timeout": f"{seconds:.3f}", **one})
            path = f"/v1/runs/{run_id}/wait"
            view = self._send(Request("GET", path, query, timeout=seconds + 30.0))
            if is_settled(view, job) or (deadline is not None and time.monotonic() >= deadline):
                return view

    def wait_until(self, run_id: str, done: Callable[[View], bool], timeout: float | None) -> View:
        """The run once ``done`` returns True; its present state after ``timeout`` s."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            view = self.run(run_id)
            if done(view) or (deadline is not None and time.monotonic() >= deadline):
                return view
            time.sleep(_POLL_SECONDS)

    def stop(self) -> View:
        """Stop the engine and wait for its process; returns its view before that.

        Raises:
            UnreachableError: if there is none, or it does not exit.
        """
        connected = reach()
        if connected is None:
            raise UnreachableError("no engine is running, so there is none to stop")
        self.socket, self.view = connected
        stop_engine(self.socket, int(self.view["pid"]))
        return self.view

    def reconnect(self) -> bool:
        """Connect again; start an engine unless it was stopped on purpose.

        Returns:
            Whether there is an engine.
        """
        if stopped_note().exists():
            connected = reach()
            if connected is None:
                return False
        else:
            connected, _ = reach_or_start()
        self.socket, self.view = connected
        check_version(self.view)
        return True

    def query(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Query parameters that name the folder of the runs."""
        return {"runs_dir": self.runs_dir, **(more or {})}

    def _send(self, request: Request, repeatable: bool = True) -> View:
        """The response to a request, which is repeated if the engine ends before the response.

        A request that is not ``repeatable`` is repeated only if no engine received it.
        """
        busy_until = time.monotonic() + _BUSY_SECONDS
        received = attempts = 0
        while True:
            try:
                response = send(self.socket, request)
            except DisconnectedError as error:
                attempts += 1
                received += not isinstance(error, NotListeningError)
                if attempts == _MOST_ATTEMPTS or (received and not repeatable):
                    raise UnreachableError(
                        f"the engine did not respond ({error}); check with magic status whether "
                        "it received the request before you repeat it"
                    ) from None
                if not self.reconnect():
                    raise StoppedError(STOPPED) from None
                continue
            if response.status < 400:
                return dict(response.json())
            if response.status != BUSY or time.monotonic() >= busy_until:
                refused = refusal(response)
                refused.repeated = bool(received)
                raise refused
            time.sleep(_POLL_SECONDS)


def connect(runs_dir: Path | None = None) -> Engine:
    """The engine, started if there is none.

    Raises:
        UnreachableError: if none can be reached, or it has another interface version.
    """
    connected, started = reach_or_start()
    check_version(connected[1])
    # Another client may have started it after a stop.
    stopped_note().unlink(missing_ok=True)
    engine = Engine(*connected, runs_dir)
    engine.started = started
    return engine


def connect_if_running() -> Engine | None:
    """The engine, of any version; None if there is none."""
    connected = reach()
    return None if connected is None else Engine(*connected)


def check_version(view: View) -> None:
    """Refuse an engine with another interface version.

    Raises:
        UnreachableError: if the version differs.
    """
    version = view.get("api_version")
    if version != API_VERSION:
        raise UnreachableError(
            f"the running engine has interface version {version}, this magic {API_VERSION}: run "
            "magic engine stop first (runs continue without it)"
        )


def is_settled(view: View, job: int | None = None) -> bool:
    """Whether one job, or all jobs, stay in their state until a user acts."""
    jobs = [j for j in view["jobs"] if job is None or j["number"] == job]
    return all(RunState(j["state"]).settled for j in jobs)


def standing(view: View) -> tuple[str, str | None]:
    """State and reason of a run's first unfinished job, else those of the run.

    The run's own state is that of its training; later jobs do not change it.
    """
    job = view["job"]
    if job is None or view["state"] == UNREADABLE or RunState(job["state"]).finished:
        return view["state"], view["reason"]
    return job["state"], job["reason"]


def is_resting(view: View) -> bool:
    """Whether a run is neither queued nor running, or is about to stop."""
    return standing(view)[0] in (*_RESTING, RunState.PAUSING, RunState.CANCELLING)


def is_finished(view: View) -> bool:
    """Whether all jobs of a run have ended, or the run cannot be read."""
    state = standing(view)[0]
    return state == UNREADABLE or RunState(state).finished


def refusal(response: Response) -> RefusedError:
    """The error that a response reports."""
    problem = response.json()
    try:
        return RefusedError(str(problem["message"]), int(problem["exit_code"]), response.status)
    except (ValueError, KeyError, TypeError):
        return RefusedError(
            f"the engine responded with HTTP status {response.status}; see its log, which "
            "magic engine status names",
            int(ExitCode.RUN_FAILED),
            response.status,
        )


def _submitted_before_stop(runs_dir: str, run_id: str, config: Mapping[str, Any], pid: str) -> View:
    """The view of a run, if the engine of process ``pid`` had queued it before it exited.

    A run's folder appears as a whole once the run is queued, so its existence is the evidence.

    Raises:
        UnreachableError: if the run was not queued, or the engine does not exit.
    """
    from engine.runs.api_schema import RunView

    path = Path(runs_dir) / run_id
    deadline = time.monotonic() + _EXIT_SECONDS
    # Until its process has exited it may still create the folder.
    while not path.is_dir() and engine_pid() == pid:
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"the engine was stopped and has not exited; when it has, run {run_id} is queued "
                f"if {path} exists"
            )
        time.sleep(_POLL_SECONDS / 4)
    if not path.is_dir():
        raise UnreachableError(
            f"run {run_id} was not queued: the engine was stopped first; start it with: magic "
            "engine start, then submit the run again"
        )
    reason = "the engine was stopped; the run starts with the next one: magic engine start"
    view = RunView.blank(run_id, str(path), RunState.QUEUED, reason).model_dump(mode="json")
    model = config.get("model") or {}
    job = {
        "number": 1, "work": "run", "state": RunState.QUEUED, "reason": reason, "exit_code": None,
        "attribution": None if config.get("queries") is None else "a0001", "repeats": False,
        "attempts": 0, "queue_position": None, "devices": [],
    }  # fmt: skip
    view |= {"name": str(config.get("name", "")), "model": str(model.get("path", ""))}
    return {**view, "job": job, "jobs": [job]}
