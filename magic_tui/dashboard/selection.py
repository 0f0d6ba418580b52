"""What the dashboard looks at: a run, one of its attributions, a query and a document."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.runs.run_folder import RunFolder

_DEPENDENT: dict[str, dict[str, Any]] = {
    "runs_dir": {"run": None, "attribution": None, "query": 0, "document": None},
    "run": {"attribution": None, "query": 0, "document": None},
    "attribution": {"query": 0, "document": None},
}
"""What a change makes meaningless, and what stands there then."""


@dataclass(frozen=True)
class Selection:
    """Nothing but names: whether they are there is for the reader to find out."""

    runs_dir: Path
    run: str | None = None
    """Id of a run."""
    attribution: str | None = None
    """Id of an attribution; None for the latest complete one."""
    query: int = 0
    document: int | None = None

    @property
    def folder(self) -> RunFolder | None:
        """The folder of the run, which may be gone."""
        return None if self.run is None else RunFolder(self.runs_dir / self.run)

    @property
    def latest(self) -> str | None:
        """Id of the run's latest complete attribution."""
        found = self.folder.attributions.glob("[!.]*/complete.json") if self.folder else ()
        return max((file.parent.name for file in found), default=None)

    def with_changes(self, **changes: Any) -> "Selection":
        """Fields replaced; what hung off a field that really changed starts anew."""
        follow: dict[str, Any] = {}
        for name, dependent in _DEPENDENT.items():
            if name in changes and changes[name] != getattr(self, name):
                follow = {**dependent, **follow}
        return replace(self, **{**follow, **changes})
