"""Replaying an attribution's queries in passes that fit into memory, saved along the way."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attribution.budget import budget_of
from engine.attribution.findings import replay_findings
from engine.attribution.prepared_run import Job
from engine.attribution.query_request import QueryRequest
from engine.attribution.replay_memory import needs_of
from engine.attribution.reporter import Reporter
from engine.attribution.stop import Stop
from engine.replay.rounding import growth, relative_rounding
from engine.runs.config import Granularity
from engine.runs.errors import StoppedError
from engine.runs.events import Event, Phase
from engine.runs.manifest import part_folder
from engine.runs.score_store import ScoreShape, ScoreWriter
from engine.runs.tables import read_table
from engine.training.data_stream import DataStream
from engine.training.measurements import Measurement
from engine.training.trainer import Trainer
from engine.trajectory.reader import TrajectoryReader
from engine.trajectory.replay_checkpoints import ReplayCheckpoint, ReplaySaves, ReplayState
from engine.trajectory.tensor_files import DamagedFileError

COMPLETION_FACTS = ("created", "reduction", "granularity", "passes", "reproduced", "cotangents")
"""What every completion record says."""
DocumentSums = Callable[[NDArray[np.floating[Any]]], NDArray[np.float64]]


@dataclass(frozen=True)
class ReplayTargets:
    """What is replayed, and where its scores go."""

    measurements: list[Measurement]
    folder: Path
    dtype: str
    """Of the scores as they are stored."""
    directions: Tensor | None = None
    """(direction, measurement): a basis of the measurements, replayed in their place."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the completion record says besides."""

    def __len__(self) -> int:
        return len(self.measurements if self.directions is None else self.directions)

    def begin(
        self, trainer: Trainer, reader: TrajectoryReader, stream: DataStream, chosen: list[int]
    ) -> ReplayState:
        """Some of them at the end of training."""
        if self.directions is not None:
            rows = self.directions[chosen]
            return trainer.begin_replay(reader, stream, self.measurements, rows)
        asked = [self.measurements[query] for query in chosen]
        return trainer.begin_replay(reader, stream, asked)

    def shape(self, job: Job, granularity: Granularity) -> ScoreShape:
        """The sizes of its scores."""
        rows, tokens = job.rows.document_ids.shape
        return ScoreShape(
            len(self),
            rows,
            tokens,
            job.documents,
            len(job.order),
            self.dtype,
            granularity,
        )


