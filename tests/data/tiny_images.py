"""Images of a few pixels in the files that MNIST and CIFAR-10 are published in."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def draw(seed: int, count: int, shape: tuple[int, ...]) -> Labelled:
    """Images of noise around a level that goes with the label, 255 among their pixels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count).astype(np.uint8)
    levels = 40 * labels.reshape(-1, *[1] * len(shape))
    images = np.clip(levels + random.normal(60, 60, (count, *shape)), 0, 255).astype(np.uint8)
    images.reshape(count, -1)[:, 0] = 255
    return images, labels


def write_mnist(
    folder: Path, train: int = 10, test: int = 3, size: int = 8, zipped: bool = True
) -> dict[str, Labelled]:
    """Files of both splits; returns what is in them."""
    splits = {"train": draw(1, train, (size, size)), "t10k": draw(2, test, (size, size))}
    folder.mkdir(exist_ok=True)
    for name, (images, labels) in splits.items():
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            content = header + values.tobytes()
            path = folder / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)
    return splits


def write_cifar(folder: Path, batches: tuple[int, ...] = (4, 3), test: int = 2) -> list[Labelled]:
    """Batches of the training split and the test split; returns what is in them."""
    batches_and_test = [draw(5 + i, count, (3, 32, 32)) for i, count in enumerate((*batches, test))]
    folder.mkdir(exist_ok=True)
    names = [f"data_batch_{i + 1}.bin.gz" for i in range(len(batches))] + ["test_batch.bin"]
    for name, (images, labels) in zip(names, batches_and_test, strict=True):
        rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
        content = rows.tobytes()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return batches_and_test
