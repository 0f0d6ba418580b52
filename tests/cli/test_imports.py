"""Which modules a verb loads: never torch, never textual, and nothing heavy for the help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.records.run_folder import RunFolder

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
HEAVY = {"torch", "transformers", "datasets", "textual", "pandas"}


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
    slow = HEAVY | {"rich", "yaml", "numpy", "zarr", "pyarrow", "tokenizers", "psutil"}
    assert modules_of("--help") & (slow | {"pydantic"}) == set()
    assert modules_of("top", "--help") & slow == set()


@pytest.mark.parametrize(
    "arguments", [["ls"], ["top"], ["show", "3"], ["doctor"]], ids=lambda a: a[0]
)
def test_verbs_load_no_torch_and_no_textual(finished: RunFolder, arguments: list[str]) -> None:
    loaded = modules_of(*arguments, "--runs-dir", str(finished.path.parent))
    assert loaded & HEAVY == set()
    assert "rich" in loaded
