"""Run a module's forward pass with operations that can be differentiated twice.

Torch and transformers use some fast operations that cannot be differentiated twice, or that do not
work when parameters are replaced. Inside :meth:`PlainForward.on` they are off: attention uses its
definition, transformer layers take no fused path, compiled modules run eagerly, gradients of
embeddings are dense, layers do not checkpoint activations, and experts in float64,
for which there is no fused operation, are evaluated one by one.

One change affects a gradient. Torch gives the padding row of an embedding no gradient. If the
embedding is tied to the head, the head trains that row anyway, and the embedding's term of the
second derivative would be missing; so there the row gets the gradients of both uses.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_SWITCHES = ("sparse", "gradient_checkpointing")
"""Attributes of modules that are set to False."""
_EXPERTS = "_experts_implementation_internal"
"""Attribute of transformers configs: the implementation of experts."""
_ATTENTION = "_attn_implementation_internal"
"""Attribute of transformers configs: the implementation of attention."""


class PlainForward:
    """Switches a module to plain operations, which change results by rounding only."""

    def __init__(self, module: nn.Module) -> None:
        """Collect the switches of this module and all its parts."""
        parts = list(module.modules())
        self._set: list[tuple[dict[str, Any], str, Any]] = [
            (vars(part), switch, False)
            for part in parts
            for switch in _SWITCHES
            if vars(part).get(switch) is True
        ]
        tied = Counter(id(p) for part in parts for p in part._parameters.values() if p is not None)
        self._set += [
            (vars(part), "padding_idx", None)
            for part in parts
            if isinstance(part, nn.Embedding)
            and part.padding_idx is not None
            and part.weight.requires_grad
            and tied[id(part.weight)] > 1
        ]
        wide = any(parameter.dtype is torch.float64 for parameter in module.parameters())
        settings = {id(of): of for part in parts if (of := vars(part).get("config")) is not None}
        for values in (vars(of) for of in settings.values() if hasattr(of, "__dict__")):
            if wide and values.get(_EXPERTS) is not None:
                self._set.append((values, _EXPERTS, "eager"))
            if values.get(_ATTENTION) not in (None, "eager", "sdpa"):
                self._set.append((values, _ATTENTION, "eager"))

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Inside, forward passes use plain operations."""
        fused = torch.backends.mha.get_fastpath_enabled()
        own = [attributes[name] for attributes, name, _ in self._set]
        with _eagerly(), sdpa_kernel([SDPBackend.MATH]):
            try:
                torch.backends.mha.set_fastpath_enabled(False)
                for attributes, name, value in self._set:
                    attributes[name] = value
                yield
            finally:
                for (attributes, name, _), value in zip(self._set, own, strict=True):
                    attributes[name] = value
                torch.backends.mha.set_fastpath_enabled(fused)


def _eagerly() -> contextlib.AbstractContextManager[Any]:
    """Run compiled functions eagerly; does nothing if the compiler was never imported."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
