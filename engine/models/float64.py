"""Make a float64 model compute in float64 throughout.

transformers casts to float32 inside some normalisations, rotary embeddings and softmaxes,
whatever the model's dtype. The relative error of a float64 run would then be about 1e-7.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.models.layers import layers_of


class _WithoutFloat32(TorchFunctionMode):
    """Turns casts to float32 into casts to float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        wide = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        if func is torch.full and "dtype" not in named and _is_beyond_float32(wide[-1]):
            named["dtype"] = torch.float64
        return func(*wide, **named)


def _is_beyond_float32(value: Any) -> bool:
    """Whether a value is beyond float32's range, such as float64's minimum in an attention mask."""
    return isinstance(value, float) and torch.finfo(torch.float32).max < abs(value) < torch.inf


def compute_in_float64(model: nn.Module) -> None:
    """Make a transformers model's forward pass cast nothing to float32.

    This includes its base model and its layers, which may be called on their own.
    """
    base = getattr(model, "base_model", model)
    for module in dict.fromkeys((model, base, *layers_of(model))):
        module.forward = _wrapped(module.forward)


def without_float32() -> TorchFunctionMode:
    """A context in which casts to float32 become casts to float64."""
    return _WithoutFloat32()


def _wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _WithoutFloat32():
            return forward(*args, **kwargs)

    return run
