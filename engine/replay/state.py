"""Train states, their cotangents, batches, and the interface of a batch loss."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Trainable parameters by name; a tied parameter appears once."""


@dataclass(frozen=True)
class TrainState:
    """s_t: everything that update t → t+1 reads and writes. Immutable."""

    step: int
    params: Params
    optimizer: list[Any]
    """One torchopt state per group of the optimizer stage."""
    buffers: Params = field(default_factory=dict)
    """The buffers that training changes (batch-norm statistics)."""

    @property
    def differentiable(self) -> Params:
        """What a measurement may depend on: parameters and floating-point buffers."""
        floats = {n: b for n, b in self.buffers.items() if b.is_floating_point()}
        return {**self.params, **floats}


@dataclass(frozen=True)
class Gradient:
    """The output of the model stage of update t → t+1, the input of the optimizer."""

    params: Params
    """g_t = ∇_θ L_t."""
    buffers: Params = field(default_factory=dict)
    """b_{t+1}: the buffers after the forward pass."""


@dataclass(frozen=True)
class Cotangent:
    """The derivative of one measurement in a train state.

    Replay overwrites it at every step, so its tensors are contiguous and shared with nothing else.
    """

    params: Params
    optimizer: list[list[Tensor]]
    """Per group of the optimizer stage, one tensor for each floating-point leaf of its state."""
    buffers: Params = field(default_factory=dict)
    """Of the floating-point buffers."""


@dataclass(frozen=True)
class Batch:
    """The rows of one training step.

    ``weights`` are the data weights, (rows,) or (rows, tokens). ``denominator`` is D_t, the number
    of losses in the *global* batch, by which the sum of weighted losses is divided. ``key``
    identifies this (micro-)batch; layers that draw random numbers are seeded with it.
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
        """The ``index``-th of ``count`` equally large parts of the rows.

        If the rows cannot be divided evenly, the last parts are padded with rows of weight 0.
        """
        if count == 1:
            return self
        rows = self.weights.shape[0]
        size = -(-rows // count)
        chosen = torch.arange(index * size, (index + 1) * size, device=self.weights.device)
        existing, is_row = chosen.clamp(max=rows - 1), chosen < rows
        weights = self.weights[existing] * is_row.view(-1, *[1] * (self.weights.ndim - 1))
        inputs = {name: tensor[existing] for name, tensor in self.inputs.items()}
        return Batch(inputs, weights, self.denominator, (*self.key, index * size))


class BatchLoss(Protocol):
    """L = (1/D) Σ w·ℓ over a (micro-)batch: a scalar, twice differentiable."""

    def __call__(self, params: Params, batch: Batch, /) -> Tensor:
        """L of a model whose buffers training does not change."""

    def with_buffers(
        self, params: Params, batch: Batch, buffers: Params, /
    ) -> tuple[Tensor, Params]:
        """L and the buffers after the forward pass, both differentiable in θ and b."""
