"""Low-rank adapters on a frozen model (LoRA, arXiv 2106.09685), added with ``peft``.

An adapted layer of weight W uses W + (alpha / rank) B A, where A has ``rank`` rows and B ``rank``
columns. Only A and B are trained: train states, gradients and cotangents contain nothing else, and
no derivative in W is computed. Names are those of ``peft``:
``….base_layer.weight``, ``….lora_A.default.weight``, ``….lora_embedding_A.default``.
"""

import difflib
import hashlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from engine.runs.config import ALL_LINEAR, LoraConfig
from engine.runs.errors import UsageError

_ADAPTER = "default"
_SHOWN = 12


def add_adapters(model: nn.Module, config: LoraConfig, seed: int, path: str) -> None:
    """Freeze a model and add trained adapters to some of its layers, in place.

    B starts at zero (for an embedding, A does), so the model's output does not change. The other
    factor is drawn from ``seed`` alone.

    Args:
        model: a causal language model on the CPU.
        config: rank, alpha and target layers.
        seed: the run's seed.
        path: the model's name in messages.

    Raises:
        UsageError: if a name matches no layer, or a layer that cannot be adapted.
    """
    # Imported here because it takes seconds.
    import peft

    names = config.target_modules
    if ALL_LINEAR not in names:
        _check_names(model, names, path)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=ALL_LINEAR if ALL_LINEAR in names else list(names),
        lora_dropout=0.0,
        bias="none",
    )
    digest = hashlib.sha256(f"lora {seed}".encode()).digest()
    # peft warns about merging adapters and about GPT-2's weight layout; both are handled.
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        peft.inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)


def is_one_matrix(layer: Any) -> bool:
    """Whether a layer is linear without a bias, with at most an adapter of our own."""
    base = getattr(layer, "base_layer", layer)
    if not isinstance(base, nn.Linear) or base.bias is not None:
        return False
    if base is layer:
        return True
    return (
        list(getattr(layer, "lora_B", ())) == [_ADAPTER] == layer.active_adapters
        and layer.lora_B[_ADAPTER].bias is None
        and isinstance(layer.lora_dropout[_ADAPTER], nn.Identity)
        and not (layer.lora_variant or layer.merged or layer.disable_adapters)
    )


def as_one_matrix(layer: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(x, M) such that the output of a layer of :func:`is_one_matrix` is x Mᵀ.

    With an adapter, x is (…, width + rank) and M (outputs, width + rank): the products with A are
    additional inputs and B additional columns, so W is used unchanged.
    """
    if isinstance(layer, nn.Linear):
        return inputs, layer.weight
    low_rank: Tensor = layer.lora_A[_ADAPTER](inputs) * layer.scaling[_ADAPTER]
    columns = (layer.base_layer.weight, layer.lora_B[_ADAPTER].weight)
    return torch.cat((inputs, low_rank), dim=-1), torch.cat(columns, dim=1)


def _check_names(model: nn.Module, names: tuple[str, ...], path: str) -> None:
    """Check that every name is a suffix of a layer's name; ``peft`` requires it of one only."""
    from transformers.pytorch_utils import Conv1D

    layers = {
        f".{name}": isinstance(module, nn.Linear | nn.Embedding | Conv1D)
        for name, module in model.named_modules()
    }
    for name in names:
        fit = [fits for layer, fits in layers.items() if layer.endswith(f".{name}")]
        if fit and all(fit):
            continue
        known = dict.fromkeys(layer.rpartition(".")[2] for layer, fits in layers.items() if fits)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        candidates = [*near, *(other for other in known if other not in near)]
        more = f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        raise UsageError(
            f"model.lora.target_modules: {path} has no linear layer or embedding named {name}; "
            f"it has {', '.join(candidates[:_SHOWN])}{more}"
        )
