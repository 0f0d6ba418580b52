"""Queries are checked before a job is made of them, in a process that loads no torch."""

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


def ask_checked(engine: Engine, run: View, asked: Mapping[str, Any]) -> View:
    """Queue new queries of a run's trajectory, its last job, unless something is wrong with them.

    Raises:
        WorkerError: in one sentence, if they would be refused; no job is made then.
    """
    folder = RunFolder(Path(run["path"]))
    if folder.config_file.exists():
        _check(folder, asked)
    return engine.attribute(run["id"], asked)


def _check(folder: RunFolder, asked: Mapping[str, Any]) -> None:
    # Texts may be longer than an argument of a process can be.
    with scratch_folder("check") as scratch:
        file = scratch / "request.json"
        file.write_text(json.dumps(dict(asked)), encoding="utf-8")
        _check_with(["check", "--run", str(folder.path), "--request-file", str(file)])


def check_config(file: Path) -> None:
    """Check the queries of a config file.

    Raises:
        WorkerError: in one sentence, if they would be refused.
    """
    _check_with(["check-config", "--config", str(file)])


def _check_with(arguments: list[str]) -> None:
    try:
        run_worker(arguments)
    except WorkerError as error:
        # Whatever else keeps them from being checked is for the job itself to tell.
        if error.exit_code == ExitCode.USAGE:
            raise