class ReplayRunner:
    """Replays those measurements of one attribution that are not written yet."""

    def __init__(
        self,
        replayed: ReplayTargets,
        asking: QueryRequest,
        job: Job,
        report: Reporter,
        stop: Stop,
        save_seconds: float,
    ) -> None:
        """Go on with what the folder of ``replayed`` holds."""
        self.replayed = replayed
        self.asking = asking
        self.job = job
        self.report = report
        self.stop = stop
        self.ranks = job.trainer.ranks
        folder = part_folder(replayed.folder, self.ranks.index, self.ranks.count)
        folder.mkdir(exist_ok=True)
        self.saves = ReplaySaves(folder, save_seconds)
        self.stream = job.stream(asking.granularity)
        self.sums = document_sums(job, asking.granularity)

    def run(self) -> None:
        """Replay and write what is lacking, then name the scores complete."""
        with self.saves:
            self._run()

    def _run(self) -> None:
        saved = self._agreed(self._saved())
        # The first rank keeps the books.
        written, before = self.ranks.everyone((self.saves.written(), self.saves.passes()))[0]
        writer = self._writer(bool(written))
        passes, reason = self._passes(saved, written)
        steps = len(self.stream)
        total = (before + len(passes)) * steps
        self.report.phase(Phase.REPLAY, total, self.asking.identifier)
        if saved is not None or written:
            step = steps if saved is None else saved.state.step
            done = before * steps + steps - step
            self.report(Event.RESUMED, phase=str(Phase.REPLAY), step=step, done=done)
        for number, chosen in enumerate(passes, start=before):
            self.report(
                Event.PASS,
                number=number,
                passes=before + len(passes),
                queries=chosen,
                reason=reason,
                **({} if self.replayed.directions is None else {"directions": True}),
            )
            # Taken and not kept in a name: the next pass needs the memory.
            self._pass(writer, chosen, saved.state if saved else None)
            saved = None
        self.ranks.wait()
        if self.ranks.index == 0:
            self._complete(writer)

    def _writer(self, resume: bool) -> ScoreWriter | None:
        """Where the first rank of a group writes scores, once the very first made the store."""
        shape = self.replayed.shape(self.job, self.asking.granularity)
        folder, first = self.replayed.folder, self.ranks.index == 0
        writer = ScoreWriter(folder, shape, resume=resume) if first else None
        self.ranks.wait()
        if not first and self.ranks.group.index == 0:
            writer = ScoreWriter(folder, shape, resume=True)
        self.ranks.wait()
        return writer

    def _agreed(self, saved: ReplayCheckpoint | None) -> ReplayCheckpoint | None:
        """What was saved, if all ranks have saved the same step of the same pass."""
        steps = self.ranks.everyone(None if saved is None else saved.state.step)
        return saved if all(step == steps[0] for step in steps) else None

    def _saved(self) -> ReplayCheckpoint | None:
        """The pass that was under way; None, after a warning, if what was saved is damaged."""
        self.report.reproduced = self.saves.reproduced()
        if self.saves.damage is not None:
            self.report(Event.WARNING, message=self.saves.damage)
        try:
            saved = self.saves.latest(self.job.device)
        except DamagedFileError as error:
            self.report(Event.WARNING, message=f"{error}; this replay begins again")
            return None
        if saved is not None:
            self.report.reproduced = saved.reproduced
        return saved

    def _passes(
        self, saved: ReplayCheckpoint | None, written: set[int]
    ) -> tuple[list[list[int]], str]:
        """The queries of every pass to come, and why so many at a time."""
        groups = self.ranks.everyone([] if saved is None else saved.queries)
        begun = sorted({query for queries in groups for query in queries})
        done = {*written, *begun}
        left = [query for query in range(len(self.replayed)) if query not in done]
        first, reason = [begun] if begun else [], "as many as before the interruption"
        if not left:
            return first, reason
        needs = needs_of(self.job, self.asking.granularity)
        schedule = self.asking.folder.prepared()["schedule"]
        # As of all, so that one that was interrupted goes on with as many at a time.
        budget = budget_of(self.job, needs, len(self.replayed), schedule)
        size = budget.queries_per_pass
        rest = [left[start : start + size] for start in range(0, len(left), size)]
        return first + rest, budget.reason

    def _pass(
        self, writer: ScoreWriter | None, chosen: list[int], begun: ReplayState | None
    ) -> None:
        trainer = self.job.trainer
        own = chosen[self.ranks.group_index :: self.ranks.groups]

        def after_step(state: ReplayState) -> None:
            # The last step is followed by the scores themselves.
            if state.step == 0:
                return
            stop, due = self._wishes()
            if stop or due:
                size = self.saves.save(ReplayCheckpoint(own, state, self.report.reproduced))
                self.report(Event.CHECKPOINT, kind="replay", step=state.step, bytes=size)
                if stop:
                    raise StoppedError(f"stopped at step {state.step}")

        with trainer.open(self.asking.folder.trajectory) as reader:
            state = begun or self.replayed.begin(trainer, reader, self.stream, own)
            with self.stop.between_steps():
                trainer.replay(
                    reader, self.stream, state, observer=self.report, after_step=after_step
                )
        if writer is not None:
            for place, query in enumerate(own):
                weights = state.scores[place].double().numpy()
                writer.write(query, weights, self.sums(weights), state.steps[place].numpy())
            writer.sync()
        self._mark_written(own, state)

    def _mark_written(self, own: list[int], state: ReplayState) -> None:
        """Say that a pass is written, with what the estimate of rounding needs of all groups."""
        found = self.ranks.everyone((own, state.signals, state.measurements))
        of_groups = found[:: self.ranks.group.count]
        queries = [query for of_group, _, _ in of_groups for query in of_group]
        signals = torch.cat([of_group for _, of_group, _ in of_groups])
        phi = torch.cat([of_group for _, _, of_group in of_groups])
        self.saves.mark_written(queries, self.report.reproduced, signals, phi)

    def _wishes(self) -> tuple[bool, bool]:
        """Whether any rank is to stop, and whether it is time for all to save."""
        wishes = self.ranks.everyone((self.stop(), self.saves.is_due()))
        return any(stop for stop, _ in wishes), any(due for _, due in wishes)

    def _complete(self, writer: ScoreWriter | None) -> None:
        assert writer is not None
        facts: dict[str, Any] = {
            "created": time.time(),
            "reduction": self.asking.queries.reduction,
            "granularity": self.asking.granularity,
            "passes": self.saves.passes(),
            "reproduced": self.report.reproduced,
            # How far the run's derivatives are from finite differences.
            "derivative": self.asking.folder.prepared().get("derivative"),
            **self._rounding(),
            **self.replayed.facts,
        }
        if self.replayed.directions is None:
            facts["findings"] = findings_of(self.asking, writer, facts)
        record = self.asking.folder.record()
        writer.complete(record["run_id"], record["config_hash"], facts)

    def _rounding(self) -> dict[str, Any]:
        """By query, the relative error to expect, and how its cotangent grew."""
        found = self.saves.signals()
        signals, phi = map(torch.stack, zip(*(found[q] for q in range(len(found))), strict=True))
        of_losses = phi if self.replayed.directions is None else None
        errors = relative_rounding(signals, self.job.trainer.dtype, of_losses).tolist()
        return {
            "rounding": [None if math.isnan(error) else error for error in errors],
            "cotangents": growth(signals),
        }


def findings_of(
    asking: QueryRequest, writer: ScoreWriter, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """What is wrong with the scores written, given what their completion record says besides."""
    table = read_table(asking.staging / "queries.parquet").to_pydict()
    losses = [0.0] * writer.shape.queries
    columns = (table[name] for name in ("measurement", "loss_before", "loss_after"))
    for query, before, after in zip(*columns, strict=True):
        losses[query] += max(abs(before), abs(after))
    sizes = [(writer.largest(query), loss) for query, loss in enumerate(losses)]
    found = replay_findings(facts["rounding"], facts["cotangents"], sizes)
    return [asdict(finding) for finding in found]


def document_sums(job: Job, granularity: Granularity) -> DocumentSums:
    """How to get the documents' scores from those of the stream's weights."""
    if granularity == "document":
        return lambda scores: scores.astype(np.float64)
    owners = job.rows.document_ids.ravel()
    known = owners >= 0

    def sums(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.bincount(owners[known], scores.ravel()[known], job.documents).astype(np.float64)

    return sums
