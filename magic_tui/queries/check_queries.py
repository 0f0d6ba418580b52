"""Check queries before a job is queued, in a worker process that loads no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.runs.errors import ExitCode
from engine.runs.run_folder import RunFolder
from engine.runs.states import View
from engine.runs.temporary import scratch_folder
from magic_tui.client.engine import Engine
from magic_tui.client.worker import WorkerError, run_worker


def submit_checked(engine: Engine, run: View, request: Mapping[str, Any]) -> View:
    """Queue an attribution of a run after checking its queries; returns the run's view.

    Raises:
        WorkerError: if the queries would be rejected; no job is queued then.
    """
    folder = RunFolder(Path(run["path"]))
    if folder.config_file.exists():
        # Texts may be longer than a command line allows.
        with scratch_folder("check") as scratch:
            file = scratch / "request.json"
            file.write_text(json.dumps(dict(request)), encoding="utf-8")
            _check(["check", "--run", str(folder.path), "--request-file", str(file)])
    return engine.attribute(run["id"], request)


def check_config(file: Path) -> None:
    """Check the queries of a config file.

    Raises:
        WorkerError: if they would be rejected.
    """
    _check(["check-config", "--config", str(file)])


def _check(arguments: list[str]) -> None:
    try:
        run_worker(arguments)
    except WorkerError as error:
        # The job itself reports all other problems.
        if error.exit_code == ExitCode.USAGE:
            raise
