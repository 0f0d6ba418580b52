"""Short sweeps; ``make test-crash`` runs them at every file operation."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(("checkpointing", "harm", "every"), CASES)
def test_interrupted_ranks_give_the_same_bytes(checkpointing: str, harm: str, every: int) -> None:
    command = [sys.executable, "-m", "tests.crash.sweep", "--checkpointing", checkpointing]
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
