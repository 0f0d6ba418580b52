"""A mesh of ranks over torch.distributed: replica groups of shards.

Rank r of a mesh with S shards holds shard r mod S of replica r div S. CPU tensors use gloo and CUDA
tensors NCCL.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.distributed.gathered import Gathered
from engine.replay.ranks import Ranks, Value
from engine.replay.state import Params

# Their names before torch 2.13.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class ProcessRanks(Ranks):
    """The ranks of one process group."""

    def __init__(self, processes: dist.ProcessGroup | None = None) -> None:
        """Wrap a process group; default all processes."""
        self._processes: Any = processes or dist.group.WORLD
        self.index = dist.get_rank(self._processes)
        self.count = dist.get_world_size(self._processes)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over these ranks."""
        total = value.clone()
        dist.all_reduce(total, group=self._processes)
        return total

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any of these ranks."""
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._processes)
        return bool(value.item())

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all these ranks, in rank order."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._processes)
        return values

    def all_rows(self, scores: Tensor, rows: int) -> Tensor:
        """The scores of all rows on every rank, without those of padding rows."""
        by_row = scores.transpose(0, 1).contiguous()
        together = self.gather(by_row.flatten()).view(-1, *by_row.shape[1:])
        return together[:rows].transpose(0, 1)

    def gather(self, part: Tensor) -> Tensor:
        """All-gather: equally long vectors of all ranks, concatenated."""
        whole = part.new_empty(self.count * part.numel())
        _gather(whole, part.contiguous(), group=self._processes)
        return whole

    def scatter_sum(self, whole: Tensor) -> Tensor:
        """Reduce-scatter, the transpose of :meth:`gather`: this rank's part of the sum."""
        part = whole.new_empty(whole.numel() // self.count)
        _scatter(part, whole.contiguous(), group=self._processes)
        return part


class ShardRanks(ProcessRanks):
    """A shard group: its ranks divide the parameters among themselves."""

    def __init__(self, processes: dist.ProcessGroup | None = None) -> None:
        """Wrap the process group of a shard group."""
        super().__init__(processes)
        self.gathered = Gathered(self)

    def pack(self, tensor: Tensor) -> Any:
        """What a graph saves of a tensor: the shard of a gathered parameter."""
        return self.gathered.pack(tensor)

    def unpack(self, saved: Any) -> Tensor:
        """The inverse of :meth:`pack`."""
        return self.gathered.unpack(saved)

    @contextlib.contextmanager
    def graph(self) -> Iterator[None]:
        """Inside, graphs save shards in place of gathered parameters."""
        with self.gathered.saved_as_shards():
            yield


class Mesh(ProcessRanks):
    """All ranks: replicas of ``shards`` ranks each, which replay different queries."""

    def __init__(self, shards: int | None = None, device: torch.device | str = "cpu") -> None:
        """Divide the ranks of torch.distributed into replicas; default one.

        Shards of this rank are on ``device``.

        Raises:
            ValueError: if the number of ranks is not a multiple of ``shards``.
        """
        super().__init__()
        self.device = torch.device(device)
        self.shards = shards or self.count
        if self.count % self.shards:
            raise ValueError(f"{self.count} ranks cannot be divided into groups of {self.shards}")
        self.replicas = self.count // self.shards
        self.replica_index = self.index // self.shards
        # Every process must take part in creating every group.
        rows = [range(g, g + self.shards) for g in range(0, self.count, self.shards)]
        columns = [range(s, self.count, self.shards) for s in range(self.shards)]
        groups = [dist.new_group(list(row)) for row in rows]
        replicas = [dist.new_group(list(column)) for column in columns]
        self._shard_group = ShardRanks(groups[self.index // self.shards])
        self._replicas = ProcessRanks(replicas[self.index % self.shards])

    @property
    def shard_group(self) -> ShardRanks:
        """The ranks that share this rank's replica."""
        return self._shard_group

    def sum_over_replicas(self, grads: Params) -> Params:
        """Sum gradients over the replicas, in place."""
        if self.replicas > 1:
            for grad in grads.values():
                dist.all_reduce(grad, group=self._replicas._processes)
        return grads

    @contextlib.contextmanager
    def graph(self) -> Iterator[None]:
        """As of the shard group."""
        with self._shard_group.graph():
            yield
