"""The engine: one queue over any number of runs folders."""

from pathlib import Path
from typing import Literal

from engine.contract.api import EngineView, Removed, RunView, SubmitAttribution, SubmitRun
from engine.daemon.settings import Settings

Verb = Literal["pause", "resume", "cancel"]
What = Literal["run", "trajectory"]


class Engine:
    """Everything the HTTP interface can ask for; safe to call from several threads."""

    def __init__(self, state_folder: Path, settings: Settings) -> None:
        """Keep leases and the registry in ``state_folder``."""
        raise NotImplementedError

    def start(self) -> None:
        """Take up the runs that there are and begin to schedule."""
        raise NotImplementedError

    def stop(self) -> None:
        """End scheduling; runs go on."""
        raise NotImplementedError

    def submit(self, wanted: SubmitRun) -> tuple[RunView, bool]:
        """Queue a run durably; returns it and whether it was made now."""
        raise NotImplementedError

    def attribute(self, runs_dir: Path, run_id: str, wanted: SubmitAttribution) -> RunView:
        """Queue queries of a run's trajectory durably."""
        raise NotImplementedError

    def wish(self, runs_dir: Path, run_id: str, verb: Verb) -> RunView:
        """Pause, resume or cancel the unfinished jobs of a run."""
        raise NotImplementedError

    def remove(self, runs_dir: Path, run_id: str, what: What) -> Removed:
        """Remove a run, or its trajectory alone."""
        raise NotImplementedError

    def runs(self, runs_dir: Path) -> list[RunView]:
        """All runs in a folder, oldest first."""
        raise NotImplementedError

    def run(self, runs_dir: Path, run_id: str) -> RunView:
        """One run."""
        raise NotImplementedError

    def find(self, runs_dir: Path, wanted: str | None) -> RunView:
        """The run of an id, a unique prefix or a name; the latest if left out."""
        raise NotImplementedError

    def view(self, socket: str) -> EngineView:
        """The engine and its machine."""
        raise NotImplementedError

    def changes(self) -> int:
        """Grows whenever any run's view changed."""
        raise NotImplementedError
