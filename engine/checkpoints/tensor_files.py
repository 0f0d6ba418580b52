"""Tensors in files that are durable once written and checked whenever they are read."""

import json
import os
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from engine.contract.errors import RunError
from engine.records.atomic import write_atomically


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
        # Of a type's name only the length matters here.
        header[name] = {
            "dtype": "BF16" if tensor.dtype == torch.bfloat16 else f"F{8 * tensor.element_size()}",
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + stop


def read_tensors(
    folder: Path, facts: dict[str, Any], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors of a file that :func:`write_tensors` wrote.

    Raises:
        DamagedFileError: if it is missing or damaged.
    """
    path = folder / facts["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedFileError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    if len(data) != facts["bytes"] or f"{google_crc32c.value(data):08x}" != facts["crc32c"]:
        raise DamagedFileError(
            f"{path} is damaged: its content is not what was written; restore it from a backup, "
            "or run the config again"
        )
    return {name: tensor.to(device) for name, tensor in decode(data).items()}


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
