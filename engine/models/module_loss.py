"""Any torch module as the batch loss that a train step differentiates."""

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.magic.shards import Shard
from engine.magic.state import Batch, Params

WEIGHT_ARGUMENT = "example_weight"
COUNT_ARGUMENT = "num_items_in_batch"


class ModuleLoss:
    """L = (1/D) Σ w·ℓ of a module whose forward takes a batch's columns as keyword arguments.

    The forward may return

    - losses, one a row or one a position: shape that of the weights, or of the weights with
      positions added or summed over; the weights are applied here;
    - a scalar, or an output with ``.loss``: then the forward itself must take
      ``example_weight`` (rows,) or (rows, tokens) and ``num_items_in_batch`` (the D to divide
      by) and return (1/D) Σ w·ℓ, as :class:`~engine.models.causal_lm_loss.CausalLMLoss` and
      :func:`~engine.models.weighted_loss.weighted_causal_lm_ce` do.

    Only parameters that require a gradient are trained; tied ones appear once. Modules that
    change their buffers (batch-norm statistics) are refused, because the change would have to
    be differentiated too.
    """

    def __init__(self, module: nn.Module, dropout_seed: int | None = None) -> None:
        """Wrap ``module``; ``dropout_seed`` makes random layers a function of the batch's key."""
        self.module = module
        self.dropout_seed = dropout_seed
        signature = inspect.signature(module.forward).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.values())
        self._weighs_itself = WEIGHT_ARGUMENT in signature or open_ended
        self._counts_itself = COUNT_ARGUMENT in signature or open_ended
        self._checked = False

    def parameters(self) -> Params:
        """Copies of the trainable parameters: θ_0."""
        return {
            name: parameter.detach().clone(memory_format=torch.contiguous_format)
            for name, parameter in self._trainable()
        }

    def shards(self) -> dict[str, Shard]:
        """Which part of every trainable parameter θ holds: all of it."""
        return {name: Shard(tensor.shape, 0, 1) for name, tensor in self._trainable()}

    def _trainable(self) -> Iterator[tuple[str, Tensor]]:
        return ((n, p) for n, p in self.module.named_parameters() if p.requires_grad)

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """The batch's loss at ``params``."""
        extra: dict[str, Any] = {}
        if self._weighs_itself:
            extra[WEIGHT_ARGUMENT] = batch.weights
        if self._counts_itself:
            extra[COUNT_ARGUMENT] = batch.denominator
        if self._checked:
            output = self._call(params, {**batch.inputs, **extra}, batch.key)
        else:
            output = self._checked_call(params, {**batch.inputs, **extra}, batch)
        loss: Tensor = output if isinstance(output, Tensor) else output.loss
        return self._weighted(loss, batch)

    def _call(self, params: Params, arguments: dict[str, Any], key: tuple[int, ...]) -> Any:
        if self.dropout_seed is None:
            return self._run(params, arguments)
        with torch.random.fork_rng():
            # The same batch must draw the same masks when it is rebuilt or replayed.
            digest = hashlib.sha256(repr((self.dropout_seed, key)).encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            return self._run(params, arguments)

    def bound(self, params: Params, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives while the module's parameters are ``params``."""
        named = {f"module.{name}": tensor for name, tensor in params.items()}
        return functional_call(_Bound(self.module), named, (compute,))

    def _run(self, params: Params, arguments: dict[str, Any]) -> Any:
        return functional_call(self.module, params, (), arguments)

    def _checked_call(self, params: Params, arguments: dict[str, Any], batch: Batch) -> Any:
        """The first call, which may neither change buffers nor draw unseeded random numbers."""
        versions = [buffer._version for buffer in self.module.buffers()]
        random = _random_state(batch.weights.device)
        output = self._call(params, arguments, batch.key)
        self._check_buffers(versions)
        if not torch.equal(random, _random_state(batch.weights.device)):
            raise TypeError(
                f"{type(self.module).__name__} draws random numbers (dropout, say), which replay "
                "could not repeat: call its eval(), or give the trainer a dropout_seed"
            )
        self._checked = True
        return output

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The module in eval mode, for measurements."""
        modes = {module: module.training for module in self.module.modules()}
        self.module.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _weighted(self, loss: Tensor, batch: Batch) -> Tensor:
        weights = batch.weights
        if loss.ndim == 0:
            if not self._weighs_itself:
                raise TypeError(
                    f"{type(self.module).__name__}.forward returns one number but takes no "
                    f"{WEIGHT_ARGUMENT}: return one loss a row or token, or take the weights"
                )
            return loss
        while weights.ndim < loss.ndim:
            weights = weights.unsqueeze(-1)
        if weights.ndim > loss.ndim or weights.shape[0] != loss.shape[0]:
            raise TypeError(
                f"{type(self.module).__name__}.forward returns losses of shape "
                f"{tuple(loss.shape)}; data weights of shape {tuple(weights.shape)} do not fit"
            )
        return (weights[tuple(slice(size) for size in loss.shape)] * loss).sum() / batch.denominator

    def _check_buffers(self, before: list[int]) -> None:
        changed = [
            name
            for (name, buffer), version in zip(self.module.named_buffers(), before, strict=False)
            if buffer._version != version
        ]
        if changed:
            raise TypeError(
                f"{type(self.module).__name__} changes its buffer {changed[0]} while training; "
                "only modules with constant buffers can be replayed: put batch-norm layers in "
                "eval mode or use another normalisation"
            )


class _Bound(nn.Module):
    """Computes something with a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()
