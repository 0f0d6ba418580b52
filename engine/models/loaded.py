"""A model ready to be trained and replayed, and the checks that it can be."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from engine.runs.errors import UsageError

DROPOUT_FIELD = re.compile(r"(drop|pdrop)", re.IGNORECASE)


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
