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
class Piece:
    """A contiguous part of one parameter; ``stop`` None means the whole tensor in its shape."""

    name: str
    start: int = 0
    stop: int | None = None

    def of(self, tensors: Params) -> Tensor:
        """This piece of the tensor of its name: a view."""
        tensor = tensors[self.name]
        return tensor if self.stop is None else tensor.reshape(-1)[self.start : self.stop]

    @property
    def key(self) -> str:
        """Its name among all pieces."""
        return f"{self.name}[{self.start}]"


def name_of_key(key: str) -> str:
    """The name of the parameter that a piece of this key is cut from."""
    return key.rpartition("[")[0]


def cut_into_groups(params: Params, group_elements: int) -> list[list[Piece]]:
    """Cut parameters, in order, into groups of ``group_elements``; the last may have fewer."""
    groups: list[list[Piece]] = [[]]
    room = group_elements
    for name, tensor in params.items():
        start, size = 0, tensor.numel()
        while start < size:
            if room == 0:
                groups.append([])
                room = group_elements
            stop = min(size, start + room)
            groups[-1].append(Piece(name, start, stop))
            room -= stop - start
            start = stop
    return groups


def named_state(groups: list[list[Piece]], state: list[Any]) -> Params:
    """An optimizer's state by name.

    What belongs to a parameter is one vector ``place/parameter`` of its elements in order; what
    all parameters have in common, as a count of updates, is one scalar ``place``.
    """
    parts: dict[str, list[Tensor]] = {}
    for group, group_state in zip(groups, state, strict=True):
        for leaf in _leaves(group, group_state):
            if leaf.piece is None:
                parts[leaf.name] = [leaf.tensor]
            else:
                parts.setdefault(leaf.name, []).append(leaf.tensor.reshape(-1))
    return {name: torch.cat(of) if len(of) > 1 else of[0] for name, of in parts.items()}


def state_from_names(groups: list[list[Piece]], tensors: Params, like: list[Any]) -> list[Any]:
    """The inverse of :func:`named_state`, for a state shaped like ``like``."""
    state = []
    for group, group_state in zip(groups, like, strict=True):
        leaves = []
        for leaf in _leaves(group, group_state):
            found = tensors[leaf.name]
            if leaf.piece is not None and leaf.piece.stop is not None:
                found = found[leaf.piece.start : leaf.piece.stop]
            leaves.append(found.view(leaf.tensor.shape))
        state.append(optree.tree_unflatten(optree.tree_structure(group_state), leaves))
    return state


@dataclass(frozen=True)
class _Leaf:
    """One tensor of a group's optimizer state; ``piece``: what it says something about, if one."""

    name: str
    tensor: Tensor
    piece: Piece | None


def _leaves(group: list[Piece], state: Any) -> Iterator[_Leaf]:
    """The leaves in optree's order; torchopt keeps those of parameters sorted by their names."""
    paths, leaves, _ = optree.tree_flatten_with_path(state)
    pieces = sorted(group, key=lambda piece: piece.key)
    siblings = Counter(path[:-1] for path in paths)
    met: Counter[tuple[Any, ...]] = Counter()
    for path, leaf in zip(paths, leaves, strict=True):
        tensor, place = torch.as_tensor(leaf), path[:-1]
        number = met[place]
        met[place] += 1
        by_parameter = siblings[place] == len(pieces)
        name = ".".join(map(str, place if by_parameter else path))
        if by_parameter and tensor.is_floating_point():
            piece = pieces[number]
            yield _Leaf(f"{name}/{piece.name}", tensor, piece)
        else:
            yield _Leaf(name, tensor, None)


GROUP_ELEMENTS = 2**19
"""Elements a group holds on a CPU: its temporaries stay in the second-level cache."""
GPU_GROUP_ELEMENTS = 2**24
"""On a GPU: many enough to keep it busy, and temporaries that are small beside a graph."""

CLIP_EPSILON = 1e-6


def global_norm(tensors: Params) -> Tensor:
    """The 2-norm of all tensors together, as ``torch.nn.utils.clip_grad_norm_`` takes it."""
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


