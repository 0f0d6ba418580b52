"""The LDS of many runs at a glance: a file is read again only once it has changed."""

import contextlib
from pathlib import Path

from engine.runs.errors import RunError
from engine.runs.states import View

_FILE = "validation.csv"


def kind_text(kind: str) -> str:
    """Which subsets an LDS is that of, as it follows its number: ``at 5 %`` for ``drop 0.05``."""
    name, _, value = kind.rpartition(" ")
    if name == "drop":
        with contextlib.suppress(ValueError):
            return f"at {100 * float(value):g} %"
    if name == "drop-top":
        return f"without the {value} that help most"
    return {"": "", "leave-one-out": "of single documents"}.get(kind, f"of {kind}")


def drop_kind(share: float) -> str:
    """The kind of random subsets of this share of the documents."""
    return f"drop {share:g}"


class KnownLds:
    """What validation found of the latest attribution of runs; for one thread at a time."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._latest: dict[str, tuple[int, Path | None]] = {}
        self._known: dict[Path, tuple[tuple[int, int], tuple[str, float] | None]] = {}

    def with_lds(self, runs: list[View]) -> list[View]:
        """The same runs, each with ``lds``: the kind of subsets that decides, and the LDS of it.

        None where there is none.
        """
        return [{**run, "lds": self._lds(run)} for run in runs]

    def _lds(self, run: View) -> tuple[str, float] | None:
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


def _read(attribution: Path) -> tuple[str, float] | None:
    # Only who has validated something waits for what computes with it.
    from engine.evaluation.predictions import read_validation

    try:
        validation = read_validation(attribution)
    except (RunError, OSError):
        return None
    deciding = None if validation is None else validation.deciding
    return None if deciding is None else (deciding[0], deciding[1].lds)
