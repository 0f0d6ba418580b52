"""Parameters cut into pieces, groups of them for the optimizer, and its state by name.

An optimizer that treats every element alone may be applied group by group. What it remembers is
then cut in the same way; by name it is the same however the parameters are cut.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optree
import torch
from torch import Tensor

from engine.replay.state import Params


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
