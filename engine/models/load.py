"""Load a causal language model and check, before any work, that its training can be replayed."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.models.causal_lm_loss import PROBE_TOKENS, CausalLMLoss
from engine.models.float64 import compute_in_float64
from engine.models.lora import add_adapters
from engine.models.module_loss import ModuleLoss, check_finite
from engine.models.plain_head import positions_of
from engine.runs.config import ModelConfig
from engine.runs.errors import UsageError

DROPOUT_FIELD = re.compile(r"(drop|pdrop)", re.IGNORECASE)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be trained and replayed, in its training mode."""

    loss: nn.Module
    """The loss module, for :class:`~engine.models.module_loss.ModuleLoss`."""
    dropout: bool
    """Whether it trains with dropout, which must be forced."""
    frozen: int
    """The number of frozen parameters."""
    layers: Sequence[nn.Module] = field(default=(), kw_only=True)
    """Layers with activation checkpointing."""

    def cached_bytes(self, positions: int, itemsize: int) -> int:
        """Bytes that the graph of ``positions`` losses caches outside saved tensors."""
        return 0


def check_dropout(model: nn.Module, path: str, *, forced: bool) -> bool:
    """Whether a model trains with dropout.

    Raises:
        UsageError: if it does and is not ``forced``.
    """
    dropout = next(_active_dropout(model), "")
    if dropout and not forced:
        raise UsageError(
            f"model.path: {path} trains with dropout ({dropout}), which makes its "
            "scores hard to compute and to trust; set model.dropout: 0, or force: [dropout]"
        )
    return bool(dropout)


def _active_dropout(model: nn.Module) -> Iterator[str]:
    """The active dropout of a model, each as "name=p"."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            yield f"{name}={module.p}"
        for attribute, value in vars(module).items():
            if DROPOUT_FIELD.search(attribute) and isinstance(value, float) and value > 0:
                yield f"{name}.{attribute}={value}"


def frozen_parameters(loss: nn.Module) -> int:
    """The number of frozen parameters."""
    return sum(p.numel() for p in loss.parameters() if not p.requires_grad)


ADAPTER = "adapter_config.json"
_NO_ADAPTER = {"subfolder": "no-adapter"}
"""Keeps transformers from loading an adapter that is stored with the weights."""


@dataclass(frozen=True)
class LoadedCausalLM(LoadedModel):
    """A causal language model that is ready to be trained and replayed."""

    loss: CausalLMLoss
    tokenizer: Any

    @property
    def positions(self) -> int | None:
        """The longest sequence the model has positions for, if it has a limit."""
        return positions_of(self.loss.model)

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return int(self.loss.model.get_input_embeddings().weight.shape[0])

    def cached_bytes(self, positions: int, itemsize: int) -> int:
        """Bytes of the token probabilities, if the output layer caches them."""
        cache = positions * self.vocabulary * itemsize
        return cache if self.loss.plain_head and cache <= self.loss.cache_bytes else 0


def load_tokenizer(config: ModelConfig, files: Path | None = None) -> Any:
    """The model's tokenizer, from the folder ``files`` if given.

    Raises:
        UsageError: if it is missing or cannot be loaded.
    """
    from transformers import AutoTokenizer

    with _quiet(), _loading(config, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            files or config.path,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )
        if not tokenizer("a b c", add_special_tokens=False).input_ids:
            raise UsageError(
                f"model.path: {config.path} has no working tokenizer; put the tokenizer's files "
                "beside the model's"
            )
    return tokenizer


def load_causal_lm(
    config: ModelConfig,
    seed: int,
    device: torch.device,
    *,
    force_dropout: bool = False,
    files: Path | None = None,
    length: int = PROBE_TOKENS,
) -> LoadedCausalLM:
    """The model of a run config with its tokenizer, on ``device``.

    Args:
        config: which model, in which dtype, with which adapters.
        seed: draws the weights of a model from scratch, and those of adapters.
        device: the device of the model.
        force_dropout: train with the model's dropout.
        files: the folder of its config and tokenizer; default the model's own.
        length: tokens of its rows.

    Raises:
        UsageError: if it cannot be loaded, has no eager attention, has dropout, or has no layer of
            an adapter's name.
    """
    tokenizer = load_tokenizer(config, files)
    model = _build(config, seed, files)
    check_finite(model, f"model.path: {config.path}")
    if config.lora is not None:
        add_adapters(model, config.lora, seed, config.path)
    model.to(device)
    dropout = check_dropout(model, config.path, forced=force_dropout)
    model.train(dropout)
    if config.dtype == "float64":
        compute_in_float64(model)
    loss = CausalLMLoss(model, length=length)
    _check_causal(loss, config.path)
    return LoadedCausalLM(loss, dropout, frozen_parameters(loss), tokenizer)


def _build(config: ModelConfig, seed: int, files: Path | None) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    dtype = getattr(torch, config.dtype)
    with _quiet(), _loading(config, "model"):
        source = files or config.path
        settings = AutoConfig.from_pretrained(source, revision=config.revision, **options)
        if config.dropout == 0:
            _clear_dropout(settings)
        if config.from_scratch:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return AutoModelForCausalLM.from_config(
                    settings, attn_implementation="eager", dtype=dtype, **options
                )
        model, info = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=config.revision,
            config=settings,
            attn_implementation="eager",
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            adapter_kwargs=dict(_NO_ADAPTER),
            **options,
        )
        missing = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
        if missing:
            raise UsageError(
                f"model.path: {config.path} has no weights of the right shape for {missing[0]} "
                f"({len(missing)} in all); give a complete checkpoint, or from_scratch: true"
            )
        return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings while loading; problems are raised as errors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _loading(config: ModelConfig, what: str) -> Iterator[None]:
    """Turn any error while loading into a one-sentence UsageError."""
    where = f"model.path: cannot load the {what} of {config.path}"
    folder = Path(config.path)
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise UsageError(
            f"model.path: {config.path} contains an adapter but no model; merge it into its "
            "model (peft: merge_and_unload), and give the folder of the result"
        )
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
                f"{where}: it is not a local folder, and the hub did not provide it; check the "
                "name, the network, and access to the model"
            ) from None
        if "Unrecognized configuration class" in text:
            raise UsageError(
                f"{where}: it is not a causal language model; give one that continues text"
            ) from None
        raise UsageError(f"{where}: {text[:300]}; check the folder's files") from None


def _clear_dropout(settings: Any) -> None:
    for part in {id(s): s for s in (settings, settings.get_text_config())}.values():
        for name, value in list(vars(part).items()):
            if DROPOUT_FIELD.search(name) and isinstance(value, int | float):
                setattr(part, name, 0.0)


def _probe(loss: CausalLMLoss) -> tuple[torch.Tensor, int]:
    """A row of four tokens, short enough for any model, and the size of the vocabulary."""
    embedding = loss.model.get_input_embeddings().weight
    return torch.arange(4, device=embedding.device)[None] % len(embedding), len(embedding)


@torch.no_grad()
def _check_causal(loss: CausalLMLoss, path: str) -> None:
    """Check that changing the last token of a row leaves all earlier logits unchanged."""
    tokens, size = _probe(loss)
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % size
    whole = ModuleLoss(loss)
    with whole.evaluating():
        first, second = whole.bound(
            {},
            lambda: [loss.model(input_ids=row, use_cache=False).logits for row in (tokens, other)],
        )
    if not torch.allclose(first[:, :-1], second[:, :-1], rtol=1e-3, atol=1e-6):
        raise UsageError(
            f"model.path: {path} is not a causal language model: its logits at a token depend on "
            "later tokens; choose another"
        )
