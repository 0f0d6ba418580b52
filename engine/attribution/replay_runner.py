"""Replaying the queries of an attribution in passes that fit into memory, saved along the way."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.attribution.findings import replay_findings
from engine.attribution.prediction import pass_limits
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.process import Stop
from engine.attribution.queries import QueryRequest, measurement_batches
from engine.attribution.reporting import Reporter
from engine.replay.rounding import growth, relative_rounding
from engine.runs.config import Granularity
from engine.runs.errors import StoppedError
from engine.runs.events import Event, Phase
from engine.runs.manifest import part_folder
from engine.runs.score_store import ScoreShape, ScoreWriter
from engine.runs.tables import read_table
from engine.trajectory.replay_checkpoints import ReplayCheckpoint, ReplayCheckpoints, ReplayState
from engine.trajectory.tensor_files import DamagedFileError

DocumentSums = Callable[[NDArray[np.floating[Any]]], NDArray[np.float64]]


class ReplayRunner:
    """Replays those queries of one attribution whose scores are not written yet.

    Queries that equal each other exactly are replayed once; all of them get the scores.
    """

    def __init__(
        self,
        request: QueryRequest,
        prepared: PreparedRun,
        report: Reporter,
        stop: Stop,
        save_seconds: float,
    ) -> None:
        """Resume from what the staging folder of ``request`` holds."""
        self.request = request
        self.prepared = prepared
        self.report = report
        self.stop = stop
        self.ranks = prepared.trainer.ranks
        self.measurements = measurement_batches(request.queries, prepared)
        self.replayed = request.queries.replayed
        folder = part_folder(request.staging, self.ranks.index, self.ranks.count)
        folder.mkdir(exist_ok=True)
        self.saves = ReplayCheckpoints(folder, save_seconds)
        self.stream = prepared.stream(request.granularity)
        self.sums = document_sums(prepared, request.granularity)

    def run(self) -> None:
        """Replay and write the missing queries, then write the completion record."""
        with self.saves:
            self._run()

    def _run(self) -> None:
        saved = self._agreed(self._saved())
        # The records of rank 0 hold for all ranks.
        written, before = self.ranks.all_gather((self.saves.written(), self.saves.passes()))[0]
        writer = self._writer(bool(written))
        passes, reason = self._passes(saved, written)
        steps = len(self.stream)
        total = (before + len(passes)) * steps
        self.report.phase(Phase.REPLAY, total, self.request.identifier)
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
            )
            # The state is passed without keeping a reference: the next pass needs the memory.
            self._pass(writer, chosen, saved.state if saved else None)
            saved = None
        self.ranks.barrier()
        if self.ranks.index == 0:
            self._complete(writer)

    def _writer(self, resume: bool) -> ScoreWriter | None:
        """The score writer of a shard group's first rank; rank 0 creates the store."""
        rows, tokens = self.prepared.rows.document_ids.shape
        shape = ScoreShape(
            len(self.measurements),
            rows,
            tokens,
            self.prepared.documents,
            len(self.prepared.order),
            "float64" if self.prepared.config.model.dtype == "float64" else "float32",
            self.request.granularity,
        )
        folder, first = self.request.staging, self.ranks.index == 0
        writer = ScoreWriter(folder, shape, resume=resume) if first else None
        self.ranks.barrier()
        if not first and self.ranks.shard_group.index == 0:
            writer = ScoreWriter(folder, shape, resume=True)
        self.ranks.barrier()
        return writer

    def _agreed(self, saved: ReplayCheckpoint | None) -> ReplayCheckpoint | None:
        """The checkpoint, if all ranks saved the same step of the same pass."""
        steps = self.ranks.all_gather(None if saved is None else saved.state.step)
        return saved if all(step == steps[0] for step in steps) else None

    def _saved(self) -> ReplayCheckpoint | None:
        """The checkpoint of an interrupted pass; None, after a warning, if it is damaged."""
        self.report.reproduced = self.saves.reproduced()
        if self.saves.damage is not None:
            self.report(Event.WARNING, message=self.saves.damage)
        try:
            saved = self.saves.latest(self.prepared.device)
        except DamagedFileError as error:
            self.report(Event.WARNING, message=f"{error}; this replay begins again")
            return None
        if saved is not None:
            self.report.reproduced = saved.reproduced
        return saved

    def _passes(
        self, saved: ReplayCheckpoint | None, written: set[int]
    ) -> tuple[list[list[int]], str]:
        """The queries of every remaining pass, and the reason for their number."""
        groups = self.ranks.all_gather([] if saved is None else saved.queries)
        begun = sorted({query for queries in groups for query in queries})
        done = {*written, *begun}
        distinct = sorted(set(self.replayed))
        left = [query for query in distinct if query not in done]
        first, reason = [begun] if begun else [], "as many as before the interruption"
        if not left:
            return first, reason
        schedule = self.request.folder.prepared()["checkpointing"]
        # Planned for all queries, so that a resumed attempt takes passes of the same size.
        limits = pass_limits(self.prepared, self.request.granularity)
        passes = limits.passes(len(distinct), schedule)
        size = passes.per_pass
        rest = [left[start : start + size] for start in range(0, len(left), size)]
        return first + rest, passes.reason

    def _pass(
        self, writer: ScoreWriter | None, chosen: list[int], begun: ReplayState | None
    ) -> None:
        """Replay the queries of one pass, each shard group its own, and write their scores."""
        trainer = self.prepared.trainer
        own = chosen[self.ranks.replica_index :: self.ranks.replicas]

        def after_step(state: ReplayState) -> None:
            # After step 0 the scores themselves are written.
            if state.step == 0:
                return
            stop, due = self._stop_or_save()
            if stop or due:
                size = self.saves.save(ReplayCheckpoint(own, state, self.report.reproduced))
                self.report(Event.CHECKPOINT, kind="replay", step=state.step, bytes=size)
                if stop:
                    raise StoppedError(f"stopped at step {state.step}")

        with trainer.open(self.request.folder.trajectory) as reader:
            state = begun or trainer.begin_replay(
                reader, self.stream, [self.measurements[query] for query in own]
            )
            with self.stop.between_steps():
                trainer.replay(
                    reader, self.stream, state, observer=self.report, after_step=after_step
                )
        if writer is not None:
            for place, query in enumerate(own):
                weights = state.scores[place].double().numpy()
                sums, steps = self.sums(weights), state.steps[place].numpy()
                for each, replayed in enumerate(self.replayed):
                    if replayed == query:
                        writer.write(each, weights, sums, steps)
            writer.sync()
        self._mark_written(own, state)

    def _mark_written(self, own: list[int], state: ReplayState) -> None:
        """Record a pass as written, with the signals of all groups' queries."""
        of_ranks = self.ranks.all_gather((own, state.signals, state.query_losses))
        of_groups = of_ranks[:: self.ranks.shard_group.count]
        queries = [query for of_group, _, _ in of_groups for query in of_group]
        signals = torch.cat([of_group for _, of_group, _ in of_groups])
        phi = torch.cat([of_group for _, _, of_group in of_groups])
        self.saves.mark_written(queries, self.report.reproduced, signals, phi)

    def _stop_or_save(self) -> tuple[bool, bool]:
        """Whether any rank should stop, and whether any rank's save is due."""
        of_ranks = self.ranks.all_gather((self.stop(), self.saves.is_due()))
        return any(stop for stop, _ in of_ranks), any(due for _, due in of_ranks)

    def _complete(self, writer: ScoreWriter | None) -> None:
        assert writer is not None
        queries = self.request.queries
        facts: dict[str, Any] = {
            "created": time.time(),
            "reduction": queries.reduction,
            "granularity": self.request.granularity,
            "passes": self.saves.passes(),
            "reproduced": self.report.reproduced,
            # How far the run's derivatives are from finite differences.
            "derivative": self.request.folder.prepared().get("derivative"),
            **self._rounding(),
            **queries.facts(),
        }
        if len(set(self.replayed)) < len(self.replayed):
            facts["replayed"] = self.replayed
        facts["findings"] = self._findings(writer, facts)
        record = self.request.folder.record()
        writer.complete(record["run_id"], record["config_hash"], facts)

    def _rounding(self) -> dict[str, Any]:
        """By query, the expected relative error from rounding, and the cotangents' growth."""
        of_queries = self.saves.signals()
        pairs = (of_queries[query] for query in self.replayed)
        signals, phi = map(torch.stack, zip(*pairs, strict=True))
        errors = relative_rounding(signals, self.prepared.trainer.dtype, phi).tolist()
        return {
            "rounding": [None if math.isnan(error) else error for error in errors],
            "cotangents": growth(signals),
        }

    def _findings(self, writer: ScoreWriter, facts: dict[str, Any]) -> list[dict[str, Any]]:
        """Problems of the written scores, given the other facts of the completion record."""
        table = read_table(self.request.staging / "queries.parquet").to_pydict()
        losses = [0.0] * writer.shape.queries
        columns = (table[name] for name in ("measurement", "loss_before", "loss_after"))
        for query, before, after in zip(*columns, strict=True):
            losses[query] += max(abs(before), abs(after))
        sizes = [(writer.largest(query), loss) for query, loss in enumerate(losses)]
        findings = replay_findings(facts["rounding"], facts["cotangents"], sizes)
        return [asdict(finding) for finding in findings]


def document_sums(prepared: PreparedRun, granularity: Granularity) -> DocumentSums:
    """The function from the scores of a stream's weights to the scores of its documents."""
    if granularity == "document":
        return lambda scores: scores.astype(np.float64)
    owners = prepared.rows.document_ids.ravel()
    known = owners >= 0

    def sums(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.bincount(owners[known], scores.ravel()[known], prepared.documents).astype(
            np.float64
        )

    return sums
