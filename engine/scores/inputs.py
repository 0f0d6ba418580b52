"""What a run was made from, in short; loads nothing slow."""

import contextlib
from pathlib import Path
from typing import Any

from engine.runs.errors import RunError
from engine.runs.inputs import short_form
from engine.runs.run_folder import RunFolder


def made_from_of(run: Path) -> dict[str, Any] | None:
    """Short digests of the weights, data, files and code of the run in a folder.

    None before it is prepared, or if an older magic prepared it. A damaged record is passed over:
    whatever works with the run says so.
    """
    with contextlib.suppress(OSError, RunError, KeyError, TypeError, AttributeError):
        return short_form(RunFolder(run).prepared()["fingerprint"])
    return None
