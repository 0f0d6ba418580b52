import json
from pathlib import Path

import pytest

from engine.runs.errors import RunError
from engine.runs.journal import JournalReader, JournalWriter, read_journal


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    writer = JournalWriter(path)
    for step in range(4):
        writer.append("train_step", step=step, text="ü\n")
    writer.close()
    return path


def test_records_come_back_numbered_and_in_order(journal: Path) -> None:
    records = read_journal(journal)
    assert [(r["seq"], r["event"], r["step"], r["text"]) for r in records] == [
        (step, "train_step", step, "ü\n") for step in range(4)
    ]


def test_there_are_none_without_a_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("length", [1, 20, -1])
def test_a_torn_tail_is_dropped_and_written_over(journal: Path, length: int) -> None:
    whole = journal.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    journal.write_bytes(whole[:last] + whole[last:][:length])
    assert [r["step"] for r in read_journal(journal)] == [0, 1, 2]
    writer = JournalWriter(journal)
    writer.append("train_step", step=30)
    writer.close()
    assert [(r["seq"], r["step"]) for r in read_journal(journal)] == [
        (0, 0), (1, 1), (2, 2), (3, 30),
    ]  # fmt: skip


def test_every_single_bit_flip_of_a_whole_line_is_found(journal: Path) -> None:
    whole = journal.read_bytes()
    begin, end = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)
    for position in range(begin, end):
        for bit in (0, 3, 5):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            journal.write_bytes(damaged)
            with pytest.raises(RunError, match=r"line [23] is damaged"):
                read_journal(journal)


def test_a_damaged_middle_is_not_written_behind(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().replace(b'"step":1', b'"step":7'))
    with pytest.raises(RunError, match="line 2 is damaged"):
        JournalWriter(journal)


def test_a_reader_sees_only_what_is_new_and_only_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = JournalReader(path)
    assert reader.poll() == []
    writer = JournalWriter(path)
    writer.append("a")
    assert [r["event"] for r in reader.poll()] == ["a"]
    assert reader.poll() == []
    writer.append("b")
    writer.append("c")
    assert [r["event"] for r in reader.poll()] == ["b", "c"]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    longer = JournalWriter(copy)
    longer.append("d")
    longer.close()
    line = copy.read_bytes().splitlines(keepends=True)[-1]
    with open(path, "ab") as file:
        file.write(line[:10])
        file.flush()
        assert reader.poll() == []
        file.write(line[10:])
    assert [r["event"] for r in reader.poll()] == ["d"]
    reader.close()
    writer.close()


def test_lines_are_plain_json_for_other_tools(journal: Path) -> None:
    assert [json.loads(line)["step"] for line in journal.read_text("ascii").splitlines()] == [
        0, 1, 2, 3,
    ]  # fmt: skip
