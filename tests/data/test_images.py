"""Labelled images are read exactly, and what is wrong with a file is said in one sentence."""

from pathlib import Path

import numpy as np
import pytest

from engine.data.examples import ExampleRows, Examples
from engine.data.images import read_images
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError
from engine.runs.tables import RowTable, write_arrays
from tests.data.tiny_images import draw, write_cifar, write_mnist


def read(path: Path, split: str = "train") -> Examples:
    return read_images(SourceConfig(path=str(path), split=split), "data")


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path: Path, zipped: bool) -> None:
    written = write_mnist(tmp_path / "m", zipped=zipped)
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = written[name]
        source = read(tmp_path / "m", split)
        assert np.array_equal(source.columns["image"][:, 0], images)
        assert source.columns["label"].tolist() == source.facts["label"] == labels.tolist()
    part = read(tmp_path / "m", "train[2:4]+test[-1:]")
    assert part.source_rows.tolist() == [2, 3, 2]
    label = written["train"][1][3]
    assert part.texts[1] == f"an image, label {label}, row 3"


def test_one_file_is_all_there_is(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path / "m")["t10k"]
    source = read(tmp_path / "m" / "t10k-images-idx3-ubyte.gz")
    assert np.array_equal(source.columns["image"][:, 0], images)
    assert source.facts["label"] == labels.tolist()


def test_cifar_batches_in_their_order(tmp_path: Path) -> None:
    written = write_cifar(tmp_path / "c", batches=(2,) * 11)
    images = np.concatenate([images for images, _ in written[:-1]])
    source = read(tmp_path / "c")
    assert source.columns["image"].shape == (22, 3, 32, 32)
    assert np.array_equal(source.columns["image"], images)
    assert np.array_equal(read(tmp_path / "c", "test").columns["image"], written[-1][0])


def test_a_saved_data_set(tmp_path: Path) -> None:
    import datasets

    images, labels = draw(3, 5, (3, 4, 4))
    shape = datasets.Array3D((3, 4, 4), "uint8")
    features = datasets.Features(
        {"img": shape, "label": datasets.Value("int64"), "who": datasets.Value("string")}
    )
    columns = {"img": list(images), "label": labels.tolist(), "who": list("abcde")}
    datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "saved")
    source = read(tmp_path / "saved", "train[1:]")
    assert np.array_equal(source.columns["image"], images[1:])
    assert source.facts == {"label": labels[1:].tolist(), "who": list("bcde")}


def test_rows_come_back_from_the_store(tmp_path: Path) -> None:
    write_mnist(tmp_path / "m")
    rows = ExampleRows.of(read(tmp_path / "m").columns)
    steps = np.zeros((len(rows), 1), np.int32)
    write_arrays(tmp_path / "rows.zarr", {**rows.arrays(), "steps": steps})
    table = RowTable(tmp_path / "rows.zarr")
    again = ExampleRows.from_arrays(table.arrays())
    assert not table.has_tokens and table.tokens == 1
    for name, values in rows.columns.items():
        assert np.array_equal(again.columns[name], values)
        assert again.columns[name].dtype == values.dtype


def test_damage_is_reported(tmp_path: Path) -> None:
    write_mnist(tmp_path / "m", zipped=False)
    images = tmp_path / "m" / "train-images-idx3-ubyte"
    content = images.read_bytes()
    for damaged, message in (
        (content[:-1], "does not contain the .* values of its header"),
        (b"\0\0\7\3" + content[4:], "is not an idx file of bytes"),
    ):
        images.write_bytes(damaged)
        with pytest.raises(UsageError, match=f"data.path: .*{message}.*fetch them again"):
            read(tmp_path / "m")
    images.write_bytes(content)
    (tmp_path / "m" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match=r"cannot be read: .*labels-idx1"):
        read(tmp_path / "m")
    write_cifar(tmp_path / "c")
    zipped = tmp_path / "c" / "data_batch_1.bin.gz"
    zipped.write_bytes(zipped.read_bytes()[:-30])
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "c")
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"data.path"):
        read(tmp_path / "none")


def test_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(UsageError, match="no column 'image'; the columns are 'text', 'label'"):
        read(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"image": [[1, 2], [3, 4]], "label": "cat"}\n')
    with pytest.raises(UsageError, match="'label' contains string; give every image"):
        read(tmp_path / "t.jsonl")
    lines = ['{"image": [[1, 2], [3, 4]], "label": 0}', '{"image": [[1, 2]], "label": 1}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="does not contain images of one size"):
        read(tmp_path / "t.jsonl")
