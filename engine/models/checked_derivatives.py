"""A model's derivatives compared with finite differences before it is trained.

On a float64 copy where memory allows, on the model itself otherwise. Compared are

- the module called as a train step calls it, with parameters put in place of its own, with a plain
  call at the same parameters: the loss and its gradient;
- the second derivatives of the training loss, and the first ones of what is measured (the loss
  in eval mode), with finite differences (:mod:`engine.replay.derivative_check`).

Hooks on gradients and options of embeddings that change them are refused as they are.
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
"""The largest batch that is differentiated."""
POINTS = 3
"""How many points and directions are tried before a derivative counts as wrong."""
SAME = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Relative difference up to which two ways to compute the same gradient agree."""
_ALIKE = 0.05
"""Relative difference up to which a float64 copy computes the same gradient as its original."""
_COPIES = 10
"""Float64 tensors as large as the trained parameters that a check holds at a time, at most."""
Problem = tuple[str, str]
"""What is wrong, in one sentence, and what to do about it."""
_MISSING_DERIVATIVE = re.compile(r"derivative for (?:')?([\w:]+)'? is not implemented")


@dataclass(frozen=True)
class DerivativeCheck:
    """What the comparison gave."""

    error: float | None
    """Largest relative error; None where nothing could be compared."""
    bound: float
    dtype: str
    """What the derivatives were computed in."""
    seconds: float
    problem: str = ""
    """What is wrong, in one sentence without a remedy; empty if nothing is."""
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether scores will be derivatives of the training."""
        return not self.problem

    def facts(self, forced: bool) -> dict[str, Any]:
        """As JSON-ready values; ``forced`` says that it was let through whatever it gave."""
        return {**asdict(self), "passed": self.passed, "forced": forced and not self.passed}

    def refusal(self, name: str, force: str) -> str:
        """The sentence for a model of that name, and how to go on regardless."""
        return f"{name}: {self.problem}; {self.remedy}, or {force}"

    def warning(self) -> str:
        """The sentence for a model that was let through."""
        return f"derivative was forced, do not trust the scores: {self.problem}"


def check_derivatives(
    loss: ModuleLoss, batch: Batch, memory: int, layers: Sequence[nn.Module] = ()
) -> DerivativeCheck:
    """Compare the derivatives of a loss with finite differences on a few rows of a batch.

    Costs about twenty gradients of at most four rows of at most 24 tokens each.

    Args:
        loss: of the module as it is trained; it is left as it was.
        batch: rows that it is trained on.
        memory: bytes free where it computes.
        layers: those whose activations are computed again.
    """
    began = time.perf_counter()
    compared = _Compared(loss.module, loss.dropout_seed, _small(batch), layers)
    error, problem = math.inf, gradient_change(loss.module)
    if problem is None:
        compared, error, problem = _compare(compared, memory)
    return DerivativeCheck(
        error if math.isfinite(error) else None,
        BOUNDS[compared.dtype],
        str(compared.dtype).removeprefix("torch."),
        time.perf_counter() - began,
        *(problem or ()),
    )


def _compare(own: "_Compared", memory: int) -> tuple["_Compared", float, Problem | None]:
    """What was compared in the end, the largest relative error, and what is wrong."""
    compared = own
    try:
        difference, grads = own.from_plain()
        if math.isnan(difference):
            # If it is so from the start, the training ends over it and names its step.
            return own, math.inf, _NOT_FINITE if own.is_finite() else None
        if not difference <= SAME[own.dtype]:
            return own, difference, _other_parameters(difference)
        if own.dtype is not torch.float64:
            compared = own.in_float64(grads, memory // 2) or own
        error, problem, found = compared.outcome()
        while compared is not own and found is not None and not own.agrees(found):
            # Its own arithmetic runs other code than the copy's, or other kinks lay on the way.
            seed = found.seed + 1
            compared, seed = (compared, seed) if seed < POINTS else (own, 0)
            error, problem, found = compared.outcome(seed)
        return compared, error, problem
    except OnceDifferentiableError as error:
        return compared, math.inf, _missing(str(error))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        text = " ".join(str(error).split())
        match = _MISSING_DERIVATIVE.search(text)
        if match is not None or isinstance(error, NotImplementedError):
            return compared, math.inf, _missing(match[1] if match else text[:200])
        if "torch.utils.checkpoint" in text:
            return compared, math.inf, _other_parameters(math.inf)
        raise


class _CalledLoss(ModuleLoss):
    """The same loss computed in float64 throughout, or by a plain call of the module."""

    def __init__(self, module: nn.Module, seed: int | None, *, wide: bool, plain: bool) -> None:
        super().__init__(module, seed)
        self._wide, self._plain = wide, plain
        if plain:
            # Batch norm changes its buffers in place here.
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
class _Found:
    """Second derivatives that agree with finite differences."""

    seed: int
    moved: Params
    products: Params


class _Compared:
    """One module, batch and arithmetic in which derivatives are compared."""

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

    def outcome(self, first_seed: int = 0) -> tuple[float, Problem | None, "_Found | None"]:
        """The largest relative error, what is wrong, and what was found where nothing is."""
        bound = BOUNDS[self.dtype]
        second = first = math.inf
        # Of several points the first usually serves.
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
                return max(first, second), None, _Found(seed, moved, products)
        if second > bound:
            return second, self._wrong(second), None
        return first, _wrong_measurement(first, bound), None

    def agrees(self, found: "_Found") -> bool:
        """Whether its own second derivatives are those that a copy in float64 has."""
        if any(p.dtype is torch.bfloat16 for p in self.params.values()):
            return True
        moved = {name: t.to(self.params[name]) for name, t in found.moved.items()}
        self.params = {name: self.params[name] for name in moved}
        point = point_near(self.params, self.buffers, self.batch, found.seed)
        own = second_derivatives_along(self.loss, point, moved)
        difference = size = 0.0
        for name, product in found.products.items():
            difference += ((own[name] - product) * moved[name]).norm().item() ** 2
            size += (product * moved[name]).norm().item() ** 2
        return difference <= _ALIKE**2 * size

    def _point(self, seed: int) -> Point:
        # Steps as wide as float32 needs come to fewer kinks with fewer tokens.
        halved = 0 if self.dtype is torch.float64 else seed
        return point_near(self.params, self.buffers, _fewer(self.batch, halved), seed)

    def is_finite(self) -> bool:
        """Whether loss and gradient are finite at the initial parameters."""
        state = TrainState(0, self.params, [], self.buffers)
        value, grads, _ = first_derivatives(self.loss, state, self.params, self.batch)
        return math.isfinite(value) and all(bool(g.isfinite().all()) for g in grads.values())

    def from_plain(self) -> tuple[float, Params]:
        """How far loss and gradient are from those of a plain call of the module; the gradient.

        The distance is no number if they are not finite.
        """
        state = self._point(0).state
        value, grads, _ = first_derivatives(self.loss, state, state.params, self.batch)
        if not (math.isfinite(value) and all(bool(g.isfinite().all()) for g in grads.values())):
            return math.nan, grads
        with _holding(self.whole.module, {**state.params, **state.buffers}) as own:
            leaves = [own[name] for name in state.params]
            with torch.enable_grad():
                plain = self.plain(state.params, self.batch)
            found = torch.autograd.grad(plain, leaves, allow_unused=True, materialize_grads=True)
        apart = abs(plain.item() - value) / max(abs(value), 1e-3)
        plainly = dict(zip(state.params, found, strict=True))
        return max(apart, gradient_difference(state.params, grads, plainly)), grads

    def in_float64(self, grads: Params, memory: int) -> "_Compared | None":
        """A copy in float64, differentiated in as many parameters as fit into memory.

        None if it does not fit, or does not compute the gradient that this one does.
        """
        size = sum(p.numel() for p in self.whole.module.parameters())
        names = _smallest(self.params, (memory // 8 - size) // _COPIES)
        if not names:
            return None
        own = self.whole.module
        places = {id(part): name for name, part in own.named_modules()}
        # The copy of a stranger's module may share what it should not, or refuse to compute in
        # float64: the module itself then has to do.
        try:
            twin = copy.deepcopy(own).double()
            parts = dict(twin.named_modules())
            layers = [parts[places[id(layer)]] for layer in self.layers]
            seed = self.whole.dropout_seed
            copied = _Compared(twin, seed, _in_double(self.batch), layers)
            copied.params = {name: copied.params[name] for name in names}
            # What is not differentiated stays where it was, here as there.
            if len(names) < len(self.params):
                self.params = {name: self.params[name] for name in names}
                _, grads = self.from_plain()
            state = copied._point(0).state
            _, wide, _ = first_derivatives(copied.loss, state, state.params, copied.batch)
        except Exception:
            return None
        alike = gradient_difference(
            self.params, grads, {n: g.to(grads[n]) for n, g in wide.items()}
        )
        # Dropout draws other masks in other arithmetic.
        return copied if seed is not None or alike <= _ALIKE else None

    def _wrong(self, error: float) -> Problem:
        place = faulty_part(self.whole, self._point(0))
        return (
            f"the second derivatives of {place} are {error:.1e} of their size off finite "
            f"differences of its gradient (rounding: {BOUNDS[self.dtype]:.0e} at most); something "
            "that depends on parameters is constant for autograd (no_grad, detach, .data), or has "
            "a wrong second derivative",
            "compute it so that autograd can differentiate it twice",
        )


def _wrong_measurement(error: float, bound: float) -> Problem:
    return (
        f"the gradient of what is measured (the loss in eval mode) is {error:.1e} of its size off "
        f"finite differences (rounding: {bound:.0e} at most); something that depends on "
        "parameters is constant for autograd (no_grad, detach, .data)",
        "compute it so that autograd can differentiate it",
    )


def _other_parameters(difference: float) -> Problem:
    return (
        "with other parameters put in place of its own, the model's loss or gradient is not what "
        f"it is once it has them as its own ({difference:.1e} of it apart): activations "
        "are computed again with its own (gradient checkpointing), or it reaches parameters by "
        "references that are not registered",
        "turn its checkpointing off (gradient_checkpointing_disable(); magic computes layers "
        "again exactly with recompute), and register every parameter",
    )


_NOT_FINITE: Problem = (
    "its loss or gradient is not finite a little beside the initial parameters, so that its "
    "derivatives cannot be compared with finite differences",
    "use a model whose loss is finite there",
)


def _missing(operation: str) -> Problem:
    return (
        f"it contains an operation that cannot be differentiated twice ({operation})",
        "choose a model without it",
    )


def _smallest(params: Params, elements: int) -> list[str]:
    """The names of the smallest parameters that have so many elements together at most."""
    chosen = set()
    for name in sorted(params, key=lambda name: params[name].numel()):
        elements -= params[name].numel()
        if elements < 0:
            break
        chosen.add(name)
    # In their own order, in which noise is drawn for them.
    return [name for name in params if name in chosen]


def _small(batch: Batch) -> Batch:
    """A few rows of a batch, cut to a few tokens where it is clear what its tokens are."""
    small = _cut(batch, ROWS, TOKENS)
    labels = small.inputs.get("labels")
    if labels is None or not _has_tokens(small) or bool((labels[:, 1:] != IGNORED).any()):
        return small
    # All that counts lies beyond.
    return replace(small, inputs={**small.inputs, "labels": small.inputs["input_ids"]})


def _fewer(batch: Batch, times: int) -> Batch:
    """A batch that is halved in rows and tokens so many times, but for what has to stay."""
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
def _holding(module: nn.Module, tensors: Params) -> Iterator[Params]:
    """The module with these parameters and buffers as its own for a while."""
    own = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    before = {name: own[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            own[name].data = tensor.clone()
        yield own
    finally:
        for name, data in before.items():
            own[name].data = data
