"""Stand-ins for the engine, checked against the real one by ``daemon_http/test_fake_engine.py``.

:class:`FakeEngine` serves the HTTP interface from a thread of the test, for tests of clients. Its
runs are dictionaries that tests change; it can end a stream early, vanish and come back.

:class:`EngineStub` replaces :class:`engine.daemon.engine.Engine` below the real HTTP server, for
tests of that server: ``python -m tests.fake_engine`` is a ``magic-engine`` whose runs are as their
``view.json`` says.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from engine.runs.api_schema import (
    API_VERSION,
    CodeView,
    EngineView,
    JobView,
    Removed,
    RunView,
    SubmitAttribution,
    SubmitRun,
    SubmitValidation,
)
from engine.runs.atomic import write_atomically
from engine.runs.errors import ConflictError, NotFoundError, RunError, UsageError
from engine.runs.paths import note_socket, state_folder
from engine.runs.states import RunState

View = dict[str, Any]
VIEW = "view.json"


class FakeEngine:
    """Runs, their journals and a list of the requests received."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, View] = {}
        self.accepted: set[str] = set()
        """Runs whose code was accepted."""
        self.journals: dict[str, list[View]] = {}
        self.logs = "the first line\n\x1b[31mthe second\n"
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.on_submit: Callable[[SubmitRun], None] = lambda wanted: None
        self.on_attribute: Callable[[SubmitAttribution], None] = lambda wanted: None
        self.on_validate: Callable[[SubmitValidation], None] = lambda wanted: None
        self.on_action: Callable[[View, str], None] = lambda view, verb: None
        self.break_off: list[int] = []
        """After how many records each of the next streams ends early."""
        self.reset_at: int | None = None
        self.busy = 0
        """How many of the next requests are answered with 503."""
        self.view = engine_view(str(path))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.configs: dict[str, Any] = {}

    def start(self) -> "FakeEngine":
        listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        listener.bind(str(self.path))
        note_socket(state_folder(), self.path)
        config = uvicorn.Config(_app(self), log_level="error", lifespan="off", ws="none")
        config.timeout_graceful_shutdown = 0
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        assert self._server is not None and self._thread is not None
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def add(self, run_id: str, state: str, **facts: Any) -> View:
        """A run with one job."""
        self.runs[run_id] = run_view(run_id, state, **facts)
        self.journals.setdefault(run_id, [])
        return self.runs[run_id]

    def ask(self, run_id: str, state: str, work: str = "attribute", **facts: Any) -> View:
        """A further job of a run: an attribution, or a validation of its first one."""
        run = self.runs[run_id]
        number = len(run["jobs"]) + 1
        name = f"a{number:04d}" if work == "attribute" else "a0001"
        more = {"number": number, "work": work, "attribution": name, "state": state}
        job = {**run["jobs"][0], "reason": None, "exit_code": None, **more, **facts}
        self.runs[run_id] = {**run, "job": job, "jobs": [*run["jobs"], job]}
        return self.runs[run_id]

    def say(self, run_id: str, event: str, **facts: Any) -> None:
        """Append an event to a run's journal."""
        journal = self.journals[run_id]
        journal.append({"seq": len(journal), "time": float(len(journal)), "event": event, **facts})
        self.runs[run_id]["events"] = len(journal)

    def turn(
        self, run_id: str, state: str, reason: str | None = None, code: int | None = None
    ) -> None:
        """Change the state of a run's last job, and of the run if that job is its training."""
        run = self.runs[run_id]
        job = {**run["jobs"][-1], "state": state, "reason": reason, "exit_code": code}
        own = {"state": state, "reason": reason} if job["work"] == "run" else {}
        self.runs[run_id] = {**run, **own, "job": job, "jobs": [*run["jobs"][:-1], job]}

    def of_kind(self, method: str, ending: str) -> list[tuple[str, str, dict[str, str], Any]]:
        """The requests of a method to paths with an ending."""
        return [each for each in self.requests if each[0] == method and each[1].endswith(ending)]


def engine_view(path: str) -> View:
    """An engine on a machine with one GPU."""
    view = EngineView(
        api_version=API_VERSION, version="0.1.0", pid=4242, started=time.time() - 120, socket=path,
        devices=[
            {"id": "0", "name": "A", "memory_used": None, "memory_total": 8 * 10**9, "run": None}
        ],
        memory_used=3 * 10**9, memory_total=24 * 10**9, disk_free=5 * 10**11, disk_floor=10**9,
        queued=1, running=2,
    )  # fmt: skip
    return view.model_dump(mode="json")


