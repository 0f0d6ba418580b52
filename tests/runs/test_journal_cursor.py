"""Reading a journal from any record on, and in pieces."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.runs.errors import RunError
from engine.runs.journal import JournalReader, JournalWriter

RECORDS = 300


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "events.jsonl"
    writer, random_ = JournalWriter(path), random.Random(0)
    for number in range(RECORDS):
        writer.append("a", step=number, text="x" * random_.choice([0, 1, 50, 3000]))
    writer.close()
    return path


@pytest.fixture
def reader(journal: Path) -> Iterator[JournalReader]:
    reader = JournalReader(journal)
    yield reader
    reader.close()


def drain(reader: JournalReader, at_most: int) -> list[int]:
    steps: list[int] = []
    while records := reader.poll(at_most):
        steps += [record["step"] for record in records]
    return steps


@pytest.mark.parametrize("at_most", [1, 100, 4096, 1_000_000])
def test_pieces_of_any_size_add_up(reader: JournalReader, at_most: int) -> None:
    assert drain(reader, at_most) == list(range(RECORDS))


def test_a_piece_is_small(reader: JournalReader) -> None:
    assert 0 < len(reader.poll(10_000)) < 100


def test_any_record_can_be_the_first(journal: Path) -> None:
    for number in range(RECORDS + 1):
        reader = JournalReader(journal)
        assert reader.skip_to(number)
        assert [r["seq"] for r in reader.poll(5000)][:1] == [number][: RECORDS - number]
        reader.close()


def test_a_reader_goes_back_and_on(reader: JournalReader) -> None:
    assert drain(reader, 10_000)[-1] == RECORDS - 1
    assert reader.skip_to(7)
    assert drain(reader, 10_000) == list(range(7, RECORDS))


@pytest.mark.parametrize("number", [RECORDS + 1, 10**15])
def test_records_that_are_not_there_are_not_skipped(reader: JournalReader, number: int) -> None:
    assert not reader.skip_to(number)
    assert reader.poll(1)[0]["seq"] == 0


def test_skipping_in_no_journal_or_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert JournalReader(path).skip_to(0)
    assert not JournalReader(path).skip_to(1)
    path.touch()
    assert JournalReader(path).skip_to(0)
    assert not JournalReader(path).skip_to(1)


def test_a_torn_tail_is_no_record(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "events.jsonl"
    copy.write_bytes(journal.read_bytes()[:-1])
    reader = JournalReader(copy)
    assert not reader.skip_to(RECORDS)
    assert reader.skip_to(RECORDS - 1)
    assert reader.poll(10) == []
    with open(copy, "ab") as file:
        file.write(b"\n")
    assert drain(reader, 10) == [RECORDS - 1]
    reader.close()


def test_a_few_lines_are_read_of_a_long_journal(journal: Path) -> None:
    class Counted(JournalReader):
        def _opened(self):  # type: ignore[no-untyped-def]
            file = super()._opened()
            assert file is not None
            read = file.readline
            self.read = 0

            class Spy:
                def readline(self_) -> bytes:  # noqa: N805
                    line = read()
                    self.read += 1
                    return line

                def __getattr__(self_, name: str) -> object:  # noqa: N805
                    return getattr(file, name)

            return Spy()

    reader = Counted(journal)
    assert reader.skip_to(123)
    assert reader.read <= 2 * 20


def test_the_record_before_the_first_is_checked(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "events.jsonl"
    copy.write_bytes(journal.read_bytes().replace(b'"step":41', b'"step":49'))
    with pytest.raises(RunError, match="line 42 is damaged"):
        JournalReader(copy).skip_to(42)


def test_a_journal_without_numbers_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"hello\n" * 100)
    with pytest.raises(RunError, match="the line at byte 300 is damaged"):
        JournalReader(path).skip_to(3)


def test_a_journal_that_lost_what_was_read_is_noticed(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "events.jsonl"
    copy.write_bytes(journal.read_bytes())
    reader = JournalReader(copy)
    assert not reader.has_shrunk()
    drain(reader, 1000)
    assert not reader.has_shrunk()
    with open(copy, "rb+") as file:
        file.truncate(1000)
    assert reader.has_shrunk()
    reader.close()
