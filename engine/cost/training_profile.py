"""A training that is about to start, measured on a few of its own steps."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.cost.checkpointing_choice import KINDS, Estimate, choose, measures_times
from engine.cost.disk_speed import measure_disk
from engine.cost.measured import FreeSpace, MeasuredSeconds, TrainingCosts
from engine.cost.memory_probe import GraphBytes, graph_bytes, measure_footprint
from engine.cost.peak_memory import Footprint
from engine.cost.query_passes import QueryPasses, ReplayMemory
from engine.cost.step_times import StepBatches, measure_steps
from engine.distributed.rank_setup import free_memory
from engine.replay.derivatives import needs_all_directions
from engine.replay.state import Batch, Gradient, TrainState
from engine.replay.train_step import TrainStep
from engine.runs.config import CheckpointingName
from engine.trajectory.reader import gradient_tensors, state_tensors
from engine.trajectory.tensor_files import encoded_bytes


@dataclass(frozen=True)
class TrainingProfile:
    """Measures a training, given its step function, s_0 and its batches."""

    step: TrainStep
    state: TrainState
    stream: StepBatches

    @property
    def device(self) -> torch.device:
        """The computing device."""
        return next(iter(self.state.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(iter(self.state.params.values())).dtype

    def plan(self, folder: Path, checkpointing: CheckpointingName) -> tuple[Estimate, str]:
        """The checkpointing of a training without queries, and the reason.

        Measures times only if the choice depends on them.
        """
        costs = self.costs(folder if measures_times(checkpointing, len(self.stream)) else None)
        passes = dict.fromkeys(KINDS, QueryPasses())
        return choose(costs, passes, self.free_space(folder), checkpointing)

    def free_space(self, folder: Path) -> FreeSpace:
        """Free bytes on the disk of ``folder`` and in the memory of the computing device."""
        return FreeSpace(shutil.disk_usage(folder).free, free_memory(self.device))

    def costs(
        self,
        folder: Path | None,
        passes: QueryPasses | None = None,
        queries: Sequence[Batch] = (),
    ) -> TrainingCosts:
        """Sizes, and the times of real steps and of the disk of ``folder``.

        Args:
            folder: where the trajectory will be written; None measures no times.
            passes: how the queries are divided among passes; by default one query.
            queries: all batches of the queries.
        """
        gradient = Gradient(self.state.params, self.state.buffers)
        sizes = self.state_bytes, encoded_bytes(gradient_tensors(gradient))
        seconds, passes = None, passes or QueryPasses()
        if folder is not None:
            times = measure_steps(self.step, self.state, self.stream, queries, passes.per_replica)
            disk = measure_disk(folder, self.state_bytes, self.device)
            query = times.evaluation(queries) / passes.queries
            seconds = MeasuredSeconds(times.step, disk, query)
        return TrainingCosts(len(self.stream), *sizes, self.step.ranks.shard_group.count, seconds)

    @property
    def state_bytes(self) -> int:
        """File size of this rank's train state."""
        return encoded_bytes(state_tensors(self.state, self.step.stage))

    def widest_batch(self) -> Batch:
        """The batch with the most tokens."""
        return self.stream.batch(int(self.stream.sizes().argmax()), self.dtype)

    def widest_part(self, rows: int | None) -> Batch:
        """The first ``rows`` rows of a replaying rank's share of the widest batch."""
        return next(self.step.ranks.shard_group.own_rows(self.widest_batch()).split(rows))

    def graph_bytes(self, part: Batch, frozen: Iterable[Tensor], head_bytes: int) -> GraphBytes:
        """See :func:`engine.cost.memory_probe.graph_bytes`."""
        return graph_bytes(self.step, self.state, part, frozen, head_bytes)

    def replay_memory(self, graph: GraphBytes, score_bytes: int) -> ReplayMemory:
        """What this rank's replay takes.

        Args:
            graph: what the graph of the widest micro-batch saves.
            score_bytes: one query's scores in host memory.
        """
        state, step = self.state, self.step
        params = sum(p.numel() * p.element_size() for p in state.params.values())
        floats = step.stage.zero_cotangent(state.params, state.optimizer)
        optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
        buffers = sum(b.numel() * b.element_size() for b in state.buffers.values())
        parts = len(step.parts(self.widest_batch()))
        return ReplayMemory(
            params=params,
            cotangent=params + optimizer + buffers,
            scores=score_bytes,
            graph=graph.shared,
            tangents=graph.query,
            all_directions=needs_all_directions(step.loss, parts),
        )

    def footprint(self) -> Footprint:
        """The memory in use, and what the widest step adds at its peak."""
        part = self.widest_part(self.step.micro_batch_size)
        # Batch norm cannot differentiate a single row.
        first = part if self.state.buffers else self.widest_part(1)
        return measure_footprint(self.step, self.state, self.widest_batch(), part, first)
