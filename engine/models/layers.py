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
    """The same loss as a function that also leaves its layers to others.

    A layer is computed again with the very arguments it was called with, but for the tensors
    among them that depend on parameters. It must not draw random numbers.
    """

    def __init__(self, loss: ModuleLoss, layers: Sequence[nn.Module]) -> None:
        """Cut ``loss`` at ``layers``, modules in it that do not contain each other."""
        self.loss = loss
        self.layers = layers

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """The batch's loss at ``params``."""
        return self.loss(params, batch)

    def with_buffers(self, params: Params, batch: Batch, buffers: Params) -> tuple[Tensor, Params]:
        """The same with the buffers after it, which it leaves as they are."""
        return self.loss.with_buffers(params, batch, buffers)

    def through(self, params: Params, batch: Batch, visit: Visit) -> Tensor:
        """The same, each layer left to ``visit``."""
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
        places = [n for n, a in enumerate(flat) if isinstance(a, Tensor) and a.requires_grad]
        rest: list[Any] = []

        def layer(inputs: Sequence[Tensor]) -> list[Tensor]:
            values = list(flat)
            for place, tensor in zip(places, inputs, strict=True):
                values[place] = tensor
            arguments, named = tree_unflatten(values, shape)
            output = self.loss.bound(params, lambda: forward(*arguments, **named))
            found, of = tree_flatten(output)
            # Results are left out: they would keep their graph alive.
            rest[:] = [[_RESULT if _is_differentiable(value) else value for value in found], of]
            return [value for value in found if _is_differentiable(value)]

        results = iter(visit(layer, [flat[place] for place in places]))
        parts = [next(results) if value is _RESULT else value for value in rest[0]]
        return tree_unflatten(parts, rest[1])


_RESULT = object()


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@contextlib.contextmanager
def _forwarding(layer: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Let a call of ``layer`` be one of ``call``."""
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
"""Relative; computing a layer again gives the same bits, or something else altogether."""


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Those parts of a model that its authors let be computed again, in order; maybe none.

    None of them contains another.
    """
    # Takes seconds, which nobody else should spend.
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found


def checked_layers(loss: CausalLMLoss, path: str) -> list[nn.Module]:
    """The layers of a model's loss, once derivatives by layer were seen to be the model's.

    Args:
        loss: of a model without dropout.
        path: names the model in messages.

    Raises:
        UsageError: if it has none, or they depend on each other in ways that cutting would miss.
    """
    layers, whole = layers_of(loss), ModuleLoss(loss)
    if not layers:
        raise UsageError(
            f"training.activation_checkpointing: {path} does not say what its layers "
            "are; set it to false"
        )
    params, embedding = whole.parameters(), loss.model.get_input_embeddings().weight
    # A short row has positions in any model.
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
    """First and second derivatives along some direction, and scores."""
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
