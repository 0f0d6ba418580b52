"""Ways to differentiate a training step twice, for comparison with the one the engine uses.

All compute the Hessian-vector products and token scores of several directions at one state.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from engine.replay.derivatives import GradientGraph
from engine.replay.state import Batch, Params

Directions = list[Params]
Mechanism = Callable[[Directions], Any]


def plain_logits_loss(model: nn.Module) -> Callable[[Params, Batch], Tensor]:
    """The batch loss through the model's own logits, without the chunked head."""

    def loss(params: Params, batch: Batch) -> Tensor:
        return (_token_losses(model, params, batch) * batch.weights[:, :-1]).sum() / (
            batch.denominator
        )

    return loss


def shared_graph(loss: Any, params: Params, batch: Batch) -> Mechanism:
    """Reverse over reverse: one graph of the gradient, one vector-Jacobian product a direction."""

    def run(directions: Directions) -> Any:
        sums = [{name: torch.zeros_like(p) for name, p in params.items()} for _ in directions]
        return GradientGraph(loss, params, batch).vjp(directions, sums)

    return run


def forward_over_reverse(model: nn.Module, params: Params, batch: Batch) -> Mechanism:
    """Forward over reverse: the tangent of the gradient, one direction after the other."""
    tangent = _tangent(model, params, batch)

    def run(directions: Directions) -> Any:
        return [tangent(direction) for direction in directions]

    return run


def vmapped(model: nn.Module, params: Params, batch: Batch) -> Mechanism:
    """Forward over reverse with all directions at once; first-order work is shared."""
    tangents = vmap(_tangent(model, params, batch))

    def run(directions: Directions) -> Any:
        stacked = {name: torch.stack([d[name] for d in directions]) for name in params}
        return tangents(stacked)

    return run


def compiled(model: nn.Module, params: Params, batch: Batch) -> Mechanism:
    """Forward over reverse through torch.compile, one direction after the other."""
    tangent = torch.compile(_tangent(model, params, batch))

    def run(directions: Directions) -> Any:
        return [tangent(direction) for direction in directions]

    return run


def _tangent(model: nn.Module, params: Params, batch: Batch) -> Callable[[Params], Any]:
    def loss(current: Params) -> tuple[Tensor, Tensor]:
        losses = _token_losses(model, current, batch)
        return (losses * batch.weights[:, :-1]).sum() / batch.denominator, losses

    def tangent(direction: Params) -> Any:
        (_, _), (product, scores) = jvp(grad(loss, has_aux=True), (params,), (direction,))
        return product, scores / batch.denominator

    return tangent


def _token_losses(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    own = {name.removeprefix("model."): tensor for name, tensor in params.items()}
    arguments = {"input_ids": batch.inputs["input_ids"], "use_cache": False}
    logits = functional_call(model, own, (), arguments).logits[:, :-1]
    labels = batch.inputs["labels"][:, 1:]
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.view(labels.shape)
