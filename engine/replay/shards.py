"""How a parameter is divided among ranks: its elements in order, in equally long parts.

The last ranks may hold less, or nothing, of a tensor whose size is no multiple of their number.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """Elements ``start`` … ``stop`` - 1 of a tensor of a shape, flattened."""

    shape: torch.Size
    index: int
    count: int

    @property
    def chunk(self) -> int:
        """Elements of a rank that holds a full part."""
        return math.ceil(self.shape.numel() / self.count)

    @property
    def start(self) -> int:
        """Where this rank's part begins."""
        return min(self.shape.numel(), self.index * self.chunk)

    @property
    def stop(self) -> int:
        """Where it ends."""
        return min(self.shape.numel(), (self.index + 1) * self.chunk)

    def of(self, whole: Tensor) -> Tensor:
        """This rank's part of a tensor, a vector of its own."""
        return whole.reshape(-1)[self.start : self.stop].clone()

    def padded(self, part: Tensor) -> Tensor:
        """A part, filled up with zeros to the length that all ranks have in common."""
        lacking = self.chunk - part.numel()
        return torch.nn.functional.pad(part, (0, lacking)) if lacking else part

    def whole(self, together: Tensor) -> Tensor:
        """The tensor from the padded parts of all ranks, a view."""
        return together[: self.shape.numel()].view(self.shape)

    def spread(self, whole: Tensor) -> Tensor:
        """The vector of padded parts that gives a tensor: the inverse of :meth:`whole`."""
        lacking = self.count * self.chunk - whole.numel()
        flat = whole.reshape(-1)
        return torch.nn.functional.pad(flat, (0, lacking)) if lacking else flat
