"""The engine as the faces see it: what it can be asked.

Answers stay the plain dictionaries of ``engine.contract.api``: reading its models would take
longer than most verbs do.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from engine.contract.errors import ExitCode, MagicError, UnreachableError
from engine.contract.states import RunState
from engine.records.naming import runs_folder
from magic_tui.client.environment import environment_of_a_run
from magic_tui.client.http import Answer, BrokenOffError, Question, ask
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
_POLL_SECONDS, _LOOK_SECONDS = 25.0, 0.2
_STOP_SECONDS, _REMOVE_SECONDS = 30.0, 600.0


class RefusedError(MagicError):
    """The engine refused a request; carries its sentence and exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep the engine's own sentence."""
        super().__init__(message)
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
        self.runs_dir = str(runs_folder(runs_dir).absolute())

    def submit(self, run_id: str, config: Mapping[str, Any]) -> View:
        """Queue a new run; safe to be asked again with the same id."""
        wanted = {
            "id": run_id,
            "runs_dir": self.runs_dir,
            "config": config,
            "environment": environment_of_a_run(),
        }
        return self._ask(Question("POST", "/v1/runs", {}, wanted))

    def attribute(self, run_id: str, asked: Mapping[str, Any]) -> View:
        """Queue new queries of a run's trajectory: its last job."""
        wanted = {"asked": asked, "environment": environment_of_a_run()}
        path = f"/v1/runs/{run_id}/attributions"
        # Asked twice it would be done twice.
        return self._ask(Question("POST", path, self.query(), wanted), again=False)

    def find(self, wanted: str | None) -> View:
        """The run of an id, a unique prefix of one, or a name; the latest if left out."""
        more = {} if wanted is None else {"wanted": wanted}
        return self._ask(Question("GET", "/v1/runs/find", self.query(more)))

    def run(self, run_id: str) -> View:
        """One run."""
        return self._ask(Question("GET", f"/v1/runs/{run_id}", self.query()))

    def runs(self) -> list[View]:
        """All runs, oldest first."""
        return list(self._ask(Question("GET", "/v1/runs", self.query()))["runs"])

    def wish(self, run_id: str, verb: Wished) -> View:
        """Ask for a pause, for going on or for an end of all unfinished jobs."""
        return self._ask(Question("POST", f"/v1/runs/{run_id}/{verb}", self.query()))

    def remove(self, run_id: str, what: Literal["run", "trajectory"]) -> View:
        """Remove a run or its trajectory; what that freed."""
        query = self.query({"what": what})
        return self._ask(Question("DELETE", f"/v1/runs/{run_id}", query, timeout=_REMOVE_SECONDS))

    def wait(self, run_id: str, timeout: float | None = None) -> View:
        """The run once all its jobs are settled; or as it is at the time-out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            seconds = min(left, _POLL_SECONDS)
            query = self.query({"timeout": f"{seconds:.3f}"})
            path = f"/v1/runs/{run_id}/wait"
            view = self._ask(Question("GET", path, query, timeout=seconds + 30.0))
            if is_settled(view) or (deadline is not None and time.monotonic() >= deadline):
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
            UnreachableError: if it does not end.
        """
        before = self._ask(Question("GET", "/v1/engine", {}), again=False)
        stopped_note().touch()
        self._ask(Question("POST", "/v1/engine/stop", {}), again=False)
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
        try:
            answer = ask(self.socket, question)
        except BrokenOffError as error:
            if not again:
                raise UnreachableError(
                    f"the engine did not answer ({error}); see with magic status whether it took "
                    "the request before asking again"
                ) from None
            (self.socket, self.view), _ = reach_or_start()
            return self._ask(question, again=False)
        if answer.status >= 400:
            raise refusal(answer)
        return dict(answer.json())


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


def is_finished(view: View) -> bool:
    """Whether a run is over, well or not, or cannot be read at all."""
    return view["state"] == UNREADABLE or RunState(view["state"]).finished


def refusal(answer: Answer) -> RefusedError:
    """What an answer that reports an error says."""
    problem = answer.json()
    try:
        return RefusedError(str(problem["message"]), int(problem["exit_code"]))
    except (ValueError, KeyError, TypeError):
        return RefusedError(
            f"the engine answered with HTTP status {answer.status}; see its log: "
            "magic engine status names it",
            int(ExitCode.RUN_FAILED),
        )
