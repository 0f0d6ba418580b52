"""Train states, their cotangents, and the batches that a training consumes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Trainable parameters by name; a tied parameter appears once."""


@dataclass(frozen=True)
class TrainState:
    """s_t: everything that update t → t+1 reads and writes. Never changed in place."""

    step: int
    params: Params
    optimizer: list[Any]
    """One torchopt state per group of the optimizer stage."""


@dataclass(frozen=True)
class Cotangent:
    """Derivative of one measurement with respect to a train state.

    Replay overwrites it step by step, so its tensors belong to nobody else and are contiguous.
    """

    params: Params
    optimizer: list[list[Tensor]]
    """Per group, one tensor for every floating-point leaf of the optimizer's state."""


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    ``weights`` holds the data weights, (rows,) or (rows, tokens); ``denominator`` is D_t, the
    number of losses in the *global* batch that the sum of weighted losses is divided by; ``key``
    tells this (micro-)batch from every other, for layers that draw random numbers.
    """

    inputs: dict[str, Tensor]
    weights: Tensor
    denominator: int
    key: tuple[int, ...] = ()

    def split(self, micro_batch_size: int | None) -> Iterator["Batch"]:
        """The micro-batches in order; all share this batch's denominator."""
        rows = self.weights.shape[0]
        size = micro_batch_size or rows
        for start in range(0, rows, size):
            part = slice(start, start + size)
            inputs = {name: tensor[part] for name, tensor in self.inputs.items()}
            yield Batch(inputs, self.weights[part], self.denominator, (*self.key, start))

    def share(self, index: int, count: int) -> "Batch":
        """The ``index``-th of ``count`` equally large shares of the rows.

        Where the rows do not come out even, the last shares are filled up with rows of weight 0.
        """
        if count == 1:
            return self
        rows = self.weights.shape[0]
        size = -(-rows // count)
        chosen = torch.arange(index * size, (index + 1) * size, device=self.weights.device)
        own, there = chosen.clamp(max=rows - 1), chosen < rows
        weights = self.weights[own] * there.view(-1, *[1] * (self.weights.ndim - 1))
        inputs = {name: tensor[own] for name, tensor in self.inputs.items()}
        return Batch(inputs, weights, self.denominator, (*self.key, index * size))


BatchLoss = Callable[[Params, Batch], Tensor]
"""L = (1/D) Σ w·ℓ over a (micro-)batch: a scalar, differentiable twice in params and weights."""
