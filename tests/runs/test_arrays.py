from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.runs.arrays import create_array, open_array, read, rows_per_chunk
from engine.runs.errors import RunError


def chunk_files(store: Path, name: str) -> list[Path]:
    return sorted(path for path in (store / name / "c").rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "test.zarr"
    create_array(store, "x", (4, 6), "float32", (2, 6))[...] = np.arange(24).reshape(4, 6)
    return store


def test_values_come_back(store: Path) -> None:
    values = read(open_array(store, "x"), slice(1, 3), store)
    assert values.tolist() == np.arange(24).reshape(4, 6)[1:3].tolist()


def test_every_flipped_byte_of_a_chunk_is_found(store: Path) -> None:
    chunk = chunk_files(store, "x")[1]
    whole = chunk.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        chunk.write_bytes(damaged)
        with pytest.raises(RunError, match=r"test\.zarr/x is damaged"):
            read(open_array(store, "x"), slice(None), store)
    chunk.write_bytes(whole)
    assert read(open_array(store, "x"), slice(None), store)[3, 5] == 23


@pytest.mark.parametrize("length", [0, 1, 10])
def test_a_chunk_cut_short_is_found(store: Path, length: int) -> None:
    chunk = chunk_files(store, "x")[0]
    chunk.write_bytes(chunk.read_bytes()[:length])
    with pytest.raises(RunError, match=r"test\.zarr/x is damaged"):
        read(open_array(store, "x"), slice(None), store)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_a_missing_chunk_is_found_and_the_others_stay_readable(tmp_path: Path, dtype: str) -> None:
    store = tmp_path / "test.zarr"
    create_array(store, "x", (4, 6), dtype, (2, 6))[...] = np.zeros((4, 6))
    chunk_files(store, "x")[1].unlink()
    array = open_array(store, "x")
    assert read(array, slice(0, 2), store).tolist() == np.zeros((2, 6)).tolist()
    with pytest.raises(RunError, match=r"test\.zarr/x lacks values"):
        read(array, slice(None), store)


def test_zeros_are_stored_and_not_left_out(tmp_path: Path) -> None:
    store = tmp_path / "test.zarr"
    array: Any = create_array(store, "x", (2,), "float32", (1,))
    array[...] = np.full(2, np.nan)
    assert len(chunk_files(store, "x")) == 2


def test_an_array_that_is_not_there(store: Path) -> None:
    with pytest.raises(RunError, match=r"test\.zarr/y is missing or damaged"):
        open_array(store, "y")
    (store / "x" / "zarr.json").write_text("{")
    with pytest.raises(RunError, match=r"test\.zarr/x is missing or damaged"):
        open_array(store, "x")


def test_chunks_are_about_four_mebibytes() -> None:
    assert rows_per_chunk(2**20) == 4
    assert rows_per_chunk(2**30) == rows_per_chunk(2**22) == 1
    assert rows_per_chunk(0) == 2**22
