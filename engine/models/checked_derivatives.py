"""Compare a model's derivatives with finite differences before it is trained.

The comparison uses a float64 copy if memory allows, otherwise the model itself. It compares

- loss and gradient of the module called as in a train step, with its parameters replaced, with
  those of a plain call at the same parameters;
- the second derivatives of the training loss, and the gradient of the measured loss (in eval mode),
  with finite differences (:mod:`engine.replay.derivative_check`).

Gradient hooks and embedding options that change gradients are refused without a comparison.
"""

import contextlib
import copy
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from engine.models.causal_lm_loss import IGNORED
from engine.models.derivative_faults import faulty_part, gradient_change
from engine.models.float64 import without_float32
from engine.models.layers import LayeredModuleLoss
from engine.models.module_loss import ModuleLoss
from engine.replay.derivative_check import (
    BOUNDS,
    OnceDifferentiableError,
    Point,
    dtype_of,
    first_derivative_error,
    gradient_difference,
    moved_elements,
    point_near,
    second_derivative_error,
    second_derivatives_along,
)
from engine.replay.derivatives import first_derivatives
from engine.replay.state import Batch, BatchLoss, Params, TrainState

ROWS, TOKENS = 4, 8
"""Rows and tokens of the largest batch that is differentiated."""
POINTS = 3
"""Points and directions tried before a derivative counts as wrong."""
SAME = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Relative difference up to which two computations of one gradient count as equal."""
_ALIKE = 0.05
"""Relative difference up to which a float64 copy counts as equal to its original."""
_COPIES = 10
"""The most parameter-sized float64 tensors that a check holds at a time."""
Problem = tuple[str, str]
"""What is wrong, in one sentence, and its remedy."""
_MISSING_DERIVATIVE = re.compile(r"derivative for (?:')?([\w:]+)'? is not implemented")


@dataclass(frozen=True)
class DerivativeCheck:
    """The result of the comparison."""

    error: float | None
    """Largest relative error; None if nothing could be compared."""
    bound: float
    dtype: str
    """The dtype of the comparison."""
    seconds: float
    problem: str = ""
    """What is wrong, in one sentence without a remedy; empty if nothing is."""
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether the derivatives are correct."""
        return not self.problem

    def facts(self, forced: bool) -> dict[str, Any]:
        """As JSON values; ``forced``: the model is trained even if the check fails."""
        return {**asdict(self), "passed": self.passed, "forced": forced and not self.passed}

    def refusal(self, name: str, force: str) -> str:
        """The error message for a model of that name; ``force`` is the option that overrides it."""
        return f"{name}: {self.problem}; {self.remedy}, or {force}"

    def warning(self) -> str:
        """The warning for a model that is trained although the check failed."""
        return f"derivative was forced, do not trust the scores: {self.problem}"


def check_derivatives(
    loss: ModuleLoss, batch: Batch, memory: int, layers: Sequence[nn.Module] = ()
) -> DerivativeCheck:
    """Compare the derivatives of a loss with finite differences on a few rows of a batch.

    Costs about 20 gradients of at most 4 rows of at most 8 tokens each.

    Args:
        loss: the training loss; its module is not changed.
        batch: rows of the training.
        memory: free bytes of the device.
        layers: layers with activation checkpointing.
    """
    began = time.perf_counter()
    comparison = _Comparison(loss.module, loss.dropout_seed, _small(batch), layers)
    error, problem = math.inf, gradient_change(loss.module)
    if problem is None:
        comparison, error, problem = _compare(comparison, memory)
    return DerivativeCheck(
        error if math.isfinite(error) else None,
        BOUNDS[comparison.dtype],
        str(comparison.dtype).removeprefix("torch."),
        time.perf_counter() - began,
        *(problem or ()),
    )


