"""Stands in for the engine: the same HTTP interface on a Unix socket, told what to say.

Its runs are plain dictionaries that tests change; it can break off a stream, vanish and come back.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from engine.runs.api_schema import (
    API_VERSION,
    EngineView,
    RunView,
    SubmitAttribution,
    SubmitRun,
    SubmitValidation,
)
from engine.runs.paths import note_socket, state_folder

View = dict[str, Any]


class FakeEngine:
    """What it knows, and a log of what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, View] = {}
        self.accepted: set[str] = set()
        """Runs whose code was accepted."""
        self.journals: dict[str, list[View]] = {}
        self.logs = "the first line\n\x1b[31mthe second\n"
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.on_submit: Callable[[SubmitRun], None] = lambda wanted: None
        self.on_attribute: Callable[[SubmitAttribution], None] = lambda wanted: None
        self.on_validate: Callable[[SubmitValidation], None] = lambda wanted: None
        self.on_action: Callable[[View, str], None] = lambda view, verb: None
        self.break_off: list[int] = []
        """After how many records each next stream breaks off."""
        self.reset_at: int | None = None
        self.busy = 0
        """How many of the next requests find too many others."""
        self.view = engine_view(str(path))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

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
        return [asked for asked in self.asked if asked[0] == method and asked[1].endswith(ending)]


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
    """A run as the engine tells of it; checked against the contract."""
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

    @app.middleware("http")
    async def note(request: Request, call_next: Any) -> Any:
        body = await request.body()
        query = dict(request.query_params)
        told = json.loads(body) if body else None
        engine.asked.append((request.method, request.url.path, query, told))
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
    def code(run_id: str) -> View:
        return {"code": engine.runs[run_id]["code"], "accepted": run_id in engine.accepted}

    @app.post("/v1/runs/{run_id}/code")
    def accept(run_id: str) -> View:
        engine.accepted.add(run_id)
        return {"code": engine.runs[run_id]["code"], "accepted": True}

    @app.post("/v1/runs", status_code=201)
    def submit(wanted: SubmitRun) -> View:
        engine.add(wanted.id, "queued", path=f"{wanted.runs_dir}/{wanted.id}")
        engine.on_submit(wanted)
        return engine.runs[wanted.id]

    @app.post("/v1/runs/{run_id}/attributions", status_code=201)
    def attribute(run_id: str, wanted: SubmitAttribution) -> View:
        run = engine.runs[run_id]
        job = {
            **run["jobs"][0], "number": 2, "work": "attribute", "attribution": "a0002",
            "state": "queued",
        }  # fmt: skip
        queued = {**run, "job": job, "jobs": [*run["jobs"], job]}
        engine.runs[run_id] = dict(queued)
        engine.on_attribute(wanted)
        return queued

    @app.post("/v1/runs/{run_id}/validations", status_code=201)
    def validate(run_id: str, wanted: SubmitValidation) -> View:
        run = engine.runs[run_id]
        job = {
            **run["jobs"][0], "number": 2, "work": "validate", "attribution": "a0001",
            "state": "queued",
        }  # fmt: skip
        queued = {**run, "job": job, "jobs": [*run["jobs"], job]}
        engine.runs[run_id] = dict(queued)
        engine.on_validate(wanted)
        return queued

    @app.get("/v1/runs/{run_id}")
    def one(run_id: str) -> View:
        return engine.runs[run_id]

    @app.get("/v1/runs/{run_id}/wait")
    async def wait(run_id: str, timeout: float, job: int | None = None) -> View:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not _settled(engine.runs[run_id], job):
            await asyncio.sleep(0.01)
        return engine.runs[run_id]

    @app.post("/v1/runs/{run_id}/{verb}", status_code=202)
    def act(run_id: str, verb: str) -> Any:
        if engine.runs[run_id]["job"]["state"] == "succeeded":
            return _problem(409, f"run {run_id} has succeeded; there is nothing to {verb}")
        engine.on_action(engine.runs[run_id], verb)
        return engine.runs[run_id]

    @app.delete("/v1/runs/{run_id}")
    def remove(run_id: str, what: str) -> Any:
        if not _settled(engine.runs[run_id]):
            return _problem(409, f"run {run_id} is running; cancel it first: magic cancel {run_id}")
        return {"removed": engine.runs[run_id]["path"], "freed_bytes": 7000}

    @app.get("/v1/runs/{run_id}/logs")
    def logs(run_id: str) -> PlainTextResponse:
        return PlainTextResponse(engine.logs)

    @app.get("/v1/runs/{run_id}/events")
    def events(run_id: str, request: Request) -> Any:
        if run_id not in engine.runs:
            return _problem(404, "no such run")
        after = int(request.headers.get("last-event-id", "-1"))
        return StreamingResponse(_stream(engine, run_id, after), media_type="text/event-stream")

    return app


async def _stream(engine: FakeEngine, run_id: str, after: int) -> AsyncIterator[str]:
    left = engine.break_off.pop(0) if engine.break_off else None
    if engine.reset_at is not None and after >= engine.reset_at:
        engine.reset_at = None
        after = -1
        yield "event: reset\ndata: {}\n\n"
    shown: View = {}
    while True:
        run = engine.runs[run_id]
        if run != shown:
            shown = run
            yield f"event: state\ndata: {json.dumps(run)}\n\n"
        for record in engine.journals[run_id][after + 1 :]:
            if left == 0:
                raise ConnectionError("broken off on purpose")
            left = left and left - 1
            after = record["seq"]
            yield f"id: {after}\nevent: {record['event']}\ndata: {json.dumps(record)}\n\n"
        run = engine.runs[run_id]
        if _settled(run) and run["events"] == after + 1:
            yield f"event: end\ndata: {json.dumps(run)}\n\n"
            return
        await asyncio.sleep(0.01)


def _settled(run: View, number: int | None = None) -> bool:
    states = {job["state"] for job in run["jobs"] if number in (None, job["number"])}
    return states <= {"succeeded", "failed", "cancelled", "paused"}
