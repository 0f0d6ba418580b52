"""Reading a text in the user's own pager while the dashboard steps aside."""

import os
import shlex
import subprocess
from typing import Any

from textual.app import App, SuspendNotSupported

from engine.runs.temporary import scratch_folder


def page(app: App[Any], text: str) -> str | None:
    """Show ``text`` in ``$PAGER``, else in less; what went wrong, if anything did.

    The text has to be safe already: a pager may pass control characters through.
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
            return "no other program can be shown here"
        except OSError as error:
            return f"the pager {command[0]} does not start: {error.strerror}; set $PAGER"
    return None
