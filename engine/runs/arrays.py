"""Zarr arrays with checksummed chunks and a fill value that marks missing entries."""

import functools
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.runs.atomic import write_atomically
from engine.runs.checksummed import DIGEST, ChangedError, digest_of
from engine.runs.errors import RunError
from engine.runs.safe_open import check_regular, read_file

CHUNK_BYTES = 2**22
_METADATA = "zarr.json"


def create_array(
    store: Path, name: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...]
) -> Any:
    """A new Zarr v3 array ``name`` in the group at ``store``, zstd-compressed with crc32c.

    The fill value is NaN for floating-point arrays and the value farthest from 0 for integer
    ones, so that a chunk that was never written differs from zeros.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    kind = np.dtype(dtype)
    if kind.kind == "f":
        fill: Any = np.nan
    else:
        fill = np.iinfo(kind).max if kind.kind == "u" else np.iinfo(kind).min
    group = zarr.open_group(store, mode="a", zarr_format=3)
    array = group.create_array(
        name,
        shape=shape,
        dtype=kind,
        chunks=tuple(max(1, min(c, s or 1)) for c, s in zip(chunks, shape, strict=True)),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=fill,
        config={"write_empty_chunks": True},
    )
    _seal(store / name / _METADATA)
    return array


def rows_per_chunk(row_bytes: int) -> int:
    """The number of rows of ``row_bytes`` bytes in a chunk of about 4 MiB."""
    return max(1, CHUNK_BYTES // max(1, row_bytes))


def open_array(store: Path, name: str, mode: Literal["r", "r+"] = "r") -> Any:
    """Open an existing array for reading, or for reading and writing.

    Raises:
        RunError: if it is missing or its metadata cannot be read.
    """
    import zarr

    try:
        _check_seal(store / name / _METADATA)
        where = _regular_store()(store, read_only=mode == "r")
        return zarr.open_array(where, path=name, mode=mode, zarr_format=3)
    except Exception as error:
        raise RunError(
            f"{store / name} is missing or damaged ({type(error).__name__}); "
            "restore it from a backup, or run the config again"
        ) from None


@functools.cache
def _regular_store() -> Any:
    """Zarr's folder store, limited to regular files: reading a pipe would block."""
    from zarr.storage import LocalStore

    class RegularStore(LocalStore):
        async def get(self, key: str, *arguments: Any, **more: Any) -> Any:
            check_regular(self.root / key)
            return await super().get(key, *arguments, **more)

    return RegularStore


def _seal(file: Path) -> None:
    """Store the digest of an array's metadata in its attributes.

    The checksums of chunks do not cover the shape and the chunk size.
    """
    metadata = json.loads(read_file(file))
    attributes = {**metadata.get("attributes", {}), DIGEST: digest_of(metadata)}
    content = json.dumps({**metadata, "attributes": attributes}, indent=2)
    write_atomically(file, content.encode())


def _check_seal(file: Path) -> None:
    metadata = json.loads(read_file(file))
    promised = metadata.get("attributes", {}).pop(DIGEST, None)
    if promised is not None and promised != digest_of(metadata):
        raise ChangedError(f"{file} was changed after it was written")


def read(array: Any, selection: Any, store: Path) -> np.ndarray[Any, Any]:
    """Read part of an array; damaged and missing chunks are errors.

    Raises:
        RunError: naming the array and the store.
    """
    place = f"{store / array.path.split('/')[-1]}" if array.path else str(store)
    try:
        values = np.asarray(array[selection])
    except (IndexError, KeyError):
        raise
    except Exception as error:
        raise RunError(
            f"{place} is damaged ({type(error).__name__}: {error}); "
            "restore it from a backup, or run the config again"
        ) from None
    missing = np.isnan(values) if values.dtype.kind == "f" else values == array.fill_value
    if missing.any():
        raise RunError(
            f"{place} lacks values that are recorded as complete; "
            "restore it from a backup, or run the config again"
        )
    return values
