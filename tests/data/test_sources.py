"""Documents are read whole, exact and in order from every kind of source, or refused clearly."""

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.utils
import pyarrow as pa
import pyarrow.parquet
import pytest

from engine.data.files import line_numbers
from engine.data.sources import Documents, read_documents
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError
from engine.runs.tables import read_table, write_documents

# Each of these is text, however much it looks like something else.
TEXTS = ["2021-03-04", "NA", "007", "null", "1e3", "true", "a, b", 'say "x"', "é 😀", " padded "]
ROWS = [{"text": text, "label": number} for number, text in enumerate(TEXTS)]
TABLE_FORMATS = [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet"]
FORMATS = [*TABLE_FORMATS, ".txt", ".txt.gz"]


def write(path: Path, rows: Iterable[dict[str, Any]] = ROWS) -> Path:
    """Write rows in the format that the path's suffix names."""
    rows = list(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        match path.name.removesuffix(".gz").rpartition(".")[2]:
            case "jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)
            case "json":
                json.dump(rows, file, indent=1)
            case "csv":
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            case "txt":
                file.writelines(row["text"] + "\n" for row in rows)
    return path


def read(path: Path | str, **changed: Any) -> Documents:
    return read_documents(SourceConfig(path=str(path), **changed), "data")


def all_texts(documents: Documents) -> list[str]:
    return ["|".join(documents.texts(i)) for i in range(len(documents))]


def refusal(path: Path | str, **changed: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read_documents(SourceConfig(path=str(path), **changed), "queries.contrast")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_exact_texts(tmp_path: Path, suffix: str) -> None:
    documents = read(write(tmp_path / f"file{suffix}"))
    assert all_texts(documents) == TEXTS
    assert documents.text_columns == ("text",)
    assert documents.source_rows.tolist() == list(range(len(TEXTS)))
    assert documents.source_rows.dtype == "int64"
    if suffix in TABLE_FORMATS:
        assert documents.columns["label"].to_pylist() == list(range(len(TEXTS)))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(10)),
        ("train[:20%]", range(2)),
        ("train[5:20]", range(5, 10)),
        ("train[-3:]", range(7, 10)),
        ("train[8:]+train[:1]", [8, 9, 0]),
        ("train[7:3]+train[:2]", range(2)),
    ],
)
def test_slices_know_their_source_rows(
    tmp_path: Path, suffix: str, split: str, expected: Iterable[int]
) -> None:
    documents = read(write(tmp_path / f"file{suffix}"), split=split)
    assert documents.source_rows.tolist() == list(expected)
    assert all_texts(documents) == [TEXTS[i] for i in expected]


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_edited_file_is_read_anew_and_nothing_is_left_behind(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"file{suffix}"
    read(write(path))
    assert all_texts(read(write(path, ROWS[::-1]))) == TEXTS[::-1]
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


def test_prompt_and_completion_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "file.csv", [{"q": "2+2=", "a": "4"}, {"q": "is it?", "a": "NA"}])
    documents = read(path, prompt_column="q", completion_column="a")
    assert documents.text_columns == ("q", "a")
    assert documents.texts(0) == ("2+2=", "4")
    assert documents.texts(1) == ("is it?", "NA")


def test_lines_of_text_end_at_line_ends_only_and_blank_ones_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes("\ufeffone\r\n\r\n  \ntwo\fstill\u2028two\nthree".encode())
    documents = read(path)
    assert all_texts(documents) == ["one", "two\fstill\u2028two", "three"]
    assert documents.source_rows.tolist() == [0, 3, 4]
    assert read(path, split="train[1:2]").source_rows.tolist() == [3]


def test_a_quoted_line_end_stays_inside_its_csv_field(tmp_path: Path) -> None:
    # Larger than the blocks of about a megabyte that Arrow reads at a time.
    rows = [{"text": "line\n" * 20_000 + str(number)} for number in range(25)]
    expected = [row["text"] for row in rows]
    assert all_texts(read(write(tmp_path / "file.csv", rows))) == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".csv.gz"])
