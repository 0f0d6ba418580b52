"""The LDS and the verdict of runs in lists; loads numpy only for runs that have scores."""

from pathlib import Path

from engine.evaluation.verdict import Verdict
from engine.runs.errors import MagicError, RunError
from engine.runs.states import View

_FILE = "validation.csv"
Deciding = tuple[str, float] | None
"""The kind of subsets that decides the verdict, and its LDS; None if there is no LDS."""


def verdict_of(run: Path, attribution: str | None = None) -> Verdict | None:
    """The verdict on an attribution of the run in a folder, by default on the latest.

    None if no attribution is complete. If a file cannot be read, the verdict is doubtful and its
    reason names the file.
    """
    if next(run.glob("attributions/[!.]*/complete.json"), None) is None:
        return None
    from engine.evaluation.trust import read_verdict

    try:
        return read_verdict(run, attribution)
    except (MagicError, OSError, ValueError) as error:
        return Verdict("!", "the validation cannot be read", "yellow", str(error))


class LdsIndex:
    """The LDS of the latest attribution of each run, cached by file; for use in one thread."""

    def __init__(self) -> None:
        """Start with an empty cache."""
        self._latest: dict[str, tuple[int, Path | None]] = {}
        self._cached: dict[Path, tuple[tuple[int, int], Deciding]] = {}

    def with_lds(self, runs: list[View]) -> list[View]:
        """The same runs, each with a field ``lds``."""
        return [{**run, "lds": self._lds(run)} for run in runs]

    def _lds(self, run: View) -> Deciding:
        folder = self._attribution(run)
        if folder is None:
            return None
        try:
            status = (folder / _FILE).stat()
        except OSError:
            return None
        stamp = status.st_mtime_ns, status.st_size
        cached = self._cached.get(folder)
        if cached is None or cached[0] != stamp:
            cached = self._cached[folder] = stamp, _read(folder)
        return cached[1]

    def _attribution(self, run: View) -> Path | None:
        """The latest complete attribution, searched again when their number changes."""
        count, path = run["attributions"], str(run["path"])
        cached = self._latest.get(path)
        if cached is None or cached[0] != count:
            files = Path(path, "attributions").glob("[!.]*/complete.json") if count else ()
            latest = max((file.parent for file in files), default=None)
            cached = self._latest[path] = count, latest
        return cached[1]


def _read(attribution: Path) -> Deciding:
    from engine.evaluation.validation import read_validation

    try:
        validation = read_validation(attribution)
    except (RunError, OSError):
        return None
    deciding = None if validation is None else validation.deciding
    return None if deciding is None else (deciding[0], deciding[1].lds)
