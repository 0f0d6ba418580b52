"""Activation checkpointing: a module's loss as a chain of layers that can be recomputed.

:class:`LayeredModuleLoss` splits a loss at its layers. :func:`layers_of` finds the layers of a
transformers model, and :func:`checked_layers` verifies that recomputing them gives the model's
derivatives.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.module_loss import ModuleLoss
from engine.replay.checkpointed_hvp import Visit
from engine.replay.derivatives import first_derivatives, second_derivatives
from engine.replay.state import Batch, BatchLoss, Params, TrainState
from engine.runs.errors import UsageError


class LayeredModuleLoss:
    """The same loss, whose layers a caller can evaluate and recompute.

    A layer is recomputed with its original arguments, except for the tensors among them that depend
    on parameters. It must not draw random numbers.
    """

    def __init__(self, loss: ModuleLoss, layers: Sequence[nn.Module]) -> None:
        """Split ``loss`` at ``layers``, modules of which none contains another."""
        self.loss = loss
        self.layers = layers

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """The batch's loss at ``params``."""
        return self.loss(params, batch)

    def with_buffers(self, params: Params, batch: Batch, buffers: Params) -> tuple[Tensor, Params]:
        """The loss, and the buffers, unchanged."""
        return self.loss.with_buffers(params, batch, buffers)

    def through(self, params: Params, batch: Batch, visit: Visit) -> Tensor:
        """The loss, with every layer evaluated by ``visit``."""
        with contextlib.ExitStack() as cuts:
            for layer in self.layers:
                call = partial(self._visit, params, visit, layer.forward)
                cuts.enter_context(_forwarding(layer, call))
            return self.loss(params, batch)

    def _visit(
        self,
        params: Params,
        visit: Visit,
        forward: Callable[..., Any],
        *arguments: Any,
        **named: Any,
    ) -> Any:
        flat, shape = tree_flatten((arguments, named))
        positions = [n for n, a in enumerate(flat) if isinstance(a, Tensor) and a.requires_grad]
        rest: list[Any] = []

        def layer(inputs: Sequence[Tensor]) -> list[Tensor]:
            values = list(flat)
            for position, tensor in zip(positions, inputs, strict=True):
                values[position] = tensor
            arguments, named = tree_unflatten(values, shape)
            output = self.loss.bound(params, lambda: forward(*arguments, **named))
            leaves, structure = tree_flatten(output)
            # Results are replaced by a marker, because they would keep their graph in memory.
            others = [_RESULT if _is_differentiable(leaf) else leaf for leaf in leaves]
            rest[:] = [others, structure]
            return [leaf for leaf in leaves if _is_differentiable(leaf)]

        results = iter(visit(layer, [flat[position] for position in positions]))
        parts = [next(results) if value is _RESULT else value for value in rest[0]]
        return tree_unflatten(parts, rest[1])


_RESULT = object()


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@contextlib.contextmanager
def _forwarding(layer: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling ``layer`` calls ``call``."""
    own = vars(layer).get("forward")
    layer.forward = call
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own


_AGREEMENT = 1e-3
"""Relative bound. Recomputed layers give the same bits, or derivatives that are clearly wrong."""


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers for which a model supports checkpointing, in order; may be empty.

    None contains another.
    """
    # Imported here because it takes seconds.
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            layers.append(module)
            inside.update(module.modules())
    return layers


def checked_layers(loss: CausalLMLoss, path: str) -> list[nn.Module]:
    """The layers of a model's loss, after comparing checkpointed derivatives with the model's.

    Args:
        loss: the loss of a model without dropout.
        path: the model's name in messages.

    Raises:
        UsageError: if the model names no layers, or a layer depends on more than its arguments.
    """
    layers, whole = layers_of(loss), ModuleLoss(loss)
    if not layers:
        raise UsageError(
            f"training.activation_checkpointing: {path} does not name its layers; set it to false"
        )
    params, embedding = whole.parameters(), loss.model.get_input_embeddings().weight
    # Short enough for the positions of any model.
    tokens = torch.arange(4, device=embedding.device)[None] % len(embedding)
    weights = next(iter(params.values())).new_ones(tokens.shape)
    batch = Batch({"input_ids": tokens, "labels": tokens}, weights, tokens.numel())
    expected = _derivatives(whole, params, batch)
    for name, value in _derivatives(LayeredModuleLoss(whole, layers), params, batch).items():
        if not (value - expected[name]).norm() <= _AGREEMENT * expected[name].norm():
            raise UsageError(
                f"training.activation_checkpointing: the layers of {path} cannot be "
                "recomputed one by one, because they depend on more than what they are called "
                "with; set it to false"
            )
    return layers


def _derivatives(loss: BatchLoss, params: Params, batch: Batch) -> Params:
    """The gradient, a Hessian-vector product along a fixed direction, and scores."""
    direction = {
        name: torch.arange(p.numel(), device=p.device).sin().to(p.dtype).view_as(p)
        for name, p in params.items()
    }
    state = TrainState(0, params, [])
    _, grads, _ = first_derivatives(loss, state, params, batch)
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    scores = second_derivatives(loss, state, batch, [direction], [total])
    second = {f"{name} twice": product for name, product in total.items()}
    return {**grads, **second, "scores": scores}
