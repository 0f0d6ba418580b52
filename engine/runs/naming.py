"""Where runs live and what they are called; imports nothing that is slow."""

import os
import time
from pathlib import Path


def runs_folder(given: Path | None = None) -> Path:
    """Where runs live: the argument, $MAGIC_RUNS, or the XDG data folder."""
    if given is not None:
        return given.expanduser()
    if os.environ.get("MAGIC_RUNS"):
        return Path(os.environ["MAGIC_RUNS"]).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "magic" / "runs"


def new_run_id() -> str:
    """An id that sorts by time of creation, to the millisecond."""
    now = time.time()
    second = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    return f"{second}-{int(now % 1 * 1000):03x}{os.urandom(3).hex()[:5]}"
