"""The optimizer as a differentiable function h: (θ, o, g) → (θ', o'), and its VJP.

Any torchopt chain serves. Its VJP runs through autograd with the update's own graph and no
model graph (arXiv 2504.16430, the optimizer part of one replayed step), unless the chain brings
a ``group_vjp`` of its own, as :mod:`engine.replay.adam` does. When the chain acts on
every element alone, as Adam(W) and SGD do, the parameters are cut into groups small enough to
stay in the processor's cache; otherwise there is one group of whole tensors.

Clipping by global norm is not elementwise, so it comes first, as a stage with its VJP in
closed form: ĝ = κ g with κ = min(1, c / (‖g‖ + 1e-6)), hence for κ < 1

    u = κ û - (κ / (‖g‖ (‖g‖ + 1e-6))) ⟨û, g⟩ g.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optree
import torch
import torchopt
from torch import Tensor
from torchopt.base import GradientTransformation

from engine.replay.pieces import Piece, cut_into_groups, named_state, state_from_names
from engine.replay.ranks import ALONE, Ranks
from engine.replay.state import Cotangent, Params

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
        ranks: Ranks = ALONE,
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
        own, ranks = global_norm(tensors), self.ranks.group
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
        """The optimizer's state by name: :func:`~engine.replay.pieces.named_state`."""
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
            inner = self.ranks.group.sum(own)
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
