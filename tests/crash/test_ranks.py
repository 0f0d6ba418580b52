"""The short form of the sweeps: ``make test-crash`` runs them at every operation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EVERY = 53
"""An odd stride, so that the points differ between schedules."""
CASES = [("all", "SIGKILL"), ("gradients", "SIGKILL"), ("sqrt", "SIGTERM"), ("log", "SIGKILL")]


@pytest.mark.parametrize(("schedule", "signal"), CASES, ids=[f"{a}-{b}" for a, b in CASES])
def test_interrupted_ranks_give_the_same_bytes(schedule: str, signal: str) -> None:
    command = [sys.executable, "-m", "tests.crash.sweep", "--every", str(EVERY)]
    done = subprocess.run(
        [*command, "--schedule", schedule, "--signal", signal],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    tally = json.loads(done.stdout)
    assert tally["differences"] == []
    assert tally["finished"] == tally["points"] >= 10
    assert tally["hit"] >= tally["points"] - 1