def test_a_byte_order_mark_says_how_text_is_encoded(
    tmp_path: Path, suffix: str, encoding: str
) -> None:
    path = write(tmp_path / f"file{suffix}")
    opened = gzip.open if suffix.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        content = str(file.read())
    marked = content if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff" + content
    with opened(path, "wt", encoding=encoding, newline="") as file:
        file.write(marked)
    assert all_texts(read(path)) == TEXTS


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_text_may_be_longer_than_any_block(tmp_path: Path, suffix: str) -> None:
    expected = ["a", "sea " * 750_000, "b"]
    path = write(tmp_path / f"file{suffix}", [{"text": text} for text in expected])
    assert all_texts(read(path)) == expected


def test_quotation_marks_inside_of_csv_fields_are_text(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text('text,n\n5" of rain,1\n"a ""b",2\n')
    assert all_texts(read(path)) == ['5" of rain', 'a "b']


def test_the_type_of_a_csv_column_is_that_of_all_its_values(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text("text,n\n" + "sea,1\n" * 300_000 + "sea,1.5\n")
    assert read(path).columns["n"][-1].as_py() == 1.5


@pytest.mark.parametrize(
    ("source", "depth"),
    [("jsonl", 3), ("jsonl", 60), ("jsonl", 100), ("jsonl", 900), ("folder", 3), ("folder", 60)],
)
@pytest.mark.usefixtures("quiet_datasets")
def test_deeply_nested_values_are_stored_as_json(tmp_path: Path, source: str, depth: int) -> None:
    deep = json.loads("[" * depth + "1" + "]" * depth)
    path = write(tmp_path / "file.jsonl", [{"text": "a", "deep": deep}])
    if source == "folder":
        path = tmp_path / "saved"
        arrow = pa.table({"text": ["a"], "deep": [deep]})
        datasets.Dataset(arrow, fingerprint="of a test").save_to_disk(str(path))
    columns = read(path).columns
    write_documents(tmp_path / "kept.parquet", columns, ("text",), [0])
    (stored,) = read_table(tmp_path / "kept.parquet")["deep"].to_pylist()
    assert (stored if depth == 3 else json.loads(stored)) == deep


def test_a_damaged_column_is_named(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"caf\xe9"])
    column = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    for table in ({"text": column}, {"text": ["a", "b"], "note": column}):
        pyarrow.parquet.write_table(pa.table(table), tmp_path / "file.parquet")
        name = list(table)[-1]
        assert f"column '{name}' is damaged (Invalid UTF8" in refusal(tmp_path / "file.parquet")


def test_columns_named_like_ours_are_all_stored(tmp_path: Path) -> None:
    names = ["q", "a", "text", "id", "data_id", "data_data_id", "source_row", "prompt"]
    columns = pa.table({name: [name] for name in names})
    write_documents(tmp_path / "kept.parquet", columns, ("q", "a"), [0])
    stored = read_table(tmp_path / "kept.parquet").to_pylist()[0]
    assert set(names) == {str(value) for value in stored.values()} - {"0"}
    assert (stored["prompt"], stored["completion"], stored["source_row"]) == ("q", "a", 0)
    assert "text" not in stored


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.txt", "a\n\nb\n", [1, 3]),
        ("a.jsonl", '\n{"text": "a"}\n \n{"text": "b"}', [2, 4]),
        ("a.csv", 'text,n\r\n\r\n"a ""x""\r\nb",1\r\nb,2', [3, 5]),
        ("a.json", '[{"text": "a"},\n{"text": "b"}]', None),
    ],
)
def test_the_lines_of_rows(
    tmp_path: Path, name: str, content: str, lines: list[int] | None
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    rows = read(tmp_path / name).source_rows.tolist()
    assert line_numbers(tmp_path / name, rows) == lines


def test_json_columns_of_mixed_or_missing_values_are_stored(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "mixed": 1, "nested": {"k": [1]}, "empty": {}},
        {"text": "b", "mixed": "x", "late": 2.5, "empty": {}},
        {"text": "c", "mixed": None, "huge": 2**70},
    ]
    columns = read(write(tmp_path / "file.jsonl", rows)).columns
    assert columns["mixed"].to_pylist() == ["1", '"x"', None]
    assert columns["nested"].to_pylist() == [{"k": [1]}, None, None]
    assert columns["late"].to_pylist() == [None, 2.5, None]
    assert columns["huge"].to_pylist() == [None, None, str(2**70)]
    pyarrow.parquet.write_table(columns, tmp_path / "kept.parquet")


def test_json_lines_may_stand_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert all_texts(read(path)) == ["a", "b"]


