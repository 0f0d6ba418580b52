"""The LDS of many runs at a glance: a file is read again only once it has changed."""

import math
from pathlib import Path

from engine.contract.errors import RunError
from magic_tui.client.start import View

_FILE = "validation.csv"


class KnownLds:
    """What validation found of the latest attribution of runs; for one thread at a time."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._latest: dict[str, tuple[int, Path | None]] = {}
        self._known: dict[Path, tuple[tuple[int, int], float | None]] = {}

    def with_lds(self, runs: list[View]) -> list[View]:
        """The same runs, each with its ``lds``; None where nothing was validated."""
        return [{**run, "lds": self._lds(run)} for run in runs]

    def _lds(self, run: View) -> float | None:
        folder = self._attribution(run)
        if folder is None:
            return None
        try:
            status = (folder / _FILE).stat()
        except OSError:
            return None
        stamp = status.st_mtime_ns, status.st_size
        known = self._known.get(folder)
        if known is None or known[0] != stamp:
            known = self._known[folder] = stamp, _read(folder)
        return known[1]

    def _attribution(self, run: View) -> Path | None:
        """Its latest complete attribution, looked for only when there are more or fewer of them."""
        count, path = run["attributions"], str(run["path"])
        known = self._latest.get(path)
        if known is None or known[0] != count:
            found = Path(path, "attributions").glob("[!.]*/complete.json") if count else ()
            latest = max((file.parent for file in found), default=None)
            known = self._latest[path] = count, latest
        return known[1]


def _read(attribution: Path) -> float | None:
    # Only who has validated something waits for what computes with it.
    from magic_tui.client.validation import read_validation

    try:
        validation = read_validation(attribution)
    except (RunError, OSError):
        return None
    lds = math.nan if validation is None else validation.lds
    return None if math.isnan(lds) else lds