def run_view(run_id: str, state: str, **facts: Any) -> View:
    """A run's view as of the engine; checked against the schema."""
    job = {
        "number": 1, "work": "run", "attribution": "a0001", "state": state,
        "reason": facts.get("reason"), "exit_code": facts.pop("exit_code", None), "attempts": 1,
        "queue_position": None, "devices": ["cpu"],
    }  # fmt: skip
    view = {
        "id": run_id, "path": f"/runs/{run_id}", "name": "my run", "state": state, "reason": None,
        "job": job, "jobs": [job], "model": "/models/tiny", "trust_remote_code": False,
        "created": time.time() - 3 * 3600, "phase": None, "steps": 12, "total_steps": 12,
        "documents": 23, "attributions": 1, "trajectory_bytes": 5000, "scores_bytes": 2000,
        "memory": None, "events": 0, **facts,
    }  # fmt: skip
    return RunView.model_validate(view).model_dump(mode="json")


def _problem(status: int, message: str, code: int = 2) -> JSONResponse:
    return JSONResponse({"message": message, "exit_code": code}, status)


def _app(engine: FakeEngine) -> FastAPI:
    app = FastAPI()

    @app.exception_handler(NotFoundError)
    async def not_found(_: Request, error: Exception) -> JSONResponse:
        return _problem(404, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> JSONResponse:
        return _problem(422, str(error))

    def known(run_id: str) -> View:
        if run_id not in engine.runs:
            raise NotFoundError(f"there is no run {run_id}: no such run")
        return engine.runs[run_id]

    @app.middleware("http")
    async def note(request: Request, call_next: Any) -> Any:
        body = await request.body()
        query = dict(request.query_params)
        content = json.loads(body) if body else None
        engine.requests.append((request.method, request.url.path, query, content))
        if engine.busy:
            engine.busy -= 1
            return _problem(503, "too many connections", 3)
        return await call_next(request)

    @app.get("/v1/engine")
    def about() -> View:
        return engine.view

    @app.get("/v1/runs")
    def runs() -> View:
        return {"runs": list(engine.runs.values())}

    @app.get("/v1/runs/find")
    def find(selector: str | None = None) -> Any:
        known = list(engine.runs.values())
        if selector is not None:
            known = [r for r in known if r["id"].startswith(selector) or r["name"] == selector]
        return (
            known[-1] if known else _problem(404, f"no run has the id {selector!r}; see: magic ls")
        )

    @app.get("/v1/runs/{run_id}/code")
    def code(run_id: str) -> Any:
        return {"code": known(run_id)["code"], "accepted": run_id in engine.accepted}

    @app.post("/v1/runs/{run_id}/code", status_code=202)
    def accept(run_id: str) -> Any:
        engine.accepted.add(run_id)
        return {"code": known(run_id)["code"], "accepted": True}

    @app.post("/v1/runs", status_code=201)
    def submit(submission: SubmitRun) -> Any:
        if submission.id in engine.configs:
            if engine.configs[submission.id] != submission.config:
                return _problem(409, f"there is a run {submission.id} with another config")
            return JSONResponse(engine.runs[submission.id], 200)
        engine.configs[submission.id] = submission.config
        path = f"{submission.runs_dir}/{submission.id}"
        engine.add(submission.id, "queued", path=path)
        engine.on_submit(submission)
        return engine.runs[submission.id]

    @app.post("/v1/runs/{run_id}/attributions", status_code=201)
    def attribute(run_id: str, submission: SubmitAttribution) -> Any:
        queued = add_job(run_id, "attribute", "a0002")
        engine.on_attribute(submission)
        return queued

    @app.post("/v1/runs/{run_id}/validations", status_code=201)
    def validate(run_id: str, submission: SubmitValidation) -> Any:
        if not known(run_id)["attributions"]:
            return _problem(422, f"run {run_id} has no complete attribution")
        queued = add_job(run_id, "validate", "a0001")
        engine.on_validate(submission)
        return queued

    def add_job(run_id: str, work: str, attribution: str) -> View:
        run = known(run_id)
        number = len(run["jobs"]) + 1
        more = {"number": number, "work": work, "attribution": attribution, "state": "queued"}
        job = {**run["jobs"][0], **more}
        queued = {**run, "job": job, "jobs": [*run["jobs"], job]}
        engine.runs[run_id] = dict(queued)
        return queued

    @app.get("/v1/runs/{run_id}")
    def one(run_id: str) -> Any:
        return known(run_id)

    @app.get("/v1/runs/{run_id}/wait")
    async def wait(run_id: str, timeout: float, job: int | None = None) -> Any:
        deadline = time.monotonic() + timeout
        if job is not None and job > len(known(run_id)["jobs"]):
            return _problem(404, f"run {run_id} has no job {job}")
        while time.monotonic() < deadline and not _settled(known(run_id), job):
            await asyncio.sleep(0.01)
        return engine.runs[run_id]

    @app.post("/v1/runs/{run_id}/{action}", status_code=202)
    def act(run_id: str, action: str) -> Any:
        if known(run_id)["job"]["state"] in ("succeeded", *["cancelled"] * (action != "resume")):
            state = engine.runs[run_id]["job"]["state"]
            return _problem(409, f"run {run_id} is {state}; there is nothing to {action}")
        engine.on_action(engine.runs[run_id], action)
        return engine.runs[run_id]

    @app.delete("/v1/runs/{run_id}")
    def remove(run_id: str, what: str = "run") -> Any:
        if not _settled(known(run_id)):
            return _problem(409, f"run {run_id} is running; cancel it first: magic cancel {run_id}")
        return {"removed": engine.runs[run_id]["path"], "freed_bytes": 7000}

    @app.post("/v1/folders/{action}", status_code=202)
    def folder(action: str, runs_dir: str) -> Any:
        return {"runs_dir": runs_dir, "jobs": 0}

    @app.get("/v1/runs/{run_id}/logs")
    def logs(run_id: str) -> PlainTextResponse:
        return PlainTextResponse(engine.logs)

    @app.get("/v1/runs/{run_id}/events")
    def events(run_id: str, request: Request) -> Any:
        known(run_id)
        after = int(request.headers.get("last-event-id", "-1"))
        follow = request.query_params.get("follow") == "true"
        parts = _stream(engine, run_id, after, follow)
        return StreamingResponse(parts, media_type="text/event-stream")

    return app


async def _stream(engine: FakeEngine, run_id: str, after: int, follow: bool) -> AsyncIterator[str]:
    left = engine.break_off.pop(0) if engine.break_off else None
    if engine.reset_at is not None and after >= engine.reset_at:
        engine.reset_at = None
        after = -1
        yield "event: reset\ndata: {}\n\n"
    sent: View = {}
    while True:
        run = engine.runs[run_id]
        if follow and run != sent:
            sent = run
            yield f"event: state\ndata: {json.dumps(run)}\n\n"
        for record in engine.journals[run_id][after + 1 :]:
            if left == 0:
                raise ConnectionError("broken off on purpose")
            left = left and left - 1
            after = record["seq"]
            yield f"id: {after}\nevent: {record['event']}\ndata: {json.dumps(record)}\n\n"
        if not follow:
            return
        run = engine.runs[run_id]
        if _settled(run) and run["events"] == after + 1:
            yield f"event: end\ndata: {json.dumps(run)}\n\n"
            return
        await asyncio.sleep(0.01)


def _settled(run: View, number: int | None = None) -> bool:
    states = {job["state"] for job in run["jobs"] if number in (None, job["number"])}
    return states <= {"succeeded", "failed", "cancelled", "paused"}


def a_view(folder: Path, *states: RunState, **facts: Any) -> RunView:
    """A run in ``folder`` with one job a state."""
    jobs = [
        JobView(
            number=number, work="run" if number == 1 else "attribute", attribution=None,
            state=state, reason=None, exit_code=None, attempts=1, queue_position=None, devices=[],
        )
        for number, state in enumerate(states, start=1)
    ]  # fmt: skip
    state = states[-1] if states else RunState.INTERRUPTED
    view = RunView.blank(folder.name, str(folder), state, None)
    job = jobs[-1] if jobs else None
    values = {"name": "a run", "model": "m", "created": 1.0, "job": job, "jobs": jobs}
    return view.model_copy(update={**values, **facts})


def put(view: RunView) -> None:
    """Replace the engine's view of a run."""
    Path(view.path).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(view.path) / VIEW, view.model_dump_json().encode())


