"""A short sweep over processes; ``make test-crash`` runs all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

POINTS = [("rank,all", "30"), ("supervisor,engine", "12"), ("client", "5")]


@pytest.mark.parametrize(("targets", "moments"), POINTS)
def test_killed_processes_change_no_result(targets: str, moments: str) -> None:
    command = [sys.executable, "-m", "tests.crash.processes"]
    done = subprocess.run(
        [*command, "--targets", targets, "--moments", moments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout, done.stderr
    tally = json.loads(done.stdout)
    assert tally["differences"] == []
    assert tally["finished"] == tally["hit"] == tally["points"] == len(targets.split(","))
    # Ranks and supervisors take their attempt with them; an engine or a client does not.
    assert tally["resumed"] >= sum(t in targets for t in ("rank", "supervisor", "all"))