def test_dictionary_encoded_text_is_text(tmp_path: Path) -> None:
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    pyarrow.parquet.write_table(pa.table({"text": column}), tmp_path / "file.parquet")
    assert all_texts(read(tmp_path / "file.parquet")) == ["a", "b", "a"]


def test_views_of_text_are_text_and_documents_can_be_chosen(tmp_path: Path) -> None:
    views = pa.array(["a", None, "b"], pa.string_view())
    pyarrow.parquet.write_table(pa.table({"text": views, "n": views}), tmp_path / "file.parquet")
    assert all_texts(read(tmp_path / "file.parquet").only([0, 2])) == ["a", "b"]


def test_relative_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert all_texts(read("file.jsonl")) == all_texts(read("~/file.jsonl")) == TEXTS


@pytest.fixture
def quiet_datasets() -> Iterable[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.usefixtures("quiet_datasets")
def test_a_saved_folder(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(str(tmp_path / "one"))
    assert all_texts(read(tmp_path / "one", split="train[1:3]")) == TEXTS[1:3]

    parts = datasets.DatasetDict(train=whole.select([3, 1, 2]), test=whole.select([7, 8]))
    parts.save_to_disk(str(tmp_path / "several"))
    both = read(tmp_path / "several", split="test[1:]+train[:2]")
    assert all_texts(both) == [TEXTS[8], TEXTS[3], TEXTS[1]]
    assert both.source_rows.tolist() == [1, 0, 1]
    assert both.columns["label"].to_pylist() == [8, 3, 1]
    assert refusal(tmp_path / "several", split="dev") == (
        "queries.contrast.split: 'dev' does not match the data set: "
        "Unknown split \"dev\". Should be one of ['train', 'test']."
    )


@pytest.mark.usefixtures("quiet_datasets")
def test_a_folder_saved_of_one_split_goes_by_its_name_or_by_train(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS, split="validation[:50%]")
    saved.save_to_disk(str(tmp_path / "saved"))
    for split in ("validation[:2]", "train[:2]"):
        assert all_texts(read(tmp_path / "saved", split=split)) == TEXTS[:2]


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_saved_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset_dict.json").write_text(content)
    message = refusal(tmp_path)
    assert message.startswith(f"queries.contrast.path: the data set saved in '{tmp_path}' cannot")


def test_hub_data_sets_are_loaded_without_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, str | None]] = []
    switches = (datasets, huggingface_hub.utils)

    def load_dataset(path: str, subset: str | None) -> datasets.DatasetDict:
        assert all(switch.are_progress_bars_disabled() for switch in switches)
        requests.append((path, subset))
        part = datasets.Dataset.from_list(ROWS)
        return datasets.DatasetDict(train=part, test=part.select(range(5)))

    for switch in switches:
        switch.enable_progress_bars()
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents = read("someone/something", subset="en", split="test[3:]")
    assert requests == [("someone/something", "en")]
    assert all_texts(documents) == TEXTS[3:5]
    assert documents.source_rows.tolist() == [3, 4]
    assert not any(switch.are_progress_bars_disabled() for switch in switches)


def test_a_hub_failure_is_one_sentence_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, subset: str | None) -> None:
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub.\nMore lines.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("someone/something") == (
        "queries.contrast.path: 'someone/something' is not a local path and could not be loaded "
        "from the hub: Couldn't reach 'someone/something' on the Hub; check the id, the subset "
        "and the network, or give a local file."
    )


@pytest.mark.parametrize("path", ["gone.jsonl", "./gone", "../gone", "/gone", "~/gone"])
def test_a_missing_local_path_is_never_looked_up_on_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(datasets, "load_dataset")
    assert refusal(path) == (
        f"queries.contrast.path: no file or folder at {path!r}; relative paths start from the "
        "current folder."
    )