def _compare(own: "_Comparison", memory: int) -> tuple["_Comparison", float, Problem | None]:
    """The comparison that was decisive, its largest relative error, and the problem if any."""
    comparison = own
    try:
        difference, grads = own.from_plain()
        if math.isnan(difference):
            # If it is not finite at the initial parameters either, training stops with that error.
            return own, math.inf, _NOT_FINITE if own.is_finite() else None
        if not difference <= SAME[own.dtype]:
            return own, difference, _other_parameters(difference)
        if own.dtype is not torch.float64:
            comparison = own.in_float64(grads, memory // 2) or own
        error, problem, agreement = comparison.outcome()
        while comparison is not own and agreement is not None and not own.agrees(agreement):
            # The model's own dtype uses other code than the copy's, or there was a kink in between.
            seed = agreement.seed + 1
            comparison, seed = (comparison, seed) if seed < POINTS else (own, 0)
            error, problem, agreement = comparison.outcome(seed)
        return comparison, error, problem
    except OnceDifferentiableError as error:
        return comparison, math.inf, _missing(str(error))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        text = " ".join(str(error).split())
        match = _MISSING_DERIVATIVE.search(text)
        if match is not None or isinstance(error, NotImplementedError):
            return comparison, math.inf, _missing(match[1] if match else text[:200])
        if "torch.utils.checkpoint" in text:
            return comparison, math.inf, _other_parameters(math.inf)
        raise


class _CalledLoss(ModuleLoss):
    """The loss in float64 throughout, or by a plain call of the module."""

    def __init__(self, module: nn.Module, seed: int | None, *, wide: bool, plain: bool) -> None:
        super().__init__(module, seed)
        self._wide, self._plain = wide, plain
        if plain:
            # In a plain call, batch norm changes its buffers in place.
            self._checked = True

    def bound(self, params: Params, compute: Any) -> Any:
        with self._arithmetic():
            return super().bound(params, compute)

    def _run(self, tensors: Params, arguments: dict[str, Any]) -> Any:
        if not self._plain:
            with self._arithmetic():
                return super()._run(tensors, arguments)
        with self._arithmetic(), self._formulas.on():
            return self.module(**arguments)

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        return without_float32() if self._wide else contextlib.nullcontext()


@dataclass(frozen=True)
class _Agreement:
    """Second derivatives that agree with finite differences."""

    seed: int
    moved: Params
    products: Params


class _Comparison:
    """One module, batch and dtype in which derivatives are compared."""

    def __init__(
        self, module: nn.Module, seed: int | None, batch: Batch, layers: Sequence[nn.Module]
    ) -> None:
        self.batch, self.layers = batch, layers
        wide = batch.weights.dtype is torch.float64
        self.whole = _CalledLoss(module, seed, wide=wide, plain=False)
        self.plain = _CalledLoss(module, seed, wide=wide, plain=True)
        self.loss: BatchLoss = LayeredModuleLoss(self.whole, layers) if layers else self.whole
        self.params, self.buffers = self.whole.parameters(), self.whole.buffers()
        self.dtype = dtype_of(self.params)

    def outcome(self, first_seed: int = 0) -> tuple[float, Problem | None, "_Agreement | None"]:
        """The largest relative error, the problem if any, and the numerical agreement if none."""
        bound = BOUNDS[self.dtype]
        second = first = math.inf
        # Usually the first point is enough.
        for seed in range(first_seed, POINTS):
            point = self._point(seed)
            moved = moved_elements(self.loss, point)
            if second > bound:
                error, products = second_derivative_error(self.loss, point, moved)
                second = min(second, error)
            if second <= bound:
                with self.whole.evaluating():
                    first = min(first, first_derivative_error(self.loss, point, moved))
            if first <= bound:
                return max(first, second), None, _Agreement(seed, moved, products)
        if second > bound:
            return second, self._wrong(second), None
        return first, _wrong_measurement(first, bound), None

    def agrees(self, agreement: "_Agreement") -> bool:
        """Whether this dtype's second derivatives agree with those of a float64 copy."""
        if any(p.dtype is torch.bfloat16 for p in self.params.values()):
            return True
        moved = {name: t.to(self.params[name]) for name, t in agreement.moved.items()}
        self.params = {name: self.params[name] for name in moved}
        point = point_near(self.params, self.buffers, self.batch, agreement.seed)
        own = second_derivatives_along(self.loss, point, moved)
        difference = size = 0.0
        for name, product in agreement.products.items():
            difference += ((own[name] - product) * moved[name]).norm().item() ** 2
            size += (product * moved[name]).norm().item() ** 2
        return difference <= _ALIKE**2 * size

    def _point(self, seed: int) -> Point:
        # float32 needs wide steps, which cross fewer kinks with fewer tokens.
        halved = 0 if self.dtype is torch.float64 else seed
        return point_near(self.params, self.buffers, _fewer(self.batch, halved), seed)

    def is_finite(self) -> bool:
        """Whether loss and gradient are finite at the initial parameters."""
        state = TrainState(0, self.params, [], self.buffers)
        value, grads, _ = first_derivatives(self.loss, state, self.params, self.batch)
        return math.isfinite(value) and all(bool(g.isfinite().all()) for g in grads.values())

    def from_plain(self) -> tuple[float, Params]:
        """The relative difference of loss and gradient from a plain call, and the gradient.

        The difference is NaN if they are not finite.
        """
        state = self._point(0).state
        value, grads, _ = first_derivatives(self.loss, state, state.params, self.batch)
        if not (math.isfinite(value) and all(bool(g.isfinite().all()) for g in grads.values())):
            return math.nan, grads
        with _owning(self.whole.module, {**state.params, **state.buffers}) as own:
            leaves = [own[name] for name in state.params]
            with torch.enable_grad():
                plain = self.plain(state.params, self.batch)
            plain_grads = torch.autograd.grad(
                plain, leaves, allow_unused=True, materialize_grads=True
            )
        difference = abs(plain.item() - value) / max(abs(value), 1e-3)
        expected = dict(zip(state.params, plain_grads, strict=True))
        return max(difference, gradient_difference(state.params, grads, expected)), grads

    def in_float64(self, grads: Params, memory: int) -> "_Comparison | None":
        """A float64 copy, differentiated in as many parameters as fit into memory.

        None if it does not fit, or if its gradient differs from this module's.
        """
        size = sum(p.numel() for p in self.whole.module.parameters())
        names = _smallest(self.params, (memory // 8 - size) // _COPIES)
        if not names:
            return None
        own = self.whole.module
        part_names = {id(part): name for name, part in own.named_modules()}
        # Copying a user's module may fail, or float64 may be unsupported. Then the module itself
        # is used.
        try:
            duplicate = copy.deepcopy(own).double()
            parts = dict(duplicate.named_modules())
            layers = [parts[part_names[id(layer)]] for layer in self.layers]
            seed = self.whole.dropout_seed
            copied = _Comparison(duplicate, seed, _in_double(self.batch), layers)
            copied.params = {name: copied.params[name] for name in names}
            # Parameters that are not differentiated keep their values in both.
            if len(names) < len(self.params):
                self.params = {name: self.params[name] for name in names}
                _, grads = self.from_plain()
            state = copied._point(0).state
            _, wide, _ = first_derivatives(copied.loss, state, state.params, copied.batch)
        except Exception:
            return None
        difference = gradient_difference(
            self.params, grads, {n: g.to(grads[n]) for n, g in wide.items()}
        )
        # Dropout draws different masks in different dtypes.
        return copied if seed is not None or difference <= _ALIKE else None

    def _wrong(self, error: float) -> Problem:
        part = faulty_part(self.whole, self._point(0))
        return (
            f"the second derivatives of {part} differ from finite differences of its gradient by "
            f"{error:.1e}, relative (rounding: at most {BOUNDS[self.dtype]:.0e}); autograd treats "
            "something that depends on parameters as constant (no_grad, detach, .data), or its "
            "second derivative is wrong",
            "compute it so that autograd can differentiate it twice",
        )


def _wrong_measurement(error: float, bound: float) -> Problem:
    return (
        f"the gradient of the measured loss (in eval mode) differs from finite differences by "
        f"{error:.1e}, relative (rounding: at most {bound:.0e}); autograd treats something that "
        "depends on parameters as constant (no_grad, detach, .data)",
        "compute it so that autograd can differentiate it",
    )


def _other_parameters(difference: float) -> Problem:
    return (
        "replacing the model's parameters does not give the loss and gradient of a model that has "
        f"these parameters (relative difference {difference:.1e}): its gradient checkpointing "
        "recomputes activations with the original parameters, or it uses parameters through "
        "references that are not registered",
        "turn its checkpointing off with gradient_checkpointing_disable() and use magic's "
        "activation_checkpointing, and register every parameter",
    )


_NOT_FINITE: Problem = (
    "its loss or gradient is not finite near the initial parameters, so its derivatives cannot be "
    "compared with finite differences",
    "use a model whose loss is finite there",
)


def _missing(operation: str) -> Problem:
    return (
        f"it contains an operation that cannot be differentiated twice ({operation})",
        "choose a model without it",
    )


def _smallest(params: Params, elements: int) -> list[str]:
    """The smallest parameters, by name, with at most ``elements`` elements in total."""
    chosen = set()
    for name in sorted(params, key=lambda name: params[name].numel()):
        elements -= params[name].numel()
        if elements < 0:
            break
        chosen.add(name)
    # In the order of ``params``, in which noise is drawn.
    return [name for name in params if name in chosen]


def _small(batch: Batch) -> Batch:
    """A few rows of a batch, cut to a few tokens if all inputs are per token."""
    small = _cut(batch, ROWS, TOKENS)
    labels = small.inputs.get("labels")
    if labels is None or not _has_tokens(small) or bool((labels[:, 1:] != IGNORED).any()):
        return small
    # All targets are beyond the cut, so every token becomes a target.
    return replace(small, inputs={**small.inputs, "labels": small.inputs["input_ids"]})


def _fewer(batch: Batch, times: int) -> Batch:
    """A batch with rows and tokens halved ``times`` times, to 2 at least."""
    rows, tokens = (max(2, size >> times) for size in (ROWS, TOKENS))
    return batch if times == 0 else _cut(batch, rows, tokens)


def _has_tokens(batch: Batch) -> bool:
    ids = batch.inputs.get("input_ids")
    return ids is not None and all(t.shape == ids.shape for t in batch.inputs.values())


def _cut(batch: Batch, rows: int, tokens: int) -> Batch:
    inputs = {name: tensor[:rows] for name, tensor in batch.inputs.items()}
    weights = batch.weights[:rows]
    if _has_tokens(batch):
        inputs = {name: tensor[:, :tokens] for name, tensor in inputs.items()}
        weights = weights[:, :tokens] if weights.ndim == 2 else weights
    return Batch(inputs, weights, max(1, weights.numel()), batch.key)


def _in_double(batch: Batch) -> Batch:
    inputs = {n: t.double() if t.is_floating_point() else t for n, t in batch.inputs.items()}
    return replace(batch, inputs=inputs, weights=batch.weights.double())


@contextlib.contextmanager
def _owning(module: nn.Module, tensors: Params) -> Iterator[Params]:
    """Inside, the module has these parameters and buffers as its own."""
    own = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    before = {name: own[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            own[name].data = tensor.clone()
        yield own
    finally:
        for name, data in before.items():
            own[name].data = data
