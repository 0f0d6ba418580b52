"""The short form of the sweeps: ``make test-crash`` runs them at every operation."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = [
    ("all", "SIGKILL", 131),
    ("gradients", "full", 48),
    ("sqrt", "SIGTERM", 131),
    ("sqrt", "short", 18),
    ("log", "SIGKILL", 131),
]


CAN_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
)


@pytest.mark.parametrize("case", CASES, ids=["-".join([a, b, *more]) for a, b, _, *more in CASES])
def test_harmed_ranks_give_the_same_bytes(case: tuple[Any, ...]) -> None:
    schedule, harm, every, *more = case
    command = [sys.executable, "-m", "tests.crash.sweep", "--schedule", schedule, *more]
    if harm == "full":
        if not CAN_MOUNT:
            pytest.skip("needs a mount namespace of its own")
        command = ["unshare", "-rm", *command]
    done = subprocess.run(
        [*command, "--harm", harm, "--every", str(every)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout, done.stderr
    tally = json.loads(done.stdout)
    assert tally["differences"] == []
    assert tally["finished"] == tally["points"] >= 4
    assert tally["hit"] >= tally["points"] / 2
