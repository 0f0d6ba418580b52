"""Asking a run queries that were checked before a job is made of them."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.contract.errors import ExitCode
from engine.records.run_folder import RunFolder
from magic_tui.client.engine import Engine
from magic_tui.client.start import View
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
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(dict(asked), file)
        file.flush()
        try:
            run_worker(["check", "--run", str(folder.path), "--request-file", file.name])
        except WorkerError as error:
            # Whatever else keeps them from being checked is for the job itself to tell.
            if error.exit_code == ExitCode.USAGE:
                raise
