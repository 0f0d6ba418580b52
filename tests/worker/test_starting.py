"""Starting a worker in a folder whose files are named like libraries and like ours."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.daemon import supervisor
from engine.distributed import local_ranks
from engine.runs.environment import ROOT
from magic_tui.client import worker as client

SCRIPT = """\
import sys
from {module} import {function}
sys.exit({function}())
"""
"""What an installer writes for an entry of [project.scripts]."""


def console_script(folder: Path) -> list[str]:
    """``magic-worker`` as pyproject.toml defines it, in a folder of scripts of its own."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["magic-worker"].partition(":")
    script = folder / "magic-worker"
    script.write_text(SCRIPT.format(module=module, function=function))
    return [sys.executable, str(script)]


COMMANDS = {
    "client": client.WORKER_COMMAND,
    "ranks": local_ranks.RANK_COMMAND,
    "engine": supervisor.WORKER_COMMAND[:-2],
}


@pytest.mark.parametrize("start", [*COMMANDS, "magic-worker"])
def test_files_of_the_current_folder_are_not_imported(start: str, tmp_path: Path) -> None:
    here, scripts = tmp_path / "here", tmp_path / "bin"
    here.mkdir()
    scripts.mkdir()
    for name in ("engine", "torch", "typing", "yaml"):
        (here / f"{name}.py").write_text(f"raise RuntimeError('{name}.py was imported')")
    command = COMMANDS[start] if start in COMMANDS else console_script(scripts)
    # As under torchrun, which passes its environment on.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*command, "texts", "--source", json.dumps({"path": "/nowhere.jsonl"})],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
    )
    outcome = json.loads(run.stdout.splitlines()[-1])
    assert run.returncode == outcome["exit_code"] == 2, run.stderr
    assert "/nowhere.jsonl" in outcome["message"]


def test_the_script_runs_a_config_in_such_a_folder(config: dict[str, Any], tmp_path: Path) -> None:
    here, scripts = tmp_path / "here", tmp_path / "bin"
    here.mkdir()
    scripts.mkdir()
    (here / "engine.py").write_text("raise RuntimeError('engine.py was imported')")
    (here / "config.yaml").write_text(yaml.safe_dump(config))
    run = subprocess.run(
        [*console_script(scripts), "run", "--config", "config.yaml", "--runs", "runs", "--id", "r"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    outcome = json.loads(run.stdout.splitlines()[-1])
    assert outcome["ok"] and outcome["attribution"] == "a0001", run.stderr
