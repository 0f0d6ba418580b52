"""Requests that the OpenAPI document allows and forbids, sent over the socket by schemathesis.

It sends few requests unless ``MAGIC_FUZZ_SECONDS`` sets a longer time.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from schemathesis.engine import Status, from_schema
from schemathesis.engine.events import NonFatalError, ScenarioFinished

from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon
from tests.daemon_http.unix_requests import UnixAdapter
from tests.fake_engine import VIEW

SECONDS = int(os.environ.get("MAGIC_FUZZ_SECONDS", "0"))


def settings() -> schemathesis.Config:
    return schemathesis.Config.from_dict(
        {
            "base-url": "http://engine",
            "seed": 0,
            **({"max-time": SECONDS} if SECONDS else {}),
            "request-timeout": 5,
            "max-stream-events": 1,
            "continue-on-failure": True,
            "generation": {"database": "none", "max-examples": 100 if SECONDS else 8},
            "phases": {
                "coverage": {"enabled": SECONDS > 0},
                "stateful": {"enabled": SECONDS > 0},
            },
            # A run that was removed is put back for the next request.
            "checks": {
                "use_after_free": {"enabled": False},
                "ensure_resource_availability": {"enabled": False},
            },
            # It would end the engine, as it should.
            "operations": [
                {"include-path": "/v1/engine/stop", "enabled": False},
                # Its name is where the id of a run may be, and is none.
                {
                    "include-path": "/v1/runs/find",
                    "checks": {"unsupported_method": {"enabled": False}},
                },
                # What excludes what in a body is more than a schema says; and as in a config
                # file, false and 1.0 serve where whole numbers are wanted.
                {
                    "include-path-regex": "^/v1/runs(/{run_id}/(attributions|validations))?$",
                    "include-method": "POST",
                    "checks": {
                        "positive_data_acceptance": {
                            "expected-statuses": ["2xx", "404", "409", "422"]
                        },
                        "negative_data_rejection": {
                            "expected-statuses": ["2xx", "400", "404", "409", "413", "422"]
                        },
                    },
                },
            ],
        }
    )


def keep_to_folder(daemon: Daemon) -> Callable[..., None]:
    """A hook that has valid requests concern a run that is there, and none wait for long."""

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        if not (daemon.runs / RUN / VIEW).exists():
            daemon.make_run(RunState.PAUSED, events=5)
        for values in (case.query, case.body):
            named = values.get("runs_dir") if isinstance(values, dict) else None
            if isinstance(named, str) and re.fullmatch(r"/[^\0]*", named) and len(named) <= 4096:
                values["runs_dir"] = str(daemon.runs)
        parameters = case.path_parameters or {}
        if re.fullmatch(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}", str(parameters.get("run_id"))):
            parameters["run_id"] = RUN
        if "wait" in case.path:
            given = (case.query or {}).get("timeout")
            if given is None or re.fullmatch(r"[0-9.]+", str(given)):
                case.query = {**(case.query or {}), "timeout": 0.05}
        if "logs" in case.path and case.query:
            # Such a text may be empty until the run is settled.
            case.query = {name: v for name, v in case.query.items() if name != "follow"}

    return before_call


@pytest.mark.slow
def test_the_description_is_true(
    new_daemon: Callable[[], Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = new_daemon().start()
    adapter = UnixAdapter(daemon.place)
    monkeypatch.setattr(requests.Session, "get_adapter", lambda *_, **__: adapter)
    description = requests.get("http://engine/v1/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description, config=settings())
    schemathesis.hook(keep_to_folder(daemon))

    failures: dict[str, str] = {}
    tested = set()
    for event in from_schema(schema).execute():
        if isinstance(event, NonFatalError):
            failures[f"{event.label}: error"] = repr(event.value)
        if not isinstance(event, ScenarioFinished):
            continue
        if event.status is not Status.SKIP:
            tested.add(event.label)
        for case_id, checks in event.recorder.checks.items():
            for check in checks:
                if check.failure_info is None:
                    continue
                sent = event.recorder.interactions[case_id].request
                failure = check.failure_info.failure
                failures[f"{event.label}: {check.name}"] = (
                    f"{failure.title} {failure.message[:400]}\n{sent.method} {sent.uri[:300]} "
                    f"{sent.headers} {(sent.body or b'')[:1000]!r}"
                )
    total = sum(adapter.answers.values())
    print(f"{total} requests, by status: {json.dumps(dict(sorted(adapter.answers.items())))}")
    assert not failures, "\n\n".join(f"{name}\n{message}" for name, message in failures.items())
    assert total > 50
    assert len([label for label in tested if label and label.startswith(("GET", "POST"))]) >= 12
    assert 500 not in adapter.answers
    assert daemon.is_alive()
    assert "Traceback" not in daemon.log.read_text()
    assert {path.name for path in Path(daemon.folder).iterdir()} <= {"log", "run", "runs", "state"}
