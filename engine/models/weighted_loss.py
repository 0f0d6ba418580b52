"""A transformers ``loss_function`` that takes data weights.

``model.loss_function = weighted_causal_lm_ce`` makes any causal language model usable with
:class:`engine.Trainer` as it is; :class:`engine.CausalLMLoss` is faster.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.tensor_places import ModelError


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
        example_weight: (rows,) or (rows, tokens) data weights, 1 if left out; the weight at j
            belongs to the loss at j, which predicts token j+1.
        num_items_in_batch: D; the number of target tokens in ``labels`` if left out.
        ignore_index: the label of positions that do not count.

    Raises:
        ModelError: if weights do not fit the labels.
    """
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), targets, ignore_index=ignore_index, reduction="none"
    )
    if example_weight is not None:
        if tuple(example_weight.shape) not in (tuple(labels.shape[:1]), tuple(labels.shape)):
            raise ModelError(
                f"data weights of shape {tuple(example_weight.shape)} do not fit labels of shape "
                f"{tuple(labels.shape)}: give one a row or one a token"
            )
        weights = example_weight if example_weight.ndim == 2 else example_weight[:, None]
        losses = losses * weights[:, : losses.shape[1]]
    if num_items_in_batch is None:
        num_items_in_batch = torch.count_nonzero(targets != ignore_index).clamp(min=1)
    return losses.sum() / num_items_in_batch
