"""The optimizer as a differentiable function h: (θ, o, g) → (θ', o'), and its VJP.

Any torchopt chain works. Its VJP differentiates the update alone with autograd, without the model's
graph (arXiv 2504.16430, the optimizer part of one replayed step), unless the chain provides a
``group_vjp`` of its own, as Adam does in :mod:`engine.replay.optimizers`. If the chain treats every
element alone, as Adam(W) and SGD do, the parameters are cut into groups of slices that fit the
processor's cache; otherwise one group holds all tensors. The optimizer's state is cut in the same
way; by name it does not depend on the cut.

Clipping by global norm is not elementwise, so it comes first, as a stage with its VJP in
closed form: ĝ = κ g with κ = min(1, c / (‖g‖ + 1e-6)), hence for κ < 1

    u = κ û - (κ / (‖g‖ (‖g‖ + 1e-6))) ⟨û, g⟩ g.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optree
import torch
import torchopt
from torch import Tensor
from torchopt.base import GradientTransformation

from engine.replay.ranks import SINGLE_RANK, Ranks
from engine.replay.state import Cotangent, Params


@dataclass(frozen=True)
class ParameterSlice:
    """A contiguous slice of a flattened parameter; ``stop`` None: the whole tensor in its shape."""

    name: str
    start: int = 0
    stop: int | None = None

    def of(self, tensors: Params) -> Tensor:
        """The slice of the tensor of its name, as a view."""
        tensor = tensors[self.name]
        return tensor if self.stop is None else tensor.reshape(-1)[self.start : self.stop]

    @property
    def key(self) -> str:
        """Its name among all slices."""
        return f"{self.name}[{self.start}]"


def parameter_of_key(key: str) -> str:
    """The parameter's name in the key of a slice."""
    return key.rpartition("[")[0]


def slice_into_groups(params: Params, group_elements: int) -> list[list[ParameterSlice]]:
    """Slice parameters, in order, into groups of ``group_elements``; the last may have fewer."""
    groups: list[list[ParameterSlice]] = [[]]
    room = group_elements
    for name, tensor in params.items():
        start, size = 0, tensor.numel()
        while start < size:
            if room == 0:
                groups.append([])
                room = group_elements
            stop = min(size, start + room)
            groups[-1].append(ParameterSlice(name, start, stop))
            room -= stop - start
            start = stop
    return groups


def named_state(groups: list[list[ParameterSlice]], state: list[Any]) -> Params:
    """An optimizer's state by name.

    Per-parameter state, such as a moment, is one vector ``path/parameter`` of its elements in
    order. State of all parameters together, such as the count of updates, is one scalar ``path``.
    """
    parts: dict[str, list[Tensor]] = {}
    for group, group_state in zip(groups, state, strict=True):
        for leaf in _leaves(group, group_state):
            if leaf.part is None:
                parts[leaf.name] = [leaf.tensor]
            else:
                parts.setdefault(leaf.name, []).append(leaf.tensor.reshape(-1))
    return {name: torch.cat(of) if len(of) > 1 else of[0] for name, of in parts.items()}


def state_from_names(
    groups: list[list[ParameterSlice]], tensors: Params, like: list[Any]
) -> list[Any]:
    """The inverse of :func:`named_state`, for a state shaped like ``like``."""
    state = []
    for group, group_state in zip(groups, like, strict=True):
        leaves = []
        for leaf in _leaves(group, group_state):
            tensor = tensors[leaf.name]
            if leaf.part is not None and leaf.part.stop is not None:
                tensor = tensor[leaf.part.start : leaf.part.stop]
            leaves.append(tensor.view(leaf.tensor.shape))
        state.append(optree.tree_unflatten(optree.tree_structure(group_state), leaves))
    return state


@dataclass(frozen=True)
class _Leaf:
    """One tensor of a group's optimizer state; ``part`` is the slice it belongs to, if one."""

    name: str
    tensor: Tensor
    part: ParameterSlice | None


def _leaves(group: list[ParameterSlice], state: Any) -> Iterator[_Leaf]:
    """The leaves in optree's order; torchopt sorts per-parameter leaves by parameter name."""
    paths, leaves, _ = optree.tree_flatten_with_path(state)
    slices = sorted(group, key=lambda part: part.key)
    siblings = Counter(path[:-1] for path in paths)
    seen: Counter[tuple[Any, ...]] = Counter()
    for path, leaf in zip(paths, leaves, strict=True):
        tensor, parent = torch.as_tensor(leaf), path[:-1]
        number = seen[parent]
        seen[parent] += 1
        by_parameter = siblings[parent] == len(slices)
        name = ".".join(map(str, parent if by_parameter else path))
        if by_parameter and tensor.is_floating_point():
            part = slices[number]
            yield _Leaf(f"{name}/{part.name}", tensor, part)
        else:
            yield _Leaf(name, tensor, None)


