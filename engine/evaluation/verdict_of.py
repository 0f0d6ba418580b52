"""The verdict on an attribution for those who print it; loads nothing slow where there is none."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs.errors import MagicError

if TYPE_CHECKING:
    from engine.evaluation.verdict import Verdict


def verdict_of(run: Path, attribution: str | None = None) -> "Verdict | None":
    """The verdict on an attribution of the run in a folder, the latest if none is named.

    None if no attribution is complete; what cannot be read is doubtful, and says why.
    """
    if next(run.glob("attributions/[!.]*/complete.json"), None) is None:
        return None
    from engine.evaluation.trust import read_verdict
    from engine.evaluation.verdict import Verdict

    try:
        return read_verdict(run, attribution)
    except (MagicError, OSError, ValueError) as error:
        return Verdict("!", "the validation cannot be read", "yellow", str(error))
