"""Which modules a verb loads: never torch, never textual, and nothing heavy for the help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs.run_folder import RunFolder
from tests.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, json
sys.path.insert(0, sys.argv.pop(1))
from magic_tui.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
sys.stderr.write(json.dumps([code, sorted(sys.modules)]))
"""
RUN = "20250102T030405-abc123"
HEAVY = {"torch", "transformers", "datasets", "textual", "pandas"}
SLOW = HEAVY | {"rich", "yaml", "numpy", "zarr", "pyarrow", "tokenizers", "psutil"}


def modules_of(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT), *arguments],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert not code, done.stderr
    assert done.stdout
    return set(modules)


def test_help_loads_nothing_slow() -> None:
    assert modules_of("--help") & (SLOW | {"pydantic", "httpx2"}) == set()
    assert modules_of("top", "--help") & SLOW == set()


@pytest.mark.parametrize(
    "arguments", [["ls"], ["status"], ["top"], ["show", "3"], ["doctor"]], ids=lambda a: a[0]
)
def test_verbs_load_no_torch_and_no_textual(
    finished: RunFolder, engine: FakeEngine, arguments: list[str]
) -> None:
    engine.add(RUN, "succeeded")
    loaded = modules_of(*arguments, "--runs-dir", str(finished.path.parent))
    assert loaded & HEAVY == set()
    assert "rich" in loaded


@pytest.mark.parametrize(
    "arguments",
    [
        *(["ls"], ["status"], ["status", RUN], ["wait"]),
        *(["rm", RUN, "--yes"], ["engine", "start"], ["engine", "status"]),
    ],
    ids=" ".join,
)
def test_facts_as_json_load_nothing_slow(engine: FakeEngine, arguments: list[str]) -> None:
    engine.add(RUN, "succeeded")
    loaded = modules_of(*arguments, "--json")
    assert loaded & SLOW == set()
    # Typer uses pydantic; reading our models would take longer than a request to the engine.
    models = ("api_schema", "config", "read_config", "request")
    assert not {f"engine.runs.{name}" for name in models} & loaded
