"""What is left when the dashboard meets a mistake of its own: one sentence, and a file for us."""

import contextlib
import sys
import time
import traceback

from rich.text import Text
from textual.app import App

from engine.runs import paths
from engine.runs.errors import MagicError
from engine.runs.safe_text import one_line

_NAME = "dashboard-error.log"


class CrashNoteApp(App[None]):
    """An app that closes with a sentence after an error nobody foresaw, not with pages of code."""

    def _fatal_error(self) -> None:
        """Close; called where the error is being handled."""
        error = sys.exception()
        if error is not None and not self._exit_renderables:
            self.panic(Text(crash_sentence(error, traceback.format_exc())))


def crash_sentence(error: BaseException, trace: str) -> str:
    """Keep the trace of an unforeseen error; what to tell the user of it."""
    what = type(error).__name__
    with contextlib.suppress(OSError, MagicError):
        path = paths.state_folder() / _NAME
        path.write_text(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{trace}", errors="replace")
        path.chmod(0o600)
        where = one_line(str(path))
        return f"magic tui had to close ({what}); runs go on. Please report it with {where}"
    return f"magic tui had to close ({what}: {one_line(str(error))}); runs go on. Please report it"
