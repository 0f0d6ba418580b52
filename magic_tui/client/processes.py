"""Processes of ours: how they are called, what they inherit, what they left in their logs."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from engine.runs.environment import child_environment

# -P: a file in the user's folder named like a library must not be imported in its place.
PYTHON = (sys.executable, "-P", "-m")
ENGINE_COMMAND = [*PYTHON, "engine.daemon"]


def spawn_engine(log: Path) -> "subprocess.Popen[bytes]":
    """Start an engine that has nothing of this terminal; what it says goes to ``log``."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [*ENGINE_COMMAND, "--log", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            env=child_environment(os.environ),
        )
    # Somebody has to collect it, or it stays a zombie for as long as this process lives.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def last_lines(log: Path, count: int) -> list[str]:
    """The end of a log file; nothing if it cannot be read."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").strip().splitlines()[-count:]
    return []
