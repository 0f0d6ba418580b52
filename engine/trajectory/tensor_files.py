"""Tensors in files that are durable once written and checked whenever they are read."""

import json
import os
from pathlib import Path
from typing import Any

import google_crc32c
from safetensors.torch import save as encode
from torch import Tensor

from engine.runs.atomic import write_atomically
from engine.runs.errors import RunError
from engine.trajectory.decoding import DTYPES, NotDecodedError, decode_file

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class DamagedFileError(RunError):
    """A file is missing, or its content is not what was written."""


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write tensors durably; returns the facts to check them by: file, bytes and crc32c."""
    data = encode({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_atomically(path, data)
    return {"file": path.name, "bytes": len(data), "crc32c": f"{google_crc32c.value(data):08x}"}


def encoded_bytes(tensors: dict[str, Tensor]) -> int:
    """The size of the file that :func:`write_tensors` would write."""
    header, stop = {}, 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + stop


def read_tensors(folder: Path, facts: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file that :func:`write_tensors` wrote, in host memory.

    Raises:
        DamagedFileError: if it is missing or damaged.
    """
    path = folder / facts["file"]
    try:
        with path.open("rb", buffering=0) as file:
            found, crc = decode_file(file, facts["bytes"])
    except OSError as error:
        raise DamagedFileError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except NotDecodedError:
        found, crc = {}, None
    if crc is None or f"{crc:08x}" != facts["crc32c"]:
        raise DamagedFileError(
            f"{path} is damaged: its content is not what was written; restore it from a backup, "
            "or run the config again"
        )
    return found


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
