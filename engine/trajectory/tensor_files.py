"""Safetensors files with a crc32c: durable once written, verified on every read.

Reading decodes the file and computes its checksum in one pass, straight into the tensors' memory.
It runs in a thread beside the computation, so it holds the interpreter lock only briefly and uses
no library that starts threads. Every tensor gets its own memory, aligned as torch aligns it. No
number in a file's header is used before it is checked against the file's size.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import torch
from safetensors.torch import save as encode
from torch import Tensor

from engine.runs.atomic import write_atomically
from engine.runs.errors import RunError

CHUNK_BYTES = 2**22
"""Bytes read and checksummed at a time, so that they stay in the processor's cache."""
_DTYPES = {
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
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class DamagedFileError(RunError):
    """A file is missing, or its content differs from what was written."""


class _FormatError(ValueError):
    """The bytes are not a safetensors file of the recorded size."""


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write tensors durably.

    Returns:
        The record that :func:`read_tensors` verifies: ``file``, ``bytes`` and ``crc32c`` (hex).
    """
    data = encode({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_atomically(path, data)
    return {"file": path.name, "bytes": len(data), "crc32c": f"{google_crc32c.value(data):08x}"}


def read_tensors(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """Read a file that :func:`write_tensors` wrote into host memory.

    Args:
        folder: the file's folder.
        record: what :func:`write_tensors` returned.

    Raises:
        DamagedFileError: if the file is missing or its content differs from the record.
    """
    path = folder / record["file"]
    try:
        with path.open("rb", buffering=0) as file:
            tensors, crc = _decode(file, record["bytes"])
    except OSError as error:
        raise DamagedFileError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except _FormatError:
        tensors, crc = {}, None
    if crc is None or f"{crc:08x}" != record["crc32c"]:
        raise DamagedFileError(
            f"{path} is damaged: its content is not what was written; restore it from a backup, "
            "or run the config again"
        )
    return tensors


def encoded_bytes(tensors: dict[str, Tensor]) -> int:
    """The size in bytes of the file that :func:`write_tensors` would write."""
    header, stop = {}, 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + stop


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that killed writers left in ``folder``."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def copy_dense(tensor: Tensor) -> Tensor:
    """Copy a dense tensor in host memory on the calling thread, without torch's thread pool."""
    copy = torch.empty_like(tensor)
    copy.reshape(-1).view(torch.uint8).numpy()[:] = tensor.reshape(-1).view(torch.uint8).numpy()
    return copy


@dataclass(frozen=True)
class _Entry:
    """One tensor of a file's header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def _decode(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], int]:
    """Decode an unbuffered file of ``size`` bytes.

    Returns:
        Its tensors, and the crc32c of the whole file, which the caller compares.

    Raises:
        _FormatError: if it is not a safetensors file of that size.
    """
    length = file.read(8)
    header = file.read(min(int.from_bytes(length, "little"), size))
    crc = google_crc32c.extend(google_crc32c.value(length), header)
    entries = _entries(header, size - len(length) - len(header))
    tensors = {}
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        crc = _fill(tensor, file, crc)
        tensors[entry.name] = tensor
    if file.read(1):
        raise _FormatError
    return tensors, crc


def _entries(header: bytes, size: int) -> list[_Entry]:
    """The header's tensors in the order of their bytes, which must fill ``size`` exactly."""
    try:
        declared = json.loads(header)
        entries = [
            _Entry(name, _DTYPES[of["dtype"]], tuple(of["shape"]), *of["data_offsets"])
            for name, of in declared.items()
        ]
        entries.sort(key=lambda entry: (entry.start, entry.stop))
        end = 0
        for entry in entries:
            needed = math.prod(entry.shape) * entry.dtype.itemsize
            if entry.start != end or entry.stop - end != needed or min(entry.shape, default=0) < 0:
                raise _FormatError
            end = entry.stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _FormatError from None
    if end != size:
        raise _FormatError
    return entries


def _fill(tensor: Tensor, file: BinaryIO, crc: int) -> int:
    """Read a tensor's bytes into it; returns the checksum extended by them."""
    memory = tensor.reshape(-1).view(torch.uint8).numpy()
    start = 0
    while start < len(memory):
        part = memory[start : start + CHUNK_BYTES]
        count = file.readinto(part)  # type: ignore[attr-defined]
        if not count:
            raise _FormatError
        crc = google_crc32c.extend(crc, part[:count])
        start += count
    return crc
