"""The training loss of a transformers causal language model, with one weight a token.

The loss at position j is that of predicting token j+1. Where the model's head is a plain
bias-free linear layer on its last hidden state (checked once by computing both), with an adapter
or without, the head and the cross-entropy run as one chunked operation
(:mod:`engine.magic.linear_cross_entropy`); otherwise the model's own logits are used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.magic.linear_cross_entropy import weighted_linear_cross_entropy
from engine.models.lora import as_one_matrix, is_one_matrix

IGNORED = -100


class CausalLMLoss(nn.Module):
    """(1/D) Σ w·ℓ over the target tokens of a batch of rows.

    Parameters keep the model's names under ``model.``; a tied embedding and head are one.
    """

    def __init__(self, model: nn.Module, cache_bytes: int = 2**30) -> None:
        """Wrap a causal language model.

        Args:
            model: a transformers causal language model with eager attention.
            cache_bytes: memory for keeping a (micro-)batch's token probabilities between the
                first and the second derivative; where they need more they are recomputed.
        """
        super().__init__()
        _train_padding_of_tied(model)
        self.model: Any = model
        self.cache_bytes = cache_bytes
        self.plain_head = _has_plain_head(model)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        example_weight: Tensor,
        num_items_in_batch: int,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss of a batch: a scalar.

        Args:
            input_ids: (rows, tokens).
            labels: (rows, tokens); position j counts if ``labels[:, j+1]`` is not -100.
            example_weight: (rows,) or (rows, tokens) data weights; the weight at j belongs to
                the loss at j.
            num_items_in_batch: D, what the sum is divided by.
            attention_mask: (rows, tokens), for rows that are not padded at their end; those need
                none.
        """
        kept, targets = _targets(labels)
        if example_weight.ndim == 1:
            example_weight = example_weight[:, None].expand(labels.shape)
        coefficients = _select(example_weight, kept) / num_items_in_batch
        if self.plain_head:
            hidden = _select(self._hidden(input_ids, attention_mask), kept)
            loss: Tensor = weighted_linear_cross_entropy(
                *as_one_matrix(self.model.get_output_embeddings(), hidden),
                coefficients,
                targets,
                self.cache_bytes,
            )
            return loss
        logits = _select(self._logits(input_ids, attention_mask), kept)
        return torch.dot(coefficients, F.cross_entropy(logits, targets, reduction="none"))

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        hidden: Tensor = self.model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return hidden

    def _logits(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
        return logits


def _train_padding_of_tied(model: Any) -> None:
    """Let a tied embedding take the gradient of its padding row from both places.

    The head trains that row, so that the embedding has to be differentiated in it, which torch
    leaves out. Where the embedding is not tied the row never changes.
    """
    embedding: Any
    embedding, head = (
        getattr(model, name, lambda: None)()
        for name in ("get_input_embeddings", "get_output_embeddings")
    )
    if embedding is not None and embedding.weight is getattr(head, "weight", None):
        embedding.padding_idx = None


def _targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions that count, and their target tokens."""
    shifted = torch.full_like(labels, IGNORED)
    shifted[:, :-1] = labels[:, 1:]
    flat = shifted.flatten()
    kept = (flat != IGNORED).nonzero()[:, 0]
    return kept, flat[kept]


def _select(values: Tensor, kept: Tensor) -> Tensor:
    """The rows of ``values`` (rows, tokens, …) at flat positions: (kept, …)."""
    return values.flatten(0, 1).index_select(0, kept)


@torch.no_grad()
def _has_plain_head(model: Any) -> bool:
    """Whether the logits are exactly a bias-free linear layer of the last hidden state."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    base: Any = getattr(model, "base_model", None)
    if base is None or base is model or not is_one_matrix(head):
        return False
    training = model.training
    model.eval()
    # Enlarged, so that a soft cap shows however small the logits of an untrained model are.
    enlarge = head.register_forward_hook(lambda module, inputs, output: output * 1e4)
    try:
        probe = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
        hidden = getattr(base(input_ids=probe, use_cache=False), "last_hidden_state", None)
        if hidden is None:
            return False
        logits = model(input_ids=probe, use_cache=False).logits.double()
        return torch.allclose(logits, head(hidden).double(), rtol=1e-5, atol=1e-3)
    finally:
        enlarge.remove()
        model.train(training)