GROUP_ELEMENTS = 2**19
"""Elements per group on a CPU: its temporaries fit the second-level cache."""
GPU_GROUP_ELEMENTS = 2**24
"""Elements per group on a GPU: enough to occupy it, with temporaries small next to a graph."""

CLIP_EPSILON = 1e-6


def global_norm(tensors: Params) -> Tensor:
    """The 2-norm of all tensors together, computed as by ``torch.nn.utils.clip_grad_norm_``."""
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


class OptimizerStage:
    """h and its VJP for one torchopt optimizer and parameters of fixed names and shapes."""

    def __init__(
        self,
        optimizer: GradientTransformation,
        params: Params,
        *,
        elementwise: bool = False,
        max_grad_norm: float | None = None,
        ranks: Ranks = SINGLE_RANK,
    ) -> None:
        """Prepare for parameters like ``params``.

        Args:
            optimizer: a torchopt gradient transformation.
            params: parameters whose names and shapes all later calls share.
            elementwise: the optimizer treats every element of every parameter alone, so it
                may be applied group by group.
            max_grad_norm: clip the gradient by its global norm first.
            ranks: the ranks that hold the other shards, if ``params`` are shards.
        """
        self.optimizer = optimizer
        self.ranks = ranks
        self.max_grad_norm = max_grad_norm
        self.device = next(iter(params.values())).device
        on_cpu = all(tensor.device.type == "cpu" for tensor in params.values())
        self.groups = (
            slice_into_groups(params, GROUP_ELEMENTS if on_cpu else GPU_GROUP_ELEMENTS)
            if elementwise
            else [[ParameterSlice(name) for name in params]]
        )
        self._make_first_update(params)

    def norm(self, tensors: Params) -> Tensor:
        """The 2-norm of all tensors together, over all shards."""
        own, ranks = global_norm(tensors), self.ranks.shard_group
        return own if ranks.count == 1 else ranks.sum(own * own).sqrt()

    def init(self, params: Params) -> list[Any]:
        """The optimizer's state before the first update."""
        detached = {name: tensor.detach() for name, tensor in params.items()}
        return [self.optimizer.init(self._slices(group, detached)) for group in self.groups]

    @torch.no_grad()
    def update(self, params: Params, state: list[Any], grads: Params) -> tuple[Params, list[Any]]:
        """(θ', o') = h(θ, o, g)."""
        grads = self._clipped(grads)
        new_params = _empty_like(params)
        new_state = []
        for group, group_state in zip(self.groups, state, strict=True):
            stepped, stepped_state = self._step(
                self._slices(group, params), group_state, self._slices(group, grads)
            )
            self._assemble(group, stepped.values(), new_params)
            new_state.append(stepped_state)
        return new_params, new_state

    def vjp(
        self, params: Params, state: list[Any], grads: Params, cotangents: Sequence[Cotangent]
    ) -> list[Params]:
        """The VJP of the update: overwrites ``cotangents``, returns the cotangents at g.

        Each cotangent λ at (θ', o') is overwritten with (a_θ, a_o), the cotangent at (θ, o),
        because there may be many and each is as large as a train state. No other argument changes.
        Cost: one update, and one backward pass through it per cotangent.

        Returns:
            For each λ, the cotangent u at g, shaped like the parameters.
        """
        clipped = self._clipped(grads)
        through_clipping = self._clip_vjp(grads)
        directions = [_empty_like(params) for _ in cotangents]
        group_vjp = getattr(self.optimizer, "group_vjp", self._group_vjp)
        for index, group in enumerate(self.groups):
            group_vjp(
                (self._slices(group, params), state[index], self._slices(group, clipped)),
                [[part.of(c.params) for part in group] + c.optimizer[index] for c in cotangents],
                [[part.of(u) for part in group] for u in directions],
            )
        return [through_clipping(u) for u in directions]

    def zero_cotangent(self, params: Params, state: list[Any]) -> list[list[Tensor]]:
        """Zeros shaped like every floating-point leaf of the optimizer's state."""
        return [[torch.zeros_like(leaf) for leaf in _float_leaves(group)] for group in state]

    def state_tensors(self, state: list[Any]) -> Params:
        """The optimizer's state by name: :func:`~engine.replay.optimizer_stage.named_state`."""
        return named_state(self.groups, state)

    def state_from_tensors(self, tensors: Params, params: Params) -> list[Any]:
        """The inverse of :meth:`state_tensors` for parameters like ``params``."""
        return state_from_names(self.groups, tensors, self.init(params))

    def _make_first_update(self, params: Params) -> None:
        # torchopt's momentum discards its state in an optimizer's very first update. After this
        # update, the result depends on the arguments alone.
        zeros = {
            name: torch.zeros_like(part)
            for name, part in self._slices(self.groups[0], params).items()
        }
        with torch.no_grad():
            self._step(zeros, self.optimizer.init(zeros), zeros)

    def _step(self, params: Params, state: Any, grads: Params) -> tuple[Params, Any]:
        with _scalars_in_float64():
            updates, new_state = self.optimizer.update(grads, state, params=params, inplace=False)
        return torchopt.apply_updates(params, updates, inplace=False), new_state

    def _group_vjp(
        self,
        inputs: tuple[Params, Any, Params],
        cotangents: list[list[Tensor]],
        directions: list[list[Tensor]],
    ) -> None:
        """The VJP of one group: overwrite each cotangent, and fill in its direction u."""
        tree: Any = inputs
        leaves, structure = optree.tree_flatten(tree)
        fresh = [leaf.detach().requires_grad_() if _is_float(leaf) else leaf for leaf in leaves]
        inputs_again: Any = optree.tree_unflatten(structure, fresh)
        params, state, grads = inputs_again
        with torch.enable_grad():
            new_params, new_state = self._step(params, state, grads)
        outputs = [*new_params.values(), *_float_leaves(new_state)]
        sources = [*params.values(), *_float_leaves(state), *grads.values()]
        live = [i for i, output in enumerate(outputs) if output.requires_grad]
        for number, (cotangent, direction) in enumerate(
            zip(cotangents, directions, strict=True), start=1
        ):
            results = torch.autograd.grad(
                [outputs[i] for i in live],
                sources,
                [cotangent[i] for i in live],
                retain_graph=number < len(cotangents),
                allow_unused=True,
                materialize_grads=True,
            )
            for into, value in zip([*cotangent, *direction], results, strict=True):
                into.copy_(value)

    def _clipped(self, grads: Params) -> Params:
        scale = self._clip_scale(grads)
        if scale is None:
            return grads
        return {name: grad * scale for name, grad in grads.items()}

    def _clip_scale(self, grads: Params) -> Tensor | None:
        if self.max_grad_norm is None:
            return None
        return (self.max_grad_norm / (self.norm(grads) + CLIP_EPSILON)).clamp(max=1.0)

    def _clip_vjp(self, grads: Params) -> Callable[[Params], Params]:
        """û ↦ u: the VJP of clipping."""
        scale = self._clip_scale(grads)
        if scale is None or scale >= 1.0:
            return lambda u: u
        norm = self.norm(grads)
        coefficient = scale / (norm * (norm + CLIP_EPSILON))

        def vjp(u: Params) -> Params:
            own = torch.stack([(u[name] * grad).sum() for name, grad in grads.items()]).sum()
            inner = self.ranks.shard_group.sum(own)
            return {
                name: scale * u[name] - coefficient * inner * grad for name, grad in grads.items()
            }

        return vjp

    @staticmethod
    def _slices(group: list[ParameterSlice], tensors: Params) -> Params:
        return {part.key: part.of(tensors) for part in group}

    @staticmethod
    def _assemble(group: list[ParameterSlice], values: Any, into: Params) -> None:
        for part, value in zip(group, values, strict=True):
            part.of(into).copy_(value)


@contextlib.contextmanager
def _scalars_in_float64() -> Iterator[None]:
    # torchopt raises Adam's betas to an integer tensor. torch computes that in the default dtype,
    # and in float32 the error of 1 - β^t is up to 1e-4. Float64 scalars keep tensors in float32.
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _empty_like(params: Params) -> Params:
    # Always contiguous, so that flat slices are views.
    return {
        name: torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for name, tensor in params.items()
    }


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _float_leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in optree.tree_leaves(tree) if _is_float(leaf)]
