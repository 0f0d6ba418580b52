"""A model ready to be trained and replayed, and the checks that it can be."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from engine.contract.errors import UsageError
from engine.magic.derivatives import FirstOrder
from engine.magic.state import Batch
from engine.models.module_loss import ModuleLoss

DROPOUT_FIELD = re.compile(r"(drop|pdrop)", re.IGNORECASE)
_MISSING_DERIVATIVE = re.compile(r"derivative for (?:')?([\w:]+)'? is not implemented")


@dataclass(frozen=True)
class LoadedModel:
    """A model in the mode it is trained in."""

    loss: nn.Module
    """What :class:`~engine.models.module_loss.ModuleLoss` takes."""
    dropout: bool
    """Whether it trains with dropout, forced against advice."""
    frozen: int
    """Parameters that are not trained."""
    layers: Sequence[nn.Module] = field(default=(), kw_only=True)
    """Those whose activations are computed again rather than kept."""

    def cached_bytes(self, positions: int, itemsize: int) -> int:
        """Bytes that the graph of ``positions`` losses keeps where its hooks do not see them."""
        return 0


def settle_dropout(model: nn.Module, path: str, *, forced: bool) -> bool:
    """Whether a model trains with dropout.

    Raises:
        UsageError: if it does and this was not ``forced``.
    """
    dropout = next(_active_dropout(model), "")
    if dropout and not forced:
        raise UsageError(
            f"model.path: {path} trains with dropout ({dropout}), which makes its "
            "influence hard to compute and to trust; set model.dropout: 0, or force: [dropout]"
        )
    return bool(dropout)


def _active_dropout(model: nn.Module) -> Iterator[str]:
    """The dropout a model would train with, as "name=p"."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            yield f"{name}={module.p}"
        for attribute, value in vars(module).items():
            if DROPOUT_FIELD.search(attribute) and isinstance(value, float) and value > 0:
                yield f"{name}.{attribute}={value}"


def frozen_parameters(loss: nn.Module) -> int:
    """How many parameters are not trained."""
    return sum(p.numel() for p in loss.parameters() if not p.requires_grad)


def check_twice_differentiable(loss: nn.Module, batch: Batch, path: str) -> None:
    """Differentiate a small batch twice and name the operation that cannot be.

    Raises:
        UsageError: if there is one.
    """
    batch_loss = ModuleLoss(loss, dropout_seed=0)
    params, buffers = batch_loss.parameters(), batch_loss.buffers()
    try:
        graph = FirstOrder(batch_loss, params, batch, buffers)
        operation = _once_differentiable(list(graph.grads.values()))
        ones = {name: torch.ones_like(p) for name, p in params.items()}
        sums = {name: torch.zeros_like(p) for name, p in params.items()}
        floats = {n: torch.ones_like(b) for n, b in buffers.items() if b.is_floating_point()}
        graph.pull_back([ones], [sums], [floats])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        match = _MISSING_DERIVATIVE.search(" ".join(str(error).split()))
        if match is None and not isinstance(error, NotImplementedError):
            raise
        operation = match[1] if match else str(error)[:200]
    if operation:
        raise UsageError(
            f"model.path: {path} contains an operation that cannot be differentiated twice "
            f"({operation}); choose a model without it"
        )


def _once_differentiable(grads: list[torch.Tensor]) -> str:
    """The first operation in a gradient's graph that refuses a second derivative, or nothing.

    Asking for derivatives in the parameters alone passes such a node by without the error it
    would raise, and leaves its share out: the graph itself has to be searched.
    """
    waiting = [grad.grad_fn for grad in grads if grad.grad_fn is not None]
    seen, refusing, custom = set(waiting), False, ""
    while waiting:
        node = waiting.pop()
        refusing |= node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented")
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not custom:
            name = type(node).__name__.removesuffix("Backward")
            custom = "" if name in ("_Loss", "_Gradient") else name
        following = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= following
        waiting.extend(following)
    return (
        (custom or "an autograd.Function with a once-differentiable backward") if refusing else ""
    )
