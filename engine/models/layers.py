"""The layers of a transformers model that can be computed again one by one."""

import torch
from torch import nn

from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.layered_loss import LayeredModuleLoss
from engine.models.module_loss import ModuleLoss
from engine.replay.derivatives import first_derivatives, second_derivatives
from engine.replay.state import Batch, BatchLoss, Params, TrainState
from engine.runs.errors import UsageError

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
