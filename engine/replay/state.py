"""Train states, their cotangents, and the batches that a training consumes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

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
    buffers: Params = field(default_factory=dict)
    """Those that training changes (batch-norm statistics); the model has no other state."""

    @property
    def differentiable(self) -> Params:
        """What a measurement may depend on: parameters, and buffers of floating-point numbers."""
        floats = {n: b for n, b in self.buffers.items() if b.is_floating_point()}
        return {**self.params, **floats}


@dataclass(frozen=True)
class Gradient:
    """What the model gives an update t → t+1; the optimizer alone does the rest."""

    params: Params
    """g_t = ∇_θ L_t."""
    buffers: Params = field(default_factory=dict)
    """b_{t+1}: the buffers as the forward pass leaves them."""


@dataclass(frozen=True)
class Cotangent:
    """Derivative of one measurement with respect to a train state.

    Replay overwrites it step by step, so its tensors belong to nobody else and are contiguous.
    """

    params: Params
    optimizer: list[list[Tensor]]
    """Per group, one tensor for every floating-point leaf of the optimizer's state."""
    buffers: Params = field(default_factory=dict)
    """Of the buffers that hold floating-point numbers."""


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


class BatchLoss(Protocol):
    """L = (1/D) Σ w·ℓ over a (micro-)batch: a scalar, differentiable twice in all it depends on."""

    def __call__(self, params: Params, batch: Batch, /) -> Tensor:
        """L of a model without buffers that training changes."""

    def with_buffers(
        self, params: Params, batch: Batch, buffers: Params, /
    ) -> tuple[Tensor, Params]:
        """L, and the buffers after the forward pass, differentiable in θ and b as L is."""