def test_folders_and_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    assert "is a folder, but not one written by save_to_disk" in refusal(tmp_path)
    (tmp_path / "file.tsv").write_text("text\na\n")
    assert "has an unknown format; give a file that ends in .jsonl," in refusal(
        tmp_path / "file.tsv"
    )
    (tmp_path / "file.parquet.gz").write_bytes(b"")
    assert "has an unknown format" in refusal(tmp_path / "file.parquet.gz")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n"b"\n', "line 2 is not a JSON object"),
        ("a.json", b'[{"text": "a"}, 3]', "item 2 of its array is not a JSON object"),
        ("a.json", b'[{"text": "a"}', "Expecting ',' delimiter"),
        ("a.txt", b"tea\ncaf\xe9\n", "line 2 of a.txt is not UTF-8"),
        ("a.csv", b"text,label\na,1\ncaf\xe9,1\n", "line 3 of a.csv is not UTF-8"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "line 1 of a.jsonl is not UTF-8"),
        ("a.txt", "tea\n\ud800".encode("utf-16", "surrogatepass"), "line 2 of a.txt is not UTF-16"),
        ("a.csv", "text\na\n".encode("utf-16-be"), "UTF-16 without a byte-order mark"),
        ("a.csv", b"text,label\na,1\nb\n", "Row #3: Expected 2 columns, got 1"),
        ("a.csv", b"text,note,note\na,1,2\n", "two columns are called 'note'"),
        ("a.csv", b'text\na\n"b\nc\n' + b"d\n" * 10**5, "line 3 opens a quotation mark"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "a", "text": "b"}',
            "line 2: an object has two values",
        ),
        ("a.json", b'[{"text": "a", "n": {"k": 1, "k": 2}}]', "two values called 'k'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 10**5, "line 2 is nested too deeply"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}', "row 2 holds half of a surrogate pair"),
        ("a.csv", b"", "Empty CSV file"),
        ("a.parquet", b"text", "Parquet"),
        ("a.txt.gz", b"text", "Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "Compressed file ended"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0)[:10] + b"\xff" * 9, "Error -3"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert message.startswith(f"queries.contrast.path: '{tmp_path / name}' cannot be read: ")
    assert reason in message
    assert message.endswith("; repair the file or give another.")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.txt", "\n \n"), ("a.json", "[]"), ("a.csv", "text,label\n")],
)
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert refusal(tmp_path / name) == (
        "queries.contrast.split: 'train' selects no document (train has 0 rows); "
        "give a split with rows."
    )


def test_a_missing_column_names_those_there_are_and_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "file.jsonl")
    assert refusal(path, text_column="texts") == (
        "queries.contrast.text_column: no column 'texts'; the columns are 'text', 'label'; "
        "did you mean 'text'?"
    )
    assert refusal(path, prompt_column="text", completion_column="zzz") == (
        "queries.contrast.completion_column: no column 'zzz'; the columns are 'text', 'label'; "
        "name one of them."
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_numbers_is_no_text(tmp_path: Path, suffix: str) -> None:
    assert refusal(write(tmp_path / f"file{suffix}"), text_column="label") == (
        "queries.contrast.text_column: column 'label' contains int64, not text; "
        "name a column of strings or convert it."
    )


@pytest.mark.parametrize("value", [None, 3, ["x"]])
def test_rows_without_text_are_read_as_such(tmp_path: Path, value: object) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": value}, {"text": value}]
    documents = read(write(tmp_path / "file.jsonl", rows), split="train[1:]")
    assert [documents.has_text(index) for index in range(3)] == [True, False, False]
    assert documents.locations([1]) == "line 3 of file.jsonl"
    assert documents.locations([1, 2]) == "lines 3 and 4 of file.jsonl"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "'test' does not match the data set: Unknown split \"test\". Should be one of"),
        (
            "train[5]",
            "'train[5]' is not a split (Unrecognized instruction format: train[5]); write",
        ),
        ("train[:200%]", "'train[:200%]' is not a split (Percent slice boundaries"),
        ("train[7:3]", "'train[7:3]' selects no document (train has 10 rows)"),
        ("train[10:]", "'train[10:]' selects no document (train has 10 rows)"),
    ],
)
def test_splits_that_are_not_there_are_refused(tmp_path: Path, split: str, message: str) -> None:
    refused = refusal(write(tmp_path / "file.jsonl"), split=split)
    assert refused.startswith(f"queries.contrast.split: {message}")


def test_a_subset_of_a_local_file_is_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "file.jsonl"), subset="en")
    assert message.startswith("queries.contrast.subset: only data sets of the hub have subsets")


def test_parts_with_clashing_columns_are_refused(tmp_path: Path) -> None:
    parts = datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"text": ["a"], "x": [1]}),
        test=datasets.Dataset.from_dict({"text": ["a"], "x": ["one"]}),
    )
    for name, part in parts.items():
        part.save_to_disk(str(tmp_path / name))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    message = refusal(tmp_path, split="train+test")
    assert message.startswith("queries.contrast.split: the parts of 'train+test' differ in their")
