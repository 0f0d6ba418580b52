"""The parameters and buffers of a module: where each tensor is stored, and digests of their values.

A tensor has several slots where parameters are tied, where a module is registered under two names,
or both. A loss is a function of the tensors, so a new value must be written to all slots of a name
at once. (``torch.func.functional_call`` replaces one name after the other, and misses a slot that
has two names.)
"""

import contextlib
import hashlib
import os
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """A model that cannot be trained exactly as it is, or a batch whose shapes do not fit it."""


@dataclass(frozen=True)
class TensorSlot:
    """One entry of a module's parameter or buffer table."""

    name: str
    """The canonical name of its tensor: the name of the tensor's first slot."""
    module: nn.Module
    attribute: str
    is_parameter: bool

    @property
    def table(self) -> dict[str, Any]:
        """The module's parameter or buffer table."""
        return self.module._parameters if self.is_parameter else self.module._buffers


class ModuleTensors:
    """The tensors of a module and the slots of each."""

    def __init__(self, module: nn.Module) -> None:
        """Collect the slots of ``module``.

        Raises:
            ModelError: if a trained parameter shares memory with another tensor, unless both are
                trained parameters with the same view of that memory.
        """
        self._kind = type(module).__name__
        parameters = dict(module.named_parameters())
        named = {**dict(module.named_buffers()), **parameters}
        names = {id(tensor): name for name, tensor in named.items()}
        self.trained = [name for name, p in parameters.items() if p.requires_grad]
        """The names of the trained parameters; a tied parameter appears once."""
        self._own = {name: weakref.ref(parameters[name]) for name in self.trained}
        names |= self._merge(named)
        self._slots: dict[str, list[TensorSlot]] = {}
        for part in module.modules():
            for is_parameter, table in ((True, part._parameters), (False, part._buffers)):
                for attribute, tensor in table.items():
                    if tensor is not None:
                        slot = TensorSlot(names[id(tensor)], part, attribute, is_parameter)
                        self._slots.setdefault(slot.name, []).append(slot)

    def __iter__(self) -> Iterator[TensorSlot]:
        """All slots, grouped by name."""
        return (slot for slots in self._slots.values() for slot in slots)

    def tensor(self, name: str) -> Tensor | None:
        """The current tensor of a name."""
        slots = self._slots.get(name)
        return slots[0].table.get(slots[0].attribute) if slots else None

    def parameter(self, name: str) -> Tensor:
        """The current parameter of a name."""
        parameter = self.tensor(name)
        assert parameter is not None
        return parameter

    @contextlib.contextmanager
    def replaced_by(self, tensors: Params) -> Iterator[None]:
        """Inside, every slot of each name in ``tensors`` holds that tensor.

        If the module replaces one of these buffers meanwhile, ``tensors`` holds the new one after.
        """
        slots = [slot for name in tensors for slot in self._slots.get(name, ())]
        own = [slot.table[slot.attribute] for slot in slots]
        try:
            for slot in slots:
                slot.table[slot.attribute] = tensors[slot.name]
            yield
        finally:
            for slot, tensor in zip(slots, own, strict=True):
                if not slot.is_parameter:
                    tensors[slot.name] = slot.table[slot.attribute]
                slot.table[slot.attribute] = tensor

    @contextlib.contextmanager
    def forbidding_own(self, given: Params) -> Iterator[None]:
        """Inside, operations on the module's own parameters raise.

        Used while the slots hold ``given``. Code that still reads one of the original
        parameters has a reference outside the slots (a list, a closure), which cannot be replaced.

        Raises:
            ModelError: at the first such operation.
        """
        known = {name: own() for name, own in self._own.items()}
        storages = {
            p.untyped_storage().data_ptr(): name for name, p in known.items() if p is not None
        }
        for storage in (0, *(tensor.untyped_storage().data_ptr() for tensor in given.values())):
            storages.pop(storage, None)
        with _ForbidStorages(self._kind, storages):
            yield

    def _merge(self, named: Params) -> dict[int, str]:
        """Id → name of parameters tied to an earlier one; they are removed from ``trained``."""
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
    """Pairs of tensors that share memory."""
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
    """Whether two tensors of one storage overlap."""
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
    """The index in its storage of a tensor's last element."""
    if tensor.numel() == 0:
        return -1
    steps = zip(tensor.size(), tensor.stride(), strict=True)
    return int(tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps))


class _ForbidStorages(TorchFunctionMode):
    """Refuses operations on tensors of some storages that return tensors."""

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
                        f"{self._kind} reads its parameter {name} through a reference other than "
                        "the module's attribute (such as a list or a variable), which training "
                        "cannot replace; use the module's attribute"
                    )
        return result

    def _name(self, tensor: Tensor) -> str | None:
        if tensor.layout != torch.strided:
            return None
        try:
            return self._storages.get(tensor.untyped_storage().data_ptr())
        except (NotImplementedError, RuntimeError):
            return None


_MOST_THREADS = 16
_LENGTH = 16
"""Hexadecimal digits kept of a tensor's SHA-256."""


def weight_digests(model: nn.Module, *, all_buffers: bool = False) -> dict[str, str]:
    """A digest by name of each parameter and persistent buffer, frozen ones included.

    SHA-256 of dtype, shape and bytes, in parallel threads: about 0.7 s per gigabyte and core.
    Non-persistent buffers are left out unless ``all_buffers``: transformers models compute them
    from their config, and processors may round them differently.
    """
    tensors = dict(_tensors(model, all_buffers))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        return dict(zip(tensors, threads.map(_digest, tensors.values()), strict=True))


def _tensors(model: nn.Module, all_buffers: bool) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            own = name.rpartition(".")[2]
            if all_buffers or own not in module._non_persistent_buffers_set:
                yield name, buffer


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {list(values.shape)} ".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_LENGTH]
