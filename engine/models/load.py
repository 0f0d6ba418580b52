"""Loading a causal language model and checking, before any work, that it can be replayed."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.contract.config import ModelConfig
from engine.contract.errors import UsageError
from engine.magic.state import Batch
from engine.magic.train_step import FirstOrder
from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.float64 import compute_in_float64
from engine.models.lora import add_adapters
from engine.models.module_loss import ModuleLoss

_DROPOUT_FIELD = re.compile(r"(drop|pdrop)", re.IGNORECASE)
_MISSING_DERIVATIVE = re.compile(r"derivative for (?:')?([\w:]+)'? is not implemented")


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model ready to be trained and replayed."""

    loss: CausalLMLoss
    tokenizer: Any
    dropout: bool
    """Whether it trains with dropout, forced against advice."""
    frozen: int
    """Parameters that are not trained."""
    layers: Sequence[nn.Module] = ()
    """Those whose activations are computed again rather than kept."""

    @property
    def positions(self) -> int | None:
        """The longest sequence the model has positions for, if it has a limit."""
        limit = getattr(self.loss.model.config.get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return int(self.loss.model.get_input_embeddings().weight.shape[0])


def load_tokenizer(config: ModelConfig) -> Any:
    """The model's tokenizer.

    Raises:
        UsageError: if there is none or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    with _quiet(), _loading(config, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            config.path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        if not tokenizer("a b c", add_special_tokens=False).input_ids:
            raise UsageError(
                f"model.path: {config.path} has no working tokenizer; put the tokenizer's files "
                "beside the model's"
            )
    return tokenizer


def load_causal_lm(
    config: ModelConfig, seed: int, device: torch.device, *, force_dropout: bool = False
) -> LoadedModel:
    """The model of a run config with its tokenizer, on ``device``, checked for replay.

    Args:
        config: which model, in which dtype, with which adapters.
        seed: draws the weights of a model from scratch, and those of adapters.
        device: where it computes.
        force_dropout: keep the model's dropout although it makes scores hard to trust.

    Raises:
        UsageError: if it cannot be loaded, has no eager attention, has dropout, contains an
            operation that cannot be differentiated twice, or lacks a layer to be adapted.
    """
    tokenizer = load_tokenizer(config)
    model = _build(config, seed)
    if config.lora is not None:
        add_adapters(model, config.lora, seed, config.path)
    model.to(device)
    dropout = _active_dropout(model)
    if dropout and not force_dropout:
        raise UsageError(
            f"model.path: {config.path} trains with dropout ({dropout}), which makes its "
            "influence hard to compute and to trust; set model.dropout: 0, or force: [dropout]"
        )
    model.train(bool(dropout))
    if config.dtype == "float64":
        compute_in_float64(model)
    loss = CausalLMLoss(model)
    _check_causal(loss, config.path)
    _check_twice_differentiable(loss, config.path)
    frozen = sum(p.numel() for p in loss.parameters() if not p.requires_grad)
    return LoadedModel(loss, tokenizer, bool(dropout), frozen)


def _build(config: ModelConfig, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    dtype = getattr(torch, config.dtype)
    with _quiet(), _loading(config, "model"):
        settings = AutoConfig.from_pretrained(config.path, revision=config.revision, **options)
        if config.dropout == 0:
            _clear_dropout(settings)
        if config.from_scratch:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return AutoModelForCausalLM.from_config(
                    settings, attn_implementation="eager", dtype=dtype, **options
                )
        model, found = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=config.revision,
            config=settings,
            attn_implementation="eager",
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        lacking = sorted(map(str, {*found["missing_keys"], *found["mismatched_keys"]}))
        if lacking:
            raise UsageError(
                f"model.path: {config.path} lacks fitting weights for {lacking[0]} "
                f"({len(lacking)} in all); give a complete checkpoint, or from_scratch: true"
            )
        return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep loading bars and advice off the terminal: what matters is said as an error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _loading(config: ModelConfig, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while loading into one sentence."""
    where = f"model.path: cannot load the {what} of {config.path}"
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "attention implementation" in text or "attn_implementation" in text:
            raise UsageError(
                f"model.path: {config.path} does not support eager attention, the only kind that "
                "can be differentiated twice; choose another model"
            ) from None
        if not Path(config.path).exists() and isinstance(error, OSError):
            raise UsageError(
                f"{where}: it is no local folder, and the hub did not give it; check the name, "
                "the network, and access to the model"
            ) from None
        if "Unrecognized configuration class" in text:
            raise UsageError(
                f"{where}: it is no causal language model; give one that continues text"
            ) from None
        raise UsageError(f"{where}: {text[:300]}; check the folder's files") from None


def _clear_dropout(settings: Any) -> None:
    for part in {id(s): s for s in (settings, settings.get_text_config())}.values():
        for name, value in list(vars(part).items()):
            if _DROPOUT_FIELD.search(name) and isinstance(value, int | float):
                setattr(part, name, 0.0)


def _active_dropout(model: nn.Module) -> str:
    """The dropout a model would train with, as "name=p", or nothing."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"{name}={module.p}"
        for field, value in vars(module).items():
            if _DROPOUT_FIELD.search(field) and isinstance(value, float) and value > 0:
                return f"{name}.{field}={value}"
    return ""


def _probe(loss: CausalLMLoss) -> tuple[torch.Tensor, int]:
    """A row of four tokens, short enough for any model's positions, and the vocabulary's size."""
    embedding = loss.model.get_input_embeddings().weight
    return torch.arange(4, device=embedding.device)[None] % len(embedding), len(embedding)


@torch.no_grad()
def _check_causal(loss: CausalLMLoss, path: str) -> None:
    """Change the last token of a row: what the model says before it must stay the same."""
    tokens, size = _probe(loss)
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % size
    with ModuleLoss(loss).evaluating():
        first, second = (
            loss.model(input_ids=row, use_cache=False).logits for row in (tokens, other)
        )
    if not torch.allclose(first[:, :-1], second[:, :-1], rtol=1e-3, atol=1e-6):
        raise UsageError(
            f"model.path: {path} is no causal language model: what it says at a token depends on "
            "later ones; choose another"
        )


def _check_twice_differentiable(loss: CausalLMLoss, path: str) -> None:
    """Differentiate a four-token row twice and name the operation that cannot be."""
    batch_loss = ModuleLoss(loss, dropout_seed=0)
    params = {n: p.detach() for n, p in loss.named_parameters() if p.requires_grad}
    tokens, _ = _probe(loss)
    weights = next(iter(params.values())).new_ones(tokens.shape)
    batch = Batch({"input_ids": tokens, "labels": tokens}, weights, 3)
    try:
        graph = FirstOrder(batch_loss, params, batch)
        operation = _once_differentiable(list(graph.grads.values()))
        ones = {name: torch.ones_like(p) for name, p in params.items()}
        sums = {name: torch.zeros_like(p) for name, p in params.items()}
        graph.pull_back([ones], [sums])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        match = _MISSING_DERIVATIVE.search(" ".join(str(error).split()))
        if match is None and not isinstance(error, NotImplementedError):
            raise
        operation = match[1] if match else str(error)[:200]
    if operation:
        raise UsageError(
            f"model.path: {path} contains an operation that cannot be differentiated twice "
            f"({operation}); choose a model without it"
        )


def _once_differentiable(grads: list[torch.Tensor]) -> str:
    """The first operation in a gradient's graph that refuses a second derivative, or nothing.

    Asking for derivatives in the parameters alone passes such a node by without the error it
    would raise, and leaves its share out: the graph itself has to be searched.
    """
    waiting = [grad.grad_fn for grad in grads if grad.grad_fn is not None]
    seen, refusing, custom = set(waiting), False, ""
    while waiting:
        node = waiting.pop()
        refusing |= node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented")
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not custom:
            name = type(node).__name__.removesuffix("Backward")
            custom = "" if name in ("_Loss", "_Gradient") else name
        following = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= following
        waiting.extend(following)
    return (
        (custom or "an autograd.Function with a once-differentiable backward") if refusing else ""
    )
