"""Pass a text to other programs: clipboard, tmux, a file, the pager.

OSC 52 reaches the user's clipboard only if every program in between passes it on, and gives no
answer. tmux drops it by default, so the tmux buffer is filled too. A file always works.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from engine.runs import paths
from engine.runs.atomic import write_atomically
from engine.runs.errors import MagicError
from engine.runs.temporary import scratch_folder

_TMUX_SECONDS = 5.0
_MOST_COPIES = 20
_LONGEST_PATH = 29
"""Keeps the message about a copy on one line of 80 cells."""


def copy_everywhere(text: str, name: str) -> list[str]:
    """Copy to tmux, if it runs here, and to a file; returns the destinations in short.

    The app itself writes to the terminal's clipboard.
    """
    destinations = ["clipboard"]
    if _to_tmux(text):
        destinations.append("tmux")
    path = _to_file(text, name)
    return [*destinations, _short(path.parent)] if path is not None else destinations


def copies_folder() -> Path:
    """The folder of the copies."""
    return paths.state_folder() / "copies"


def open_pager(app: App[Any], text: str) -> str | None:
    """Show ``text`` in ``$PAGER``, else in less; returns the problem, if any.

    The text must be safe already: a pager may pass control characters through.
    """
    try:
        command = shlex.split(os.environ.get("PAGER") or "less")
    except ValueError:
        return "$PAGER is not a command"
    with scratch_folder("page") as folder:
        file = folder / "document.txt"
        file.write_text(text, errors="replace")
        try:
            with app.suspend():
                subprocess.run([*command, str(file)], check=False)
        except SuspendNotSupported:
            return "this terminal cannot run a pager"
        except OSError as error:
            return f"the pager {command[0]} does not start: {error.strerror}; set $PAGER"
    return None


def _short(folder: Path) -> str:
    """A folder's path relative to the home folder; the end of a long one."""
    with contextlib.suppress(ValueError, RuntimeError):
        folder = Path("~") / folder.relative_to(Path.home())
    path = str(folder)
    return path if len(path) <= _LONGEST_PATH else f"…{path[1 - _LONGEST_PATH :]}"


def _to_tmux(text: str) -> bool:
    if not os.environ.get("TMUX") or shutil.which("tmux") is None:
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        finished = subprocess.run(
            ["tmux", "load-buffer", "-"],
            input=text.encode(errors="replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TMUX_SECONDS,
            check=False,
        )
        return finished.returncode == 0
    return False


def _to_file(text: str, name: str) -> Path | None:
    with contextlib.suppress(OSError, MagicError):
        folder = copies_folder()
        path = folder / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.txt"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(errors="replace"))
        for old in sorted(folder.glob("*.txt"), key=lambda p: p.stat().st_mtime)[:-_MOST_COPIES]:
            old.unlink()
        return path
    return None
