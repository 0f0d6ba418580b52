"""What a list of runs says about each, read from its folder."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from engine.contract.config import RunConfig
from engine.contract.errors import MagicError
from engine.contract.events import Event, Phase
from engine.records.atomic import size_on_disk
from engine.records.run_folder import RunFolder
from engine.records.score_store import list_attributions

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class RunSummary:
    """One run; ``problem`` says why the rest is missing if its files cannot be read."""

    id: str
    name: str = ""
    state: str = UNREADABLE
    model: str = ""
    steps: int = 0
    total_steps: int | None = None
    documents: int | None = None
    attributions: int = 0
    trajectory_bytes: int = 0
    scores_bytes: int = 0
    created: float | None = None
    problem: str | None = None

    @property
    def age(self) -> float | None:
        """Seconds since it was made."""
        return None if self.created is None else max(0.0, time.time() - self.created)

    def facts(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return {**asdict(self), "age": self.age}


def summarise(run: RunFolder) -> RunSummary:
    """Read what a list shows of a run; never fails because of what is in its folder."""
    try:
        return _read(run, run.config())
    except (MagicError, OSError) as error:
        return RunSummary(run.id, problem=str(error))


def _read(run: RunFolder, config: RunConfig) -> RunSummary:
    events = run.events()
    steps = [e["step"] + 1 for e in events if e["event"] == Event.TRAIN_STEP]
    totals = [e["total"] for e in events if e.get("phase") == Phase.TRAIN]
    return RunSummary(
        id=run.id,
        name=config.name,
        state=str(run.state()),
        model=config.model.path,
        steps=max(steps, default=0),
        total_steps=totals[-1] if totals else None,
        documents=_count_documents(run),
        attributions=len(list_attributions(run.attributions)),
        trajectory_bytes=size_on_disk(run.trajectory),
        scores_bytes=size_on_disk(run.attributions),
        created=float(run.record()["created"]),
    )


def _count_documents(run: RunFolder) -> int | None:
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(run.documents_file).num_rows)
    except Exception:
        # Not written yet, or damaged: whoever reads the documents will say which.
        return None