class EngineStub:
    """The methods of :class:`engine.daemon.engine.Engine`, on ``view.json`` files."""

    def __init__(self, state_folder: Path, settings: Any) -> None:
        self._folders: set[Path] = set()

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def submit(self, submission: SubmitRun) -> tuple[RunView, bool]:
        folder = Path(submission.runs_dir) / submission.id
        if (folder / VIEW).exists():
            view = self.run(folder.parent, submission.id)
            if view.name != submission.config.name:
                raise ConflictError(f"run {submission.id} is there already with another config")
            return view, False
        view = a_view(folder, RunState.QUEUED, name=submission.config.name)
        put(view)
        return view, True

    def attribute(self, runs_dir: Path, run_id: str, submission: SubmitAttribution) -> RunView:
        view = self.run(runs_dir, run_id)
        states = [*(job.state for job in view.jobs), RunState.QUEUED]
        put(a_view(Path(view.path), *states))
        return self.run(runs_dir, run_id)

    def validate(self, runs_dir: Path, run_id: str, submission: SubmitValidation) -> RunView:
        view = self.run(runs_dir, run_id)
        put(a_view(Path(view.path), *(job.state for job in view.jobs), RunState.QUEUED))
        return self.run(runs_dir, run_id)

    def act(self, runs_dir: Path, run_id: str, action: str) -> RunView:
        view = self.run(runs_dir, run_id)
        over = view.state == RunState.SUCCEEDED or (
            view.state == RunState.CANCELLED and action != "resume"
        )
        if over:
            raise ConflictError(f"run {run_id} is over; there is nothing to {action}")
        state = {"pause": RunState.PAUSED, "resume": RunState.QUEUED, "cancel": RunState.CANCELLED}
        put(a_view(Path(view.path), state[action]))
        return self.run(runs_dir, run_id)

    def remove(self, runs_dir: Path, run_id: str, what: str) -> Removed:
        view = self.run(runs_dir, run_id)
        if not all(job.state.finished for job in view.jobs):
            raise ConflictError(f"run {run_id} is not finished; cancel it first")
        if what == "run":
            (Path(view.path) / VIEW).unlink()
        return Removed(removed=what, freed_bytes=1)

    def code(self, runs_dir: Path, run_id: str, accept: bool = False) -> CodeView:
        self.run(runs_dir, run_id)
        return CodeView(code=[], accepted=True)

    def allow(self, folder: Path) -> Path:
        return folder

    def forget(self, folder: Path) -> int:
        return 1

    def runs(self, runs_dir: Path) -> list[RunView]:
        return [self.run(runs_dir, path.parent.name) for path in sorted(runs_dir.glob(f"*/{VIEW}"))]

    def run(self, runs_dir: Path, run_id: str) -> RunView:
        try:
            text = (runs_dir / run_id / VIEW).read_text()
        except FileNotFoundError:
            raise NotFoundError(f"there is no run {run_id} in {runs_dir}") from None
        self._folders.add(runs_dir)
        if text == "broken":
            raise RunError("the journal is damaged")
        if text == "unforeseen":
            raise ZeroDivisionError("a secret of the inside")
        return RunView.model_validate_json(text)

    def find(self, runs_dir: Path, selector: str | None) -> RunView:
        if selector == "invalid":
            raise UsageError("that is no name")
        matches = [run for run in self.runs(runs_dir) if run.id.startswith(selector or "")]
        if not matches:
            raise NotFoundError(f"no run in {runs_dir} is called {selector!r}")
        if selector is not None and len(matches) > 1:
            raise ConflictError(f"{selector!r} matches {len(matches)} runs")
        return matches[-1]

    def view(self, socket: str) -> EngineView:
        return EngineView(
            api_version=API_VERSION, version="0", pid=os.getpid(), started=time.time(),
            socket=socket, devices=[], memory_used=1, memory_total=2, disk_free=3, disk_floor=4,
            queued=0, running=0,
        )  # fmt: skip

    def changes(self) -> int:
        changed = 0
        for view in [view for folder in set(self._folders) for view in folder.glob(f"*/{VIEW}")]:
            with contextlib.suppress(FileNotFoundError):
                changed += view.stat().st_mtime_ns
        return changed


if __name__ == "__main__":
    # In place of the real one, which would take a while to load.
    stand_in: Any = ModuleType("engine.daemon.engine")
    stand_in.Engine = EngineStub
    sys.modules[stand_in.__name__] = stand_in

    from engine.daemon import limits, server, streams
    from engine.daemon.main import main

    # So that tests need not wait for long.
    server._CHECK_TICKS = 4
    limits.REQUEST_SECONDS = float(os.environ.get("MAGIC_TEST_REQUEST_SECONDS", 30))
    streams.HEARTBEAT_SECONDS = float(os.environ.get("MAGIC_TEST_HEARTBEAT_SECONDS", 15))
    main()
