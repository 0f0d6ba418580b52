"""What of a run's data is not trained on, as it was settled when the run was prepared."""

from pathlib import Path
from typing import Any

from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder


def unused_data(run: Path) -> dict[str, Any]:
    """The facts of the run in a folder; empty if all is used, or it was never prepared.

    ``left_out`` (documents with nothing to predict, by the reason), ``left_out_first`` (where the
    first few stand), ``cut`` (documents longer than the model reads) and ``cut_tokens``.
    """
    try:
        facts = dict(RunFolder(run).prepared().get("data") or {})
    except (RunError, OSError, TypeError, ValueError):
        # Whatever needs the file says what is wrong with it.
        return {}
    return facts if facts.get("left_out") or facts.get("cut") else {}
