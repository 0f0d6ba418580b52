"""What the dashboard shows: a run, one of its attributions, a query and a document."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.runs.run_folder import RunFolder

_DEPENDENT: dict[str, dict[str, Any]] = {
    "runs_dir": {"run": None, "attribution": None, "query": 0, "document": None},
    "run": {"attribution": None, "query": 0, "document": None},
    "attribution": {"query": 0, "document": None},
}
"""Fields that a change of another field resets, and the values they are reset to."""


@dataclass(frozen=True)
class Selection:
    """The one selection that all screens share. It holds names only; readers check they exist."""

    runs_dir: Path
    run: str | None = None
    """Run id."""
    attribution: str | None = None
    """Attribution id; None selects the latest complete one."""
    query: int = 0
    document: int | None = None

    @property
    def folder(self) -> RunFolder | None:
        """The folder of the run; it may no longer exist."""
        return None if self.run is None else RunFolder(self.runs_dir / self.run)

    @property
    def latest(self) -> str | None:
        """Id of the run's latest complete attribution."""
        files = self.folder.attributions.glob("[!.]*/complete.json") if self.folder else ()
        return max((file.parent.name for file in files), default=None)

    def with_changes(self, **changes: Any) -> "Selection":
        """Replace fields; fields that depend on a changed field are reset."""
        resets: dict[str, Any] = {}
        for name, dependent in _DEPENDENT.items():
            if name in changes and changes[name] != getattr(self, name):
                resets = {**dependent, **resets}
        return replace(self, **{**resets, **changes})
