"""Copying out of a terminal, where nobody knows which way works.

OSC 52 reaches the user's own clipboard if every program in between lets it through, and nothing
answers whether it did; tmux drops it unless told otherwise, so its own buffer is filled too; a
file works always.
"""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from engine.runs import paths
from engine.runs.atomic import write_atomically
from engine.runs.errors import MagicError

_TMUX_SECONDS = 5.0
_KEPT = 20
_LONGEST_PATH = 30
"""So that where a copy went fits in one line of 80 cells."""


def copy_everywhere(text: str, name: str) -> list[str]:
    """Copy to tmux, if this is one, and to a file; where it went, in a few words.

    The terminal's clipboard is the caller's: only the app may write to the terminal.
    """
    went = ["clipboard"]
    if _to_tmux(text):
        went.append("tmux")
    path = _to_file(text, name)
    return [*went, _short(path.parent)] if path is not None else went


def copies_folder() -> Path:
    """Where copies are kept."""
    return paths.state_folder() / "copies"


def _short(folder: Path) -> str:
    """A folder's path as people write it; of a long one the end."""
    with contextlib.suppress(ValueError, RuntimeError):
        folder = Path("~") / folder.relative_to(Path.home())
    path = str(folder)
    return path if len(path) <= _LONGEST_PATH else f"…{path[1 - _LONGEST_PATH :]}"


def _to_tmux(text: str) -> bool:
    if not os.environ.get("TMUX") or shutil.which("tmux") is None:
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ["tmux", "load-buffer", "-"],
            input=text.encode(errors="replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TMUX_SECONDS,
            check=False,
        )
        return done.returncode == 0
    return False


def _to_file(text: str, name: str) -> Path | None:
    with contextlib.suppress(OSError, MagicError):
        folder = copies_folder()
        path = folder / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.txt"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(errors="replace"))
        for old in sorted(folder.glob("*.txt"), key=lambda p: p.stat().st_mtime)[:-_KEPT]:
            old.unlink()
        return path
    return None
