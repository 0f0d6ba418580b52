"""Copies between the device and host memory that go on beside the computing.

On CUDA they run on a stream of their own, through pinned host memory; the host waits for
nothing but the end of a copy to the host. On a CPU the device's memory is the host's, and nothing
is copied.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.replay.state import Params
from engine.trajectory.decoding import copied


@dataclass(frozen=True)
class Arriving:
    """Tensors on their way to a device."""

    tensors: Params
    device: torch.device
    arrived: torch.cuda.Event | None

    def taken(self) -> Params:
        """The tensors; what is computed from now on waits on the device until they are there."""
        if self.arrived is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(self.arrived)
            for tensor in self.tensors.values():
                # Their memory is the copying stream's: not to be used again before the computing
                # is done with it.
                tensor.record_stream(now)
        return dict(self.tensors)


class DeviceCopies:
    """Copies to or from a device, in the order they are asked for."""

    def __init__(self, device: torch.device) -> None:
        """To or from ``device``."""
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, tensors: Params) -> Arriving:
        """Start to copy pinned tensors to the device."""
        if self._stream is None:
            return Arriving(tensors, self._device, None)
        with torch.cuda.stream(self._stream):
            moved = {n: t.to(self._device, non_blocking=True) for n, t in tensors.items()}
            return Arriving(moved, self._device, self._stream.record_event())

    def pinned(self, tensors: Params) -> Params:
        """The same in host memory that the device can copy from by itself."""
        if self._stream is None:
            return tensors
        with torch.cuda.stream(self._stream):
            return {name: tensor.pin_memory() for name, tensor in tensors.items()}

    def computed(self) -> torch.cuda.Event | None:
        """A mark behind everything computed so far."""
        if self._stream is None:
            return None
        mark: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        return mark

    def to_host(self, tensors: Params, computed: torch.cuda.Event | None) -> Params:
        """Dense tensors in host memory (pinned), once the device has come to ``computed``.

        Only the calling thread waits. The tensors must not be changed in place meanwhile.
        """
        if self._stream is None:
            return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        with torch.cuda.stream(self._stream):
            if computed is not None:
                self._stream.wait_event(computed)
            moved = {name: _to_pinned(tensor.detach()) for name, tensor in tensors.items()}
        self._stream.synchronize()
        return moved

    def own(self, tensors: Params) -> Params:
        """What :meth:`to_host` gave as nobody else has it."""
        if self._stream is not None:
            return tensors
        return {name: copied(tensor) for name, tensor in tensors.items()}


def _to_pinned(tensor: Tensor) -> Tensor:
    into = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return into.copy_(tensor, non_blocking=True)
