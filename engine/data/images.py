"""Labelled images: MNIST idx files, CIFAR-10 binary files, or a data set with an image column.

A folder contains the files as published, gzipped or not: ``train-images-idx3-ubyte`` and
``t10k-images-idx3-ubyte`` with their labels, or ``data_batch_1.bin`` … and ``test_batch.bin``.
They form the splits ``train`` and ``test``. Images are (examples, channels, height, width).
"""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.data.examples import Examples
from engine.data.files import READ_ERRORS
from engine.data.splits import Split, listed, open_splits, select
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")
_IDX = re.compile(r"(train|t10k|test).images.idx3-ubyte(\.gz)?")
_CIFAR = re.compile(r"(data|test)_batch(?:_(\d+))?\.bin(\.gz)?")
_CIFAR_SHAPE = (3, 32, 32)
Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_images(source: SourceConfig, where: str) -> Examples:
    """The labelled images of a source.

    Args:
        source: what to read.
        where: the config key of the source, such as ``data`` or ``queries.contrast``.

    Raises:
        UsageError: if there is no such data set or split, or it has no labelled images.
    """
    table, source_rows = select(_splits(source, where), source.split, where)
    image, label = (_column(table, names, where) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    images, labels = _as_images(table[image], image, where), _as_labels(table[label], label, where)
    others = table.drop_columns([image, label]).to_pydict()
    return Examples(
        {"image": images, "label": labels},
        [
            f"an image, label {number}, row {row}"
            for number, row in zip(labels, source_rows, strict=True)
        ],
        source_rows,
        {"label": labels.tolist(), **others},
    )


def _splits(source: SourceConfig, where: str) -> dict[str, Split]:
    path = Path(source.path).expanduser()
    files = sorted(path.iterdir(), key=_in_order) if path.is_dir() else [path]
    try:
        splits = {
            **_of_files(files, _IDX, lambda match: match[1] == "train", _read_idx),
            **_of_files(files, _CIFAR, lambda match: match[1] == "data", _read_cifar),
        }
    except READ_ERRORS as error:
        raise UsageError(
            f"{where}.path: the images of {source.path!r} cannot be read: {error}; fetch them again"
        ) from None
    if not path.is_dir() and splits:
        # A single file is the training split, whatever its name.
        return {"train": next(iter(splits.values()))}
    return splits or open_splits(source, where)


def _in_order(path: Path) -> tuple[int, str]:
    number = re.search(r"_(\d+)\.bin", path.name)
    return int(number[1]) if number else 0, path.name


def _of_files(
    files: list[Path],
    names: re.Pattern[str],
    is_training: Callable[[re.Match[str]], bool],
    read: Callable[[Path], Labelled],
) -> dict[str, Split]:
    """The splits of the files whose names match."""
    parts: dict[str, list[Labelled]] = {}
    for file in files:
        match = names.fullmatch(file.name)
        if match is not None and file.is_file():
            parts.setdefault("train" if is_training(match) else "test", []).append(read(file))
    return {name: _split(part) for name, part in parts.items()}


def _split(parts: list[Labelled]) -> Split:
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])

    def read(start: int, stop: int) -> pa.Table:
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images[start:stop])
        return pa.table({"image": tensors, "label": pa.array(labels[start:stop])})

    return Split(np.arange(len(labels), dtype=np.int64), read)


def _read_idx(path: Path) -> Labelled:
    label_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    images, labels = _idx(path, 3), _idx(label_path, 1)
    if len(images) != len(labels):
        raise ValueError(f"{label_path.name} has {len(labels)} labels of {len(images)} images")
    return images[:, None], labels.astype(np.int64)


def _idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """The byte array of an idx file: a magic number, the sizes, the values."""
    content = _bytes_of(path)
    start = 4 + 4 * dims
    if len(content) < start or content[:4] != bytes([0, 0, 8, dims]):
        raise ValueError(f"{path.name} is not an idx file of bytes in {dims} dims")
    shape = struct.unpack(f">{dims}I", content[4:start])
    if len(content) != start + int(np.prod(shape)):
        raise ValueError(f"{path.name} does not contain the {shape} values of its header")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_cifar(path: Path) -> Labelled:
    content = np.frombuffer(_bytes_of(path), np.uint8)
    size = 1 + int(np.prod(_CIFAR_SHAPE))
    if len(content) == 0 or len(content) % size:
        raise ValueError(f"{path.name} does not consist of whole rows of {size} bytes")
    rows = content.reshape(-1, size)
    return rows[:, 1:].reshape(-1, *_CIFAR_SHAPE), rows[:, 0].astype(np.int64)


def _bytes_of(path: Path) -> bytes:
    if path.name.endswith(".gz"):
        with gzip.open(path) as file:
            return file.read()
    return path.read_bytes()


def _column(table: pa.Table, names: tuple[str, ...], where: str) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise UsageError(
        f"{where}.path: no column {names[0]!r}; the columns are {listed(table.column_names)}: give "
        "images with labels"
    )


def _as_images(column: pa.ChunkedArray, name: str, where: str) -> NDArray[Any]:
    """(examples, channels, height, width) from tensors, or from nested lists."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.FixedShapeTensorArray):
        images: NDArray[Any] = whole.to_numpy_ndarray()
    else:
        try:
            images = np.array(getattr(whole, "storage", whole).to_pylist())
        except ValueError:
            images = np.array(None)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.dtype.kind not in "iuf":
        raise UsageError(
            f"{where}.path: column {name!r} does not contain images of one size as "
            "arrays of numbers; store them decoded, as (channels, height, width) or (height, width)"
        )
    return images.astype(np.int16) if images.dtype.kind in "iu" else images


def _as_labels(column: pa.ChunkedArray, name: str, where: str) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise UsageError(
            f"{where}.path: column {name!r} contains {column.type}; give every image the number of "
            "its class, from 0"
        )
    return np.asarray(column.to_numpy()).astype(np.int64)
