"""Copies between a device and host memory that overlap with computation.

On CUDA they run on a separate stream through pinned host memory; the host blocks only until a copy
to the host has finished. On a CPU, device memory is host memory and nothing is copied.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.replay.state import Params
from engine.trajectory.tensor_files import copy_dense


@dataclass(frozen=True)
class DeviceCopy:
    """Tensors that are being copied to a device."""

    tensors: Params
    device: torch.device
    done: torch.cuda.Event | None

    def result(self) -> Params:
        """The tensors. Kernels launched from now on wait on the device for the copy."""
        if self.done is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(self.done)
            for tensor in self.tensors.values():
                # The memory belongs to the copying stream, which must not reuse it before the
                # computation has finished with it.
                tensor.record_stream(now)
        return dict(self.tensors)


class DeviceCopies:
    """Copies to or from one device, in the order of the calls."""

    def __init__(self, device: torch.device) -> None:
        """Copy to or from ``device``."""
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def to_device(self, tensors: Params) -> DeviceCopy:
        """Start to copy pinned tensors to the device."""
        if self._stream is None:
            return DeviceCopy(tensors, self._device, None)
        with torch.cuda.stream(self._stream):
            moved = {n: t.to(self._device, non_blocking=True) for n, t in tensors.items()}
            return DeviceCopy(moved, self._device, self._stream.record_event())

    def pin(self, tensors: Params) -> Params:
        """Copy tensors to pinned host memory, from which the device copies asynchronously."""
        if self._stream is None:
            return tensors
        with torch.cuda.stream(self._stream):
            return {name: tensor.pin_memory() for name, tensor in tensors.items()}

    def record_event(self) -> torch.cuda.Event | None:
        """An event behind everything launched so far; None on a CPU."""
        if self._stream is None:
            return None
        event: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        return event

    def to_host(self, tensors: Params, computed: torch.cuda.Event | None) -> Params:
        """Copy tensors to dense (pinned) host memory after the event ``computed``.

        Blocks only the calling thread. Do not change the tensors in place until it returns.
        """
        if self._stream is None:
            return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        with torch.cuda.stream(self._stream):
            if computed is not None:
                self._stream.wait_event(computed)
            moved = {name: _to_pinned(tensor.detach()) for name, tensor in tensors.items()}
        self._stream.synchronize()
        return moved

    def unshared(self, tensors: Params) -> Params:
        """The result of :meth:`to_host` without memory shared with the caller's tensors."""
        if self._stream is not None:
            return tensors
        return {name: copy_dense(tensor) for name, tensor in tensors.items()}


def _to_pinned(tensor: Tensor) -> Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
