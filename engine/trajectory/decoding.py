"""Reading a safetensors file and its checksum in one go, straight into the tensors' memory.

Made for a thread that reads while another computes: nothing here keeps the interpreter for long,
and no library starts threads of its own for it. Every tensor gets memory of its own, aligned as
torch aligns it. Nothing that the file says is believed before it is seen to fit the file's size.
"""

import json
import math
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import torch
from torch import Tensor

CHUNK = 2**22
"""Bytes read and checked at a time: they stay in the processor's cache in between."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class NotDecodedError(ValueError):
    """A file is no safetensors file of the size it should have."""


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def decode_file(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of an unbuffered file of ``size`` bytes, and the crc32c of all of them.

    Raises:
        NotDecodedError: if it is not such a file; if it is, the checksum may still be wrong.
    """
    length = file.read(8)
    header = file.read(min(int.from_bytes(length, "little"), size))
    crc = google_crc32c.extend(google_crc32c.value(length), header)
    entries = _entries(header, size - len(length) - len(header))
    found = {}
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        crc = _fill(tensor, file, crc)
        found[entry.name] = tensor
    if file.read(1):
        raise NotDecodedError
    return found, crc


def _entries(header: bytes, size: int) -> list[_Entry]:
    """The tensors in the order of their bytes, which are ``size`` in all."""
    try:
        said = json.loads(header)
        entries = [
            _Entry(name, DTYPES[of["dtype"]], tuple(of["shape"]), *of["data_offsets"])
            for name, of in said.items()
        ]
        entries.sort(key=lambda entry: (entry.start, entry.stop))
        end = 0
        for entry in entries:
            taken = math.prod(entry.shape) * entry.dtype.itemsize
            if entry.start != end or entry.stop - end != taken or min(entry.shape, default=0) < 0:
                raise NotDecodedError
            end = entry.stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NotDecodedError from None
    if end != size:
        raise NotDecodedError
    return entries


def _fill(tensor: Tensor, file: BinaryIO, crc: int) -> int:
    """Read a tensor's bytes; returns the checksum continued."""
    memory = tensor.reshape(-1).view(torch.uint8).numpy()
    place = 0
    while place < len(memory):
        part = memory[place : place + CHUNK]
        count = file.readinto(part)  # type: ignore[attr-defined]
        if not count:
            raise NotDecodedError
        crc = google_crc32c.extend(crc, part[:count])
        place += count
    return crc


def copied(tensor: Tensor) -> Tensor:
    """A copy of a dense tensor in host memory, made by this thread alone."""
    into = torch.empty_like(tensor)
    into.reshape(-1).view(torch.uint8).numpy()[:] = tensor.reshape(-1).view(torch.uint8).numpy()
    return into
