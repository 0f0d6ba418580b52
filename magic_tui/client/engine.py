"""The engine as the faces see it: what it can be asked, over HTTP on a Unix socket.

Answers stay the plain dictionaries of ``engine.contract.api``: reading its models would take
longer than most verbs do.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import httpx2

from engine.contract.errors import ExitCode, MagicError, UnreachableError
from engine.contract.states import RunState
from engine.records.naming import runs_folder
from magic_tui.client.environment import environment_of_a_run
from magic_tui.client.start import (
    View,
    engine_is_alive,
    reach,
    reach_or_start,
    stopped_note,
)

API_VERSION = 1
"""The version of the interface that is spoken here."""
UNREADABLE = "unreadable"
"""The state of a run whose files cannot be read."""
Wished = Literal["pause", "resume", "cancel"]
_ASK_SECONDS, _POLL_SECONDS, _LOOK_SECONDS = 60.0, 25.0, 0.2
_STOP_SECONDS = 30.0


class RefusedError(MagicError):
    """The engine refused a request; carries its sentence and exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep the engine's own sentence."""
        super().__init__(message)
        with contextlib.suppress(ValueError):
            self.exit_code = ExitCode(exit_code)


class Engine:
    """A conversation with the engine about the runs of one folder."""

    def __init__(self, http: httpx2.Client, view: View, runs_dir: Path | None = None) -> None:
        """Speak through ``http`` to the engine that ``view`` tells of."""
        self.http = http
        self.view = view
        self.started = False
        """Whether it was started just now, for this."""
        self.runs_dir = str(runs_folder(runs_dir).absolute())

    def __enter__(self) -> "Engine":
        """Close the connection in the end."""
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()

    def submit(self, run_id: str, config: Mapping[str, Any]) -> View:
        """Queue a new run; safe to be asked again with the same id."""
        wanted = {
            "id": run_id,
            "runs_dir": self.runs_dir,
            "config": config,
            "environment": environment_of_a_run(),
        }
        return self._ask("POST", "/v1/runs", json=wanted)

    def attribute(self, run_id: str, asked: Mapping[str, Any]) -> View:
        """Queue new queries of a run's trajectory: its last job."""
        wanted = {"asked": asked, "environment": environment_of_a_run()}
        # Asked twice it would be done twice.
        return self._ask("POST", f"/v1/runs/{run_id}/attributions", again=False, json=wanted)

    def find(self, wanted: str | None) -> View:
        """The run of an id, a unique prefix of one, or a name; the latest if left out."""
        return self._ask("GET", "/v1/runs/find", {} if wanted is None else {"wanted": wanted})

    def run(self, run_id: str) -> View:
        """One run."""
        return self._ask("GET", f"/v1/runs/{run_id}")

    def runs(self) -> list[View]:
        """All runs, oldest first."""
        return list(self._ask("GET", "/v1/runs")["runs"])

    def wish(self, run_id: str, verb: Wished) -> View:
        """Ask for a pause, for going on or for an end of all unfinished jobs."""
        return self._ask("POST", f"/v1/runs/{run_id}/{verb}")

    def remove(self, run_id: str, what: Literal["run", "trajectory"]) -> View:
        """Remove a run or its trajectory; what that freed."""
        return self._ask("DELETE", f"/v1/runs/{run_id}", {"what": what}, timeout=600.0)

    def wait(self, run_id: str, timeout: float | None = None, job: int | None = None) -> View:
        """The run once a job of it, or all of them, are settled; or as it is at the time-out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        number = {} if job is None else {"job": str(job)}
        while True:
            left = _POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            seconds = min(left, _POLL_SECONDS)
            asked = {"timeout": f"{seconds:.3f}", **number}
            view = self._ask("GET", f"/v1/runs/{run_id}/wait", asked, timeout=seconds + 30.0)
            if is_settled(view, job) or (left <= _POLL_SECONDS and deadline is not None):
                return view

    def wait_until(self, run_id: str, done: Callable[[View], bool], timeout: float | None) -> View:
        """The run once ``done`` says so, or as it is at the time-out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            view = self.run(run_id)
            if done(view) or (deadline is not None and time.monotonic() >= deadline):
                return view
            time.sleep(_LOOK_SECONDS)

    def logs(self, run_id: str, follow: bool) -> Iterator[str]:
        """The lines of a run's log files, and with ``follow`` those to come."""
        query = self._query({"follow": "true" if follow else "false"})
        try:
            with self.http.stream(
                "GET",
                f"/v1/runs/{run_id}/logs",
                params=query,
                timeout=httpx2.Timeout(10, read=None),
            ) as answer:
                if answer.is_error:
                    answer.read()
                    refuse(answer)
                yield from answer.iter_lines()
        except httpx2.TransportError:
            raise UnreachableError(
                "the engine ended while it was sending; the logs are files in the run's folder"
            ) from None

    def stop(self) -> View:
        """End the engine, wait until it has ended, and tell how it was just before.

        Raises:
            UnreachableError: if it does not end.
        """
        before = dict(self._ask("GET", "/v1/engine"))
        stopped_note().touch()
        self._ask("POST", "/v1/engine/stop")
        self.http.close()
        deadline = time.monotonic() + _STOP_SECONDS
        while engine_is_alive():
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the engine, process {before['pid']}, has not ended within "
                    f"{_STOP_SECONDS:.0f} s; end it with: kill {before['pid']}"
                )
            time.sleep(0.05)
        return before

    def reconnect(self) -> bool:
        """Connect anew, starting an engine unless it was stopped on purpose.

        Returns:
            Whether there is one.
        """
        self.http.close()
        if stopped_note().exists():
            reached = reach()
            if reached is None:
                return False
            self.http, self.view = reached
        else:
            self.http, self.view, _ = reach_or_start()
        check_version(self.view)
        return True

    def _query(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"runs_dir": self.runs_dir, **more}

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        again: bool = True,
        timeout: float = _ASK_SECONDS,
        json: Mapping[str, Any] | None = None,
    ) -> View:
        """One request; asked ``again`` of the next engine if this one ends meanwhile."""
        params = self._query(query or {})
        try:
            answer = self.http.request(method, path, params=params, json=json, timeout=timeout)
        except httpx2.TransportError as error:
            if not again:
                raise UnreachableError(
                    f"the engine did not answer ({type(error).__name__}); see with magic status "
                    "whether it took the request before asking again"
                ) from None
            self.http.close()
            self.http, self.view, _ = reach_or_start()
            return self._ask(method, path, query, again=False, timeout=timeout, json=json)
        if answer.is_error:
            refuse(answer)
        return dict(answer.json())


def connect(runs_dir: Path | None = None) -> Engine:
    """The engine, started if none answers.

    Raises:
        UnreachableError: if none can be reached, or it speaks another version.
    """
    http, view, started = reach_or_start()
    engine = Engine(http, view, runs_dir)
    engine.started = started
    try:
        check_version(view)
    except UnreachableError:
        http.close()
        raise
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


def is_finished(view: View) -> bool:
    """Whether a run is over, well or not, or cannot be read at all."""
    return view["state"] == UNREADABLE or RunState(view["state"]).finished


def refuse(answer: httpx2.Response) -> NoReturn:
    """Raise what an answer that reports an error says."""
    try:
        problem = answer.json()
        message, code = str(problem["message"]), int(problem["exit_code"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(
            f"the engine answered {answer.status_code} to {answer.request.url.path}; "
            "see its log: magic engine status names it",
            int(ExitCode.RUN_FAILED),
        ) from None
    raise RefusedError(message, code)
