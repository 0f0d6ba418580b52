"""Test whether a causal language model's logits are its last hidden state times one matrix.

This may hold at the initial parameters only: a logit scale of 1, a bias of 0 or a factor of 1 per
position have no effect until they are trained. So both computations of the logits are compared at
other parameter values, on rows as long as those of the training, and their graphs must reach the
same parameters.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.lora import is_one_matrix
from engine.models.module_tensors import ModuleTensors
from engine.models.plain_forward import PlainForward
from engine.replay.state import Params

ROWS = 2
SHORT = 8
"""Tokens of the rows whose graphs are compared."""
_POSITIONS = ("max_position_embeddings", "max_seq_len")
"""Names of the number of positions in transformers configs."""
_LOGITS = 2**24
"""The most logits that are compared."""
_SMALL = 2**16
"""Parameters of up to this many elements are always moved. Larger ones are moved only if all their
elements are equal, since other values are no special case and copying all may not fit in memory."""


def has_plain_head(model: Any, length: int) -> bool:
    """Whether the logits are exactly a bias-free linear layer of the last hidden state.

    Costs two forward passes of two rows, and two of a few tokens with their graphs.

    Args:
        model: a transformers causal language model; it is not changed.
        length: tokens of the rows that it will be trained on.
    """
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    base: Any = getattr(model, "base_model", None)
    if base is None or base is model or not is_one_matrix(head):
        return False
    longest = max(4, _LOGITS // (ROWS * head.weight.shape[0]))
    rows = _rows(model, min(length, longest))
    with _evaluating(model), PlainForward(model).on():
        # First at the initial parameters, which are within the range of every operation.
        if not agrees(model, rows[:1, :4]):
            return False
        return _agrees_elsewhere(model, rows) and _same_parameters(model, rows[:, :SHORT])


@torch.no_grad()
def agrees(model: Any, rows: Tensor) -> bool:
    """Whether both ways give the same logits of some rows, at the current parameters."""
    head = model.get_output_embeddings()
    # Enlarged, so that a soft cap has an effect on the small logits of an untrained model.
    enlarge = head.register_forward_hook(lambda module, inputs, output: output * 1e4)
    try:
        hidden = _hidden(model, rows)
        if hidden is None:
            return False
        logits = model(input_ids=rows, use_cache=False).logits.double()
        return torch.allclose(logits, head(hidden).double(), rtol=1e-5, atol=1e-3)
    finally:
        enlarge.remove()


def _hidden(model: Any, rows: Tensor) -> Tensor | None:
    return getattr(model.base_model(input_ids=rows, use_cache=False), "last_hidden_state", None)


def _rows(model: Any, length: int) -> Tensor:
    """Rows of many different tokens, no longer than the model has positions."""
    embedding = model.get_input_embeddings().weight
    length = min(length, positions_of(model) or length)
    tokens = torch.arange(ROWS * length, device=embedding.device)
    return (tokens % len(embedding)).view(ROWS, length)


def positions_of(model: Any) -> int | None:
    """The longest row that a model has positions for, if its config has a limit."""
    settings: Any = getattr(model, "config", None)
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    limits = (getattr(text, name, None) for name in _POSITIONS)
    return next((n for n in limits if isinstance(n, int) and n > 0), None)


def _agrees_elsewhere(model: Any, rows: Tensor) -> bool:
    """As :func:`agrees`, at other parameters near the current ones."""
    tensors = ModuleTensors(model)
    for scale in (0.1, 0.01, 0.001):
        moved = _moved(tensors, scale)
        with tensors.replaced_by(moved):
            if _is_finite(model, rows):
                return agrees(model, rows)
    return False


@torch.no_grad()
def _is_finite(model: Any, rows: Tensor) -> bool:
    hidden = _hidden(model, rows[:1, :4])
    return hidden is not None and bool(hidden.isfinite().all())


def _moved(tensors: ModuleTensors, scale: float) -> Params:
    """New values near the current ones, for trained parameters that may be a special case."""
    moved = {}
    for number, name in enumerate(tensors.trained):
        value = tensors.parameter(name).detach()
        if value.numel() == 0:
            continue
        first = value.reshape(-1)[0]
        if value.numel() > _SMALL and not bool((value == first).all()):
            continue
        size = scale * (1 + value.double().square().mean().sqrt().item())
        drawn = torch.empty(value.shape, dtype=value.dtype)
        drawn.normal_(generator=torch.Generator().manual_seed(number))
        moved[name] = value + size * drawn.to(value.device)
    return moved


def _same_parameters(model: Any, rows: Tensor) -> bool:
    """Whether both computations depend on the same parameters."""
    head = model.get_output_embeddings()

    def of_model() -> Tensor:
        logits: Tensor = model(input_ids=rows, use_cache=False).logits
        return logits

    return _reached(of_model) == _reached(lambda: head(_hidden(model, rows)))


def _reached(compute: Callable[[], Tensor]) -> set[int]:
    """The ids of the leaves of a result's graph."""
    with torch.enable_grad():
        result = compute()
    waiting: list[Any] = [result.grad_fn] if result.grad_fn is not None else []
    seen, leaves = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        following = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= following
        waiting.extend(following)
    return leaves


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
