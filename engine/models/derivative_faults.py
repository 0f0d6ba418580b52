"""Which part of a module makes its derivatives wrong.

:func:`gradient_change` finds hooks and embedding options that change a gradient outside autograd.
:func:`faulty_part` compares the parts of a module one by one with finite differences.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.models.module_loss import ModuleLoss
from engine.replay.derivative_check import (
    BOUNDS,
    Point,
    dtype_of,
    moved_elements,
    point_near,
    second_derivative_error,
)
from engine.replay.state import Batch, Params

_HOOKS = {
    "_backward_hooks": "register_full_backward_hook",
    "_backward_pre_hooks": "register_full_backward_pre_hook",
}
_OF_PARAMETERS = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
}


def gradient_change(module: nn.Module) -> tuple[str, str] | None:
    """A hook or option of a module that its derivatives omit, and the remedy; None if none."""
    for name, parameter in module.named_parameters():
        for attribute, method in _OF_PARAMETERS.items():
            if parameter.requires_grad and getattr(parameter, attribute, None):
                return f"{name} has a hook on its gradient ({method}), which is not called", (
                    "remove it, and put what it does into the loss or the optimizer"
                )
    for name, part in module.named_modules():
        place = f"{name} ({type(part).__name__})" if name else type(part).__name__
        for attribute, method in _HOOKS.items():
            if getattr(part, attribute, None):
                return f"{place} has a hook on gradients ({method})", (
                    "remove it, and put what it does into the module's forward"
                )
        if not isinstance(part, nn.Embedding | nn.EmbeddingBag) or not part.weight.requires_grad:
            continue
        for option, why in (
            ("max_norm", "changes its weight outside of autograd"),
            ("scale_grad_by_freq", "has no right second derivative in torch"),
        ):
            if getattr(part, option, None):
                return f"{option} of {place} {why}", "leave it out"
    return None


_INPUT = "input of this part "


def faulty_part(loss: ModuleLoss, point: Point) -> str:
    """The innermost part whose own second derivatives are wrong, as "name (Class)".

    Each part is compared as a function of its recorded inputs and its parameters. If all parts of a
    module are right, the result is the module itself.
    """
    module, name = loss.module, ""
    try:
        calls = _recorded(loss, point)
        while (part := _wrong_part(loss, module, name, calls, point)) is not None:
            name, module = part
    except Exception:
        # A part is a user's code and may fail when called on its own.
        pass
    label = name
    if type(loss.module).__name__ in _WRAPPERS:
        label = name.removeprefix("model").removeprefix(".")
    return f"{label} ({type(module).__name__})" if label else type(module).__name__


_WRAPPERS = ("CausalLMLoss", "ExampleLoss")
"""Wrappers of a run's model; part names omit them."""
_Call = tuple[tuple[Any, ...], dict[str, Any]]


def _recorded(loss: ModuleLoss, point: Point) -> dict[str, _Call]:
    """The arguments of each part's first call, by name."""
    calls: dict[str, _Call] = {}
    handles = []
    for name, part in loss.module.named_modules():

        def note(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            calls.setdefault(name, (args, kwargs))

        handles.append(part.register_forward_pre_hook(note, with_kwargs=True))
    try:
        leaves = {n: p.detach().requires_grad_() for n, p in point.state.params.items()}
        with torch.enable_grad():
            loss.with_buffers(leaves, point.batch, point.state.buffers)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _wrong_part(
    loss: ModuleLoss, module: nn.Module, name: str, calls: dict[str, _Call], point: Point
) -> tuple[str, nn.Module] | None:
    """The first part of a module whose own second derivatives are wrong."""
    bound = BOUNDS[dtype_of(point.state.params)]
    for part_name, part in _called(module, name, calls):
        function = _PartLoss(loss, part, part_name, calls[part_name], point)
        if not function.params:
            continue
        at = point_near(function.params, {}, function.batch, point.seed)
        error, _ = second_derivative_error(function, at, moved_elements(function, at))
        if error > bound and math.isfinite(error):
            return part_name, part
    return None


def _called(
    module: nn.Module, name: str, calls: dict[str, _Call]
) -> Iterator[tuple[str, nn.Module]]:
    """The outermost parts of a module that were called."""
    for own, part in module.named_children():
        part_name = f"{name}.{own}" if name else own
        if part_name in calls:
            yield part_name, part
        else:
            yield from _called(part, part_name, calls)


class _PartLoss:
    """A scalar function of a part's results, nonlinear to also test its first derivatives."""

    def __init__(
        self, loss: ModuleLoss, part: nn.Module, name: str, call: _Call, point: Point
    ) -> None:
        self.loss, self.part = loss, part
        flat, self.shape = tree_flatten(call)
        self.flat = [_constant(value) for value in flat]
        self.positions = [
            n for n, v in enumerate(flat) if isinstance(v, Tensor) and v.requires_grad
        ]
        prefix = f"{name}."
        self.params: Params = {
            own.removeprefix(prefix): tensor
            for own, tensor in point.state.params.items()
            if own.startswith(prefix)
        }
        self.params |= {f"{_INPUT}{position}": self.flat[position] for position in self.positions}
        self.batch = replace(point.batch, weights=point.batch.weights.flatten()[:1])

    def __call__(self, params: Params, batch: Batch, /) -> Tensor:
        values = list(self.flat)
        for position in self.positions:
            # A part may change its inputs in place.
            values[position] = params[f"{_INPUT}{position}"].clone()
        args, kwargs = tree_unflatten(values, self.shape)
        own = {n: t for n, t in params.items() if not n.startswith(_INPUT)}
        # Batch norm changes its buffers in place.
        own |= {n: b.clone() for n, b in self.part.named_buffers()}
        output = self.loss.bound({}, lambda: functional_call(self.part, own, args, kwargs))
        results, _ = tree_flatten(output)
        total = batch.weights.new_zeros(())
        for result in results:
            if isinstance(result, Tensor) and result.requires_grad:
                ramp = torch.arange(result.numel(), device=result.device).sin().view_as(result)
                total = total + (ramp * result + result.square() / 2).mean()
        return total * (1 + batch.weights.sum())

    def with_buffers(self, params: Params, batch: Batch, buffers: Params) -> tuple[Tensor, Params]:
        return self(params, batch), buffers


def _constant(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
