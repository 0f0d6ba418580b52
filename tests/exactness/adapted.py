"""Tiny models with adapters, and an oracle of them that knows only the models without."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from engine.models.lora import add_adapters
from engine.runs.config import LoraConfig
from tests.exactness import oracle
from tests.exactness.tiny_models import tiny_model

A_AND_B = {".lora_A": ".lora_B", ".lora_embedding_A": ".lora_embedding_B"}


@dataclass(frozen=True)
class Adapters:
    """Which model of ``tiny_models`` gets which adapters; ``noise``: how far from their start."""

    model: str
    layers: tuple[str, ...]
    rank: int = 2
    alpha: float = 3.5
    noise: float = 0.1
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        return f"{self.model}, {'+'.join(self.layers)}, rank {self.rank}"


def adapted_model(adapters: Adapters, seed: int = 1) -> Any:
    """The model with its adapters, which alone are trained."""
    model = tiny_model(adapters.model, adapters.dtype)
    config = LoraConfig(rank=adapters.rank, alpha=adapters.alpha, target_modules=adapters.layers)
    add_adapters(model, config, seed, adapters.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(adapters.noise * noise)
    return model


def adapted_losses(adapters: Adapters) -> oracle.LossesOf:
    """The losses of the model without adapters, every weight W replaced by W + (alpha/r) B A.

    A tied weight stands in two places, and may have an adapter in either or in both.
    """
    plain = tiny_model(adapters.model, adapters.dtype)
    scale = adapters.alpha / adapters.rank
    weights = dict(plain.named_parameters(remove_duplicate=False))

    def losses(params: dict[str, Tensor], tokens: oracle.Tokens) -> tuple[Tensor, int]:
        merged = {name: weight.detach() for name, weight in weights.items()}
        for name, first in params.items():
            for a, b in A_AND_B.items():
                if f"{a}." in name:
                    layer = name.partition(f"{a}.")[0]
                    change = scale * params[name.replace(a, b)] @ first
                    # The weight of a linear layer is (outputs, inputs), others have it turned.
                    kind = plain.get_submodule(layer)
                    turned = isinstance(kind, Conv1D | torch.nn.Embedding)
                    merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + (
                        change.t() if turned else change
                    )
        logits = torch.func.functional_call(
            plain, merged, kwargs={"input_ids": tokens.ids, "use_cache": False}, tie_weights=False
        ).logits
        following = tokens.ids.roll(-1, dims=1)
        values = F.cross_entropy(logits.transpose(1, 2), following, reduction="none")
        count = max(1, int(tokens.targets.sum()))
        return torch.where(tokens.targets, values, torch.zeros_like(values)), count

    return losses
