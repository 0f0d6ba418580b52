"""The training loss of a transformers causal language model, with one weight per token.

The loss at position j is the cross-entropy of token j+1. If the model's head is a bias-free linear
layer on its last hidden state (:mod:`engine.models.plain_head` tests this), with or without an
adapter, head and cross-entropy run as one chunked operation
(:mod:`engine.replay.linear_cross_entropy`). Otherwise the model's own logits are used.

:func:`weighted_causal_lm_ce` makes any transformers causal language model usable with
:class:`engine.Trainer` unchanged: set ``model.loss_function = weighted_causal_lm_ce``.
:class:`CausalLMLoss` is faster.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.lora import as_one_matrix
from engine.models.module_tensors import ModelError
from engine.models.plain_head import has_plain_head
from engine.replay.linear_cross_entropy import weighted_linear_cross_entropy

IGNORED = -100
PROBE_TOKENS = 128


class CausalLMLoss(nn.Module):
    """(1/D) Σ w·ℓ over the target tokens of a batch of rows.

    Parameters keep the model's names under ``model.``; a tied embedding and head are one.
    """

    def __init__(
        self, model: nn.Module, cache_bytes: int = 2**30, length: int = PROBE_TOKENS
    ) -> None:
        """Wrap a causal language model.

        Args:
            model: a transformers causal language model.
            cache_bytes: memory for caching a (micro-)batch's token probabilities between the
                gradient and the Hessian-vector products; if they need more they are recomputed.
            length: tokens of the rows on which the head is tested: those of the training's rows,
                if the model may depend on it.
        """
        super().__init__()
        self.model: Any = model
        self.cache_bytes = cache_bytes
        self.plain_head = has_plain_head(model, length)

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
            attention_mask: (rows, tokens); not needed for rows padded at their end.

        Raises:
            ModelError: if the shapes of labels or weights do not match the rows.
        """
        _check_shapes(input_ids, labels, example_weight)
        positions, targets = _targets(labels)
        if example_weight.ndim == 1:
            example_weight = example_weight[:, None].expand(labels.shape)
        coefficients = _select(example_weight, positions) / num_items_in_batch
        if self.plain_head:
            hidden = _select(self._hidden(input_ids, attention_mask), positions)
            loss: Tensor = weighted_linear_cross_entropy(
                *as_one_matrix(self.model.get_output_embeddings(), hidden),
                coefficients,
                targets,
                self.cache_bytes,
            )
            return loss
        logits = _select(self._logits(input_ids, attention_mask), positions)
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


def _check_shapes(input_ids: Tensor, labels: Tensor, weights: Tensor) -> None:
    shape = tuple(input_ids.shape)
    if tuple(labels.shape) != shape or tuple(weights.shape) not in (shape[:1], shape):
        raise ModelError(
            f"input_ids of shape {shape}, labels of shape {tuple(labels.shape)} and data weights "
            f"of shape {tuple(weights.shape)} do not match: give one label per token, and one "
            "weight per row or per token"
        )


def _targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of the targets, and their target tokens."""
    shifted = torch.full_like(labels, IGNORED)
    shifted[:, :-1] = labels[:, 1:]
    flat = shifted.flatten()
    positions = (flat != IGNORED).nonzero()[:, 0]
    return positions, flat[positions]


def _select(values: Tensor, positions: Tensor) -> Tensor:
    """(positions, …) The entries of ``values`` (rows, tokens, …) at flat positions."""
    return values.flatten(0, 1).index_select(0, positions)


def weighted_causal_lm_ce(
    logits: Tensor,
    labels: Tensor,
    vocab_size: int | None = None,
    *,
    example_weight: Tensor | None = None,
    num_items_in_batch: int | Tensor | None = None,
    ignore_index: int = -100,
    **_: Any,
) -> Tensor:
    """(1/D) Σ w·ℓ over the target tokens, a scalar, with ℓ the next-token cross-entropy.

    Args:
        logits: (rows, tokens, vocabulary).
        labels: (rows, tokens); position j counts if ``labels[:, j+1]`` is not ``ignore_index``.
        vocab_size: what transformers passes; unused.
        example_weight: (rows,) or (rows, tokens) data weights, default 1; the weight at j
            multiplies the loss at j, which predicts token j+1.
        num_items_in_batch: D; default the number of target tokens in ``labels``.
        ignore_index: the label of positions that do not count.

    Raises:
        ModelError: if the shape of the weights does not match the labels.
    """
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), targets, ignore_index=ignore_index, reduction="none"
    )
    if example_weight is not None:
        if tuple(example_weight.shape) not in (tuple(labels.shape[:1]), tuple(labels.shape)):
            raise ModelError(
                f"data weights of shape {tuple(example_weight.shape)} do not match labels of shape "
                f"{tuple(labels.shape)}: give one per row or one per token"
            )
        weights = example_weight if example_weight.ndim == 2 else example_weight[:, None]
        losses = losses * weights[:, : losses.shape[1]]
    if num_items_in_batch is None:
        num_items_in_batch = torch.count_nonzero(targets != ignore_index).clamp(min=1)
    return losses.sum() / num_items_in_batch
