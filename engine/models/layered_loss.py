"""A module's loss cut at its layers, so that these can be computed again one by one."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.models.module_loss import ModuleLoss
from engine.replay.checkpointed_hvp import Visit
from engine.replay.state import Batch, Params


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
