"""Files of a run are private, whatever the umask of the shell."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_all_files_of_a_run_are_private(
    config: dict[str, Any], start: Callable[..., dict[str, Any]]
) -> None:
    before = os.umask(0)
    try:
        run = Path(start(config)["path"])
    finally:
        os.umask(before)
    open_to_others = [
        (str(path.relative_to(run.parent)), oct(stat.S_IMODE(path.stat().st_mode)))
        for path in (run, *run.rglob("*"))
        if path.stat().st_mode & 0o077
    ]
    assert not open_to_others
