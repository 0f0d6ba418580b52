"""A mesh of ranks over torch.distributed: groups that divide the parameters among themselves.

Rank r of a mesh with S shards holds shard r mod S in group r div S. CPU tensors travel through
gloo and CUDA tensors through NCCL.
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
        """Speak for ``processes``; all of them if left out."""
        self._processes: Any = processes or dist.group.WORLD
        self.index = dist.get_rank(self._processes)
        self.count = dist.get_world_size(self._processes)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over these ranks."""
        total = value.clone()
        dist.all_reduce(total, group=self._processes)
        return total

    def any(self, flag: bool) -> bool:
        """Whether any of them says so."""
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._processes)
        return bool(value.item())

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all these ranks, in order."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._processes)
        return values

    def all_rows(self, scores: Tensor, rows: int) -> Tensor:
        """The scores of all rows on every rank; those that only fill up a share are left out."""
        by_row = scores.transpose(0, 1).contiguous()
        together = self.gather(by_row.flatten()).view(-1, *by_row.shape[1:])
        return together[:rows].transpose(0, 1)

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all ranks, equally long vectors, one after the other."""
        whole = part.new_empty(self.count * part.numel())
        _gather(whole, part.contiguous(), group=self._processes)
        return whole

    def scatter_sum(self, whole: Tensor) -> Tensor:
        """This rank's part of the sum of vectors over ranks: the transpose of :meth:`gather`."""
        part = whole.new_empty(whole.numel() // self.count)
        _scatter(part, whole.contiguous(), group=self._processes)
        return part


class ShardRanks(ProcessRanks):
    """A group: its ranks divide the parameters among themselves."""

    def __init__(self, processes: dist.ProcessGroup | None = None) -> None:
        """Speak for the group of ``processes``."""
        super().__init__(processes)
        self.gathered = Gathered(self)

    def pack(self, tensor: Tensor) -> Any:
        """What a graph keeps of a tensor: of a gathered parameter its shard."""
        return self.gathered.pack(tensor)

    def unpack(self, kept: Any) -> Tensor:
        """The tensor again."""
        return self.gathered.unpack(kept)

    @contextlib.contextmanager
    def graph(self) -> Iterator[None]:
        """Graphs built inside keep shards in place of gathered parameters."""
        with self.gathered.saved_as_shards():
            yield


class Mesh(ProcessRanks):
    """All ranks: groups of ``shards`` ranks each, which work on different queries."""

    def __init__(self, shards: int | None = None, device: torch.device | str = "cpu") -> None:
        """Divide the ranks of torch.distributed into groups; by default they are one.

        Shards of this rank lie on ``device``.

        Raises:
            ValueError: if there is no whole number of groups.
        """
        super().__init__()
        self.device = torch.device(device)
        self.shards = shards or self.count
        if self.count % self.shards:
            raise ValueError(f"{self.count} ranks are no whole number of groups of {self.shards}")
        self.replicas = self.count // self.shards
        self.replica_index = self.index // self.shards
        # Every process has to take part in making every group.
        rows = [range(g, g + self.shards) for g in range(0, self.count, self.shards)]
        columns = [range(s, self.count, self.shards) for s in range(self.shards)]
        groups = [dist.new_group(list(row)) for row in rows]
        replicas = [dist.new_group(list(column)) for column in columns]
        self._shard_group = ShardRanks(groups[self.index // self.shards])
        self._replicas = ProcessRanks(replicas[self.index % self.shards])

    @property
    def shard_group(self) -> ShardRanks:
        """This rank's group."""
        return self._shard_group

    def sum_over_replicas(self, grads: Params) -> Params:
        """Sum gradients over the ranks that hold the same shards, in place."""
        if self.replicas > 1:
            for grad in grads.values():
                dist.all_reduce(grad, group=self._replicas._processes)
        return grads

    @contextlib.contextmanager
    def graph(self) -> Iterator[None]:
        """As of this rank's group."""
        with self._shard_group.graph():
            yield