class OptimizerStage:
    """h and its VJP for one torchopt optimizer over parameters of fixed names and shapes."""

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
            elementwise: the optimizer treats every element of every parameter alone, so that
                it may be applied group by group.
            max_grad_norm: clip the gradient by its global norm first.
            ranks: who holds the other shards, if ``params`` are shards.
        """
        self.optimizer = optimizer
        self.ranks = ranks
        self.max_grad_norm = max_grad_norm
        self.device = next(iter(params.values())).device
        on_cpu = all(tensor.device.type == "cpu" for tensor in params.values())
        self.groups = (
            cut_into_groups(params, GROUP_ELEMENTS if on_cpu else GPU_GROUP_ELEMENTS)
            if elementwise
            else [[Piece(name) for name in params]]
        )
        self._settle(params)

    def norm(self, tensors: Params) -> Tensor:
        """The 2-norm of all tensors together, with those of all ranks that hold a shard."""
        own, ranks = global_norm(tensors), self.ranks.shard_group
        return own if ranks.count == 1 else ranks.sum(own * own).sqrt()

    def init(self, params: Params) -> list[Any]:
        """The optimizer's state before the first update."""
        detached = {name: tensor.detach() for name, tensor in params.items()}
        return [self.optimizer.init(self._pieces(group, detached)) for group in self.groups]

    @torch.no_grad()
    def update(self, params: Params, state: list[Any], grads: Params) -> tuple[Params, list[Any]]:
        """(θ', o') = h(θ, o, g)."""
        grads = self._clipped(grads)
        new_params = _empty_like(params)
        new_state = []
        for group, group_state in zip(self.groups, state, strict=True):
            stepped, stepped_state = self._step(
                self._pieces(group, params), group_state, self._pieces(group, grads)
            )
            self._assemble(group, stepped.values(), new_params)
            new_state.append(stepped_state)
        return new_params, new_state

    def vjp(
        self, params: Params, state: list[Any], grads: Params, cotangents: Sequence[Cotangent]
    ) -> list[Params]:
        """Carry cotangents λ at (θ', o') back through the update; returns u at g for each.

        The cotangents are overwritten by (a_θ, a_o) at (θ, o): there may be many, and each is
        as large as a train state. Cost: one update, and one backward through it per cotangent.
        """
        clipped = self._clipped(grads)
        through_clipping = self._clip_vjp(grads)
        directions = [_empty_like(params) for _ in cotangents]
        group_vjp = getattr(self.optimizer, "group_vjp", self._group_vjp)
        for index, group in enumerate(self.groups):
            group_vjp(
                (self._pieces(group, params), state[index], self._pieces(group, clipped)),
                [[piece.of(c.params) for piece in group] + c.optimizer[index] for c in cotangents],
                [[piece.of(u) for piece in group] for u in directions],
            )
        return [through_clipping(u) for u in directions]

    def zero_cotangent(self, params: Params, state: list[Any]) -> list[list[Tensor]]:
        """Zeros for every floating-point leaf of the optimizer's state."""
        return [[torch.zeros_like(leaf) for leaf in _float_leaves(group)] for group in state]

    def state_tensors(self, state: list[Any]) -> Params:
        """The optimizer's state by name: :func:`~engine.replay.optimizer_stage.named_state`."""
        return named_state(self.groups, state)

    def state_from_tensors(self, tensors: Params, params: Params) -> list[Any]:
        """The inverse of :meth:`state_tensors` for parameters like ``params``."""
        return state_from_names(self.groups, tensors, self.init(params))

    def _settle(self, params: Params) -> None:
        # torchopt's momentum drops its state in the first update that an optimizer ever makes;
        # after this one an update depends on its arguments alone.
        zeros = {
            name: torch.zeros_like(piece)
            for name, piece in self._pieces(self.groups[0], params).items()
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
        """Overwrite each cotangent of a group's outputs, and fill in its direction u."""
        tree: Any = inputs
        leaves, structure = optree.tree_flatten(tree)
        fresh = [leaf.detach().requires_grad_() if _is_float(leaf) else leaf for leaf in leaves]
        again: Any = optree.tree_unflatten(structure, fresh)
        params, state, grads = again
        with torch.enable_grad():
            new_params, new_state = self._step(params, state, grads)
        outputs = [*new_params.values(), *_float_leaves(new_state)]
        sources = [*params.values(), *_float_leaves(state), *grads.values()]
        live = [i for i, output in enumerate(outputs) if output.requires_grad]
        for number, (cotangent, direction) in enumerate(
            zip(cotangents, directions, strict=True), start=1
        ):
            pulled = torch.autograd.grad(
                [outputs[i] for i in live],
                sources,
                [cotangent[i] for i in live],
                retain_graph=number < len(cotangents),
                allow_unused=True,
                materialize_grads=True,
            )
            for into, value in zip([*cotangent, *direction], pulled, strict=True):
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
        """û ↦ u: how a cotangent at the clipped gradient goes back to the gradient."""
        scale = self._clip_scale(grads)
        if scale is None or scale >= 1.0:
            return lambda u: u
        norm = self.norm(grads)
        pull = scale / (norm * (norm + CLIP_EPSILON))

        def back(u: Params) -> Params:
            own = torch.stack([(u[name] * grad).sum() for name, grad in grads.items()]).sum()
            inner = self.ranks.shard_group.sum(own)
            return {name: scale * u[name] - pull * inner * grad for name, grad in grads.items()}

        return back

    @staticmethod
    def _pieces(group: list[Piece], tensors: Params) -> Params:
        return {piece.key: piece.of(tensors) for piece in group}

    @staticmethod
    def _assemble(group: list[Piece], parts: Any, into: Params) -> None:
        for piece, part in zip(group, parts, strict=True):
            piece.of(into).copy_(part)


@contextlib.contextmanager
def _scalars_in_float64() -> Iterator[None]:
    # torchopt raises Adam's betas to an integer tensor, which torch does in the default dtype:
    # in float32, 1 - β^t is off by up to 1e-4. A float64 scalar leaves float32 tensors float32.
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _empty_like(params: Params) -> Params:
    # Contiguous whatever the parameters are, so that flat pieces of it are views.
    return {
        name: torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for name, tensor in params.items()
    }


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _float_leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in optree.tree_leaves(tree) if _is_float(leaf)]
