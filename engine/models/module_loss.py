"""The batch loss of a torch module, as a function of its parameters and buffers."""

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.batch_norm import batch_norms, differentiable
from engine.models.module_tensors import ModelError, ModuleTensors
from engine.models.plain_forward import PlainForward
from engine.replay.ranks import Shard
from engine.replay.state import Batch, Params

WEIGHT_ARGUMENT = "example_weight"
COUNT_ARGUMENT = "num_items_in_batch"


class ModuleLoss:
    """L = (1/D) Σ w·ℓ of a module whose forward takes a batch's columns as keyword arguments.

    The forward may return

    - losses, one per row or per position, whose shape is that of the weights, possibly with an
      added dimension of positions, which is summed over. The weights are applied here;
    - a scalar, or an output with ``.loss``: then the forward itself must take
      ``example_weight`` (rows,) or (rows, tokens) and ``num_items_in_batch`` (the D to divide
      by) and return (1/D) Σ w·ℓ, as :class:`~engine.models.causal_lm_loss.CausalLMLoss` and
      :func:`~engine.models.causal_lm_loss.weighted_causal_lm_ce` do.

    Only parameters that require a gradient are trained; a tied one appears once. The running
    statistics of batch norm are differentiable buffers. Modules with other buffers that depend on
    earlier batches are refused.
    """

    def __init__(self, module: nn.Module, dropout_seed: int | None = None) -> None:
        """Wrap ``module``; ``dropout_seed`` makes random layers a function of the batch's key.

        Raises:
            ModelError: if a parameter is not a dense real tensor, or shares memory with another
                tensor, or if the module is scripted.
        """
        _check_kinds(module)
        self.module = module
        self.dropout_seed = dropout_seed
        self._tensors = ModuleTensors(module)
        self._formulas = PlainForward(module)
        self._batch_norms = batch_norms(module)
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

    def buffers(self) -> Params:
        """Copies of the buffers that training changes: b_0."""
        return {
            f"{name}.{own}" if name else own: buffer.detach().clone()
            for name, layer in self._batch_norms.items()
            for own, buffer in layer.named_buffers(recurse=False)
        }

    def shards(self) -> dict[str, Shard]:
        """The shard of every trainable parameter in θ: here all of it."""
        return {name: Shard(tensor.shape, 0, 1) for name, tensor in self._trainable()}

    def _trainable(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self._tensors.parameter(name)) for name in self._tensors.trained)

    def __call__(self, params: Params, batch: Batch, buffers: Params | None = None) -> Tensor:
        """The batch's loss at ``params`` and ``buffers``."""
        return self.with_buffers(params, batch, buffers or {})[0]

    def with_buffers(self, params: Params, batch: Batch, buffers: Params) -> tuple[Tensor, Params]:
        """The batch's loss, and the buffers after it; in eval mode they do not change."""
        extra: dict[str, Any] = {}
        if self._weighs_itself:
            extra[WEIGHT_ARGUMENT] = batch.weights
        if self._counts_itself:
            extra[COUNT_ARGUMENT] = batch.denominator
        # After the call this dict contains the updated buffers.
        tensors = {**params, **buffers}
        if self._checked:
            output = self._call(tensors, {**batch.inputs, **extra}, batch.key)
        else:
            output = self._checked_call(tensors, {**batch.inputs, **extra}, batch)
        return self._weighted(_loss_of(output), batch), {name: tensors[name] for name in buffers}

    def _call(self, tensors: Params, arguments: dict[str, Any], key: tuple[int, ...]) -> Any:
        if self.dropout_seed is None:
            return self._run(tensors, arguments)
        with torch.random.fork_rng():
            # The same batch must draw the same masks in training, recomputation and replay.
            digest = hashlib.sha256(repr((self.dropout_seed, key)).encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            return self._run(tensors, arguments)

    def bound(self, params: Params, compute: Callable[[], Any]) -> Any:
        """The result of ``compute``, called while the module's parameters are ``params``."""
        with self._formulas.on(), self._tensors.replaced_by(params):
            return compute()

    def _run(self, tensors: Params, arguments: dict[str, Any]) -> Any:
        with differentiable(list(self._batch_norms.values())):
            return self.bound(tensors, lambda: self.module(**arguments))

    def _checked_call(self, tensors: Params, arguments: dict[str, Any], batch: Batch) -> Any:
        """Call the module for the first time, with checks.

        Raises:
            ModelError: if the module changes buffers that its results depend on, draws unseeded
                random numbers, or uses parameters that cannot be replaced.
        """
        before = {n: (b, b._version) for n, b in self.module.named_buffers() if n not in tensors}
        random = _random_state(batch.weights.device)
        with self._tensors.forbidding_own(tensors):
            output = self._call(tensors, arguments, batch.key)
        if not torch.equal(random, _random_state(batch.weights.device)):
            raise ModelError(
                f"{type(self.module).__name__} draws random numbers (as in dropout), which "
                "replay cannot repeat: call its eval(), or give the trainer a dropout_seed"
            )
        changed = [n for n, (b, version) in before.items() if self._has_changed(n, b, version)]
        if changed and not self._overwrites(changed, output, (tensors, arguments, batch.key)):
            raise ModelError(
                f"{type(self.module).__name__} changes its buffer {changed[0]} while training; "
                "only torch's batch norm may change its buffers: keep this one constant, or "
                "put its layer in eval mode"
            )
        self._checked = True
        return output

    def _has_changed(self, name: str, buffer: Tensor, version: int) -> bool:
        now = self._tensors.tensor(name)
        if now is buffer:
            return buffer._version != version
        return now is None or buffer._version != version or not torch.equal(now, buffer)

    @torch.no_grad()
    def _overwrites(self, names: list[str], output: Any, call: tuple[Any, ...]) -> bool:
        """Whether buffers are written before they are read, so no batch affects a later one."""
        tensors, arguments, key = call
        buffers = {name: self._tensors.tensor(name) for name in names}
        if any(buffer is None for buffer in buffers.values()):
            return False
        corrupted = {
            name: _corrupted(buffer) for name, buffer in buffers.items() if buffer is not None
        }
        given = {**tensors, **corrupted}
        pairs = [(_loss_of(output), _loss_of(self._call(given, arguments, key)))]
        pairs += [(buffer, given[name]) for name, buffer in buffers.items() if buffer is not None]
        return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4) for a, b in pairs)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the module is in eval mode."""
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
                    f"{WEIGHT_ARGUMENT}: return one loss per row or token, or take the weights"
                )
            return loss
        common = min(loss.ndim, weights.ndim)
        given = tuple(weights.shape[:common])
        # A row's last position may have no loss, as it predicts nothing.
        fits = [given, (*given[:-1], given[-1] - 1)] if common == 2 else [given]
        if weights.ndim > loss.ndim or tuple(loss.shape[:common]) not in fits:
            raise ModelError(
                f"{type(self.module).__name__}.forward returns losses of shape "
                f"{tuple(loss.shape)}; data weights of shape {tuple(weights.shape)} do not match: "
                "give one weight per row or per position, and the stream this weight_shape"
            )
        weights = weights[tuple(slice(size) for size in loss.shape[:common])]
        weights = weights.reshape(*weights.shape, *[1] * (loss.ndim - common))
        return (weights * loss).sum() / batch.denominator


def _check_kinds(module: nn.Module) -> None:
    """Check that every parameter can be replaced and trained.

    Raises:
        ModelError: naming one that cannot.
    """
    kind = type(module).__name__
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule | nn.DataParallel):
            raise ModelError(
                f"{kind}: {name or 'the module'} is a {type(part).__name__}, whose parameters "
                "cannot be replaced; give the module that it was made from"
            )
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModelError(
                f"{kind}: {name} has no shape yet; call the module once before it is trained"
            )
        if parameter.requires_grad and not (
            parameter.is_floating_point() and parameter.layout == torch.strided
        ):
            raise ModelError(
                f"{kind}: the parameter {name} is {parameter.dtype} in {parameter.layout}; only "
                "dense real tensors can be trained: convert or freeze it"
            )


def check_finite(module: nn.Module, where: str) -> None:
    """Check that all weights are finite.

    Raises:
        ModelError: naming the first tensor with NaN or infinity, and ``where``.
    """
    for name, parameter in module.named_parameters():
        values = parameter.detach()
        if values.is_floating_point() and not values.isfinite().all():
            raise ModelError(
                f"{where}: {name} contains values that are not finite (NaN or infinity); give "
                "finite weights"
            )


def _loss_of(output: Any) -> Tensor:
    loss: Tensor = output if isinstance(output, Tensor) else output.loss
    return loss


def _corrupted(buffer: Tensor) -> Tensor:
    """A buffer with values that change every result that depends on it."""
    if buffer.is_floating_point() or buffer.is_complex():
        return torch.full_like(buffer, float("nan"))
    return ~buffer if buffer.dtype == torch.bool else buffer + 1


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()
