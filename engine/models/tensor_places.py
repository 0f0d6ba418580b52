"""The places of a module's parameters and buffers: each tensor has one name, and all its places.

A tensor stands in several places where parameters are tied, where a module is part of two others,
or where both are the case. A loss is a function of the tensors, so a new value has to be put in
all places of a name at once. (``torch.func.functional_call`` exchanges names one after the other,
and loses a place that has two of them.)
"""

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from engine.replay.state import Params
from engine.runs.errors import UsageError


class ModelError(UsageError, TypeError, ValueError):
    """A model that cannot be trained exactly as it is, or a batch that does not fit it."""


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: an entry of a module's own tables."""

    name: str
    """The tensor's one name, that of its first place."""
    module: nn.Module
    attribute: str
    is_parameter: bool

    @property
    def table(self) -> dict[str, Any]:
        """The module's parameters or buffers."""
        return self.module._parameters if self.is_parameter else self.module._buffers


class Places:
    """All places of a module's tensors."""

    def __init__(self, module: nn.Module) -> None:
        """Find them.

        Raises:
            ModelError: if a trained parameter shares memory with another tensor that is no
                parameter of the same values.
        """
        self._kind = type(module).__name__
        parameters = dict(module.named_parameters())
        named = {**dict(module.named_buffers()), **parameters}
        names = {id(tensor): name for name, tensor in named.items()}
        self.trained = [name for name, p in parameters.items() if p.requires_grad]
        """The names of the parameters that are trained."""
        self._own = {name: weakref.ref(parameters[name]) for name in self.trained}
        names |= self._merge(named)
        self._of: dict[str, list[Place]] = {}
        for part in module.modules():
            for is_parameter, table in ((True, part._parameters), (False, part._buffers)):
                for attribute, tensor in table.items():
                    if tensor is not None:
                        place = Place(names[id(tensor)], part, attribute, is_parameter)
                        self._of.setdefault(place.name, []).append(place)

    def __iter__(self) -> Iterator[Place]:
        """All of them, name by name."""
        return (place for places in self._of.values() for place in places)

    def tensor(self, name: str) -> Tensor | None:
        """What stands there now."""
        places = self._of.get(name)
        return places[0].table.get(places[0].attribute) if places else None

    def parameter(self, name: str) -> Tensor:
        """The parameter that stands there now."""
        found = self.tensor(name)
        assert found is not None
        return found

    @contextlib.contextmanager
    def holding(self, tensors: Params) -> Iterator[None]:
        """Inside, ``tensors`` stand in all places of their names.

        A module may put others in place of its buffers; those stand in ``tensors`` afterwards.
        """
        chosen = [place for name in tensors for place in self._of.get(name, ())]
        own = [place.table[place.attribute] for place in chosen]
        try:
            for place in chosen:
                place.table[place.attribute] = tensors[place.name]
            yield
        finally:
            for place, tensor in zip(chosen, own, strict=True):
                if not place.is_parameter:
                    tensors[place.name] = place.table[place.attribute]
                place.table[place.attribute] = tensor

    @contextlib.contextmanager
    def without_others(self, given: Params) -> Iterator[None]:
        """Inside, operations on the module's own parameters are refused.

        To be used where those ``given`` stand in their places: code that still comes to the
        module's own has them from elsewhere (a list, a closure), where they cannot be exchanged.

        Raises:
            ModelError: if there is such an operation.
        """
        known = {name: own() for name, own in self._own.items()}
        storages = {
            p.untyped_storage().data_ptr(): name for name, p in known.items() if p is not None
        }
        for storage in (0, *(tensor.untyped_storage().data_ptr() for tensor in given.values())):
            storages.pop(storage, None)
        with _Watching(self._kind, storages):
            yield

    def _merge(self, named: Params) -> dict[int, str]:
        """Names of parameters that are one with an earlier one; of ``trained`` only that stays."""
        merged: dict[int, str] = {}
        for first, second in _sharing(named):
            if first not in self._own and second not in self._own:
                continue
            one, other = named[first], named[second]
            if not {first, second} <= set(self._own) or _view_of(one) != _view_of(other):
                raise ModelError(
                    f"{self._kind}: {first} and {second} share memory but are two tensors, which "
                    "training would move apart; make them one Parameter, or give each its own "
                    "memory"
                )
            merged[id(other)] = merged.get(id(one), first)
            if second in self.trained:
                self.trained.remove(second)
        return merged


def _sharing(named: Params) -> Iterable[tuple[str, str]]:
    """Pairs of tensors that have memory in common."""
    by_storage: dict[int, list[str]] = {}
    for name, tensor in named.items():
        if tensor.layout == torch.strided and tensor.device.type != "meta":
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    by_storage.pop(0, None)
    for names in by_storage.values():
        for first, second in combinations(names, 2):
            if _overlap(named[first], named[second]):
                yield first, second


def _view_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.size(), tensor.stride(), tensor.storage_offset()


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage have bytes in common."""
    if one.dtype != other.dtype:
        return True
    used = [_last(tensor) for tensor in (one, other)]
    if one.storage_offset() > used[1] or other.storage_offset() > used[0]:
        return False
    mark = torch.zeros(max(used) + 1, dtype=torch.bool)
    mark.as_strided(one.size(), one.stride(), one.storage_offset()).fill_(True)
    theirs = mark.as_strided(other.size(), other.stride(), other.storage_offset())
    return bool(theirs.any())


def _last(tensor: Tensor) -> int:
    """The last element of its storage that a tensor has."""
    if tensor.numel() == 0:
        return -1
    steps = zip(tensor.size(), tensor.stride(), strict=True)
    return int(tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps))


class _Watching(TorchFunctionMode):
    """Refuses operations that give tensors of any of some storages."""

    def __init__(self, kind: str, storages: dict[int, str]) -> None:
        super().__init__()
        self._kind, self._storages = kind, storages

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_leaves(result)):
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, Tensor) and (name := self._name(value)):
                    raise ModelError(
                        f"{self._kind} uses its parameter {name} from elsewhere than its place in "
                        "the module (a list or a variable that keeps it, say), where training "
                        "cannot exchange it; use the module's attribute"
                    )
        return result

    def _name(self, tensor: Tensor) -> str | None:
        if tensor.layout != torch.strided:
            return None
        try:
            return self._storages.get(tensor.untyped_storage().data_ptr())
        except (NotImplementedError, RuntimeError):
            return None
