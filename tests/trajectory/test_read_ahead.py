"""Read-ahead: in order, within the budget, with errors raised by the load of the key."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from engine.replay.state import Params
from engine.runs.manifest import Key
from engine.trajectory.files import Stamp
from engine.trajectory.host_cache import HostCache
from engine.trajectory.read_ahead import ReadAhead
from engine.trajectory.tensor_files import DamagedFileError

TIMEOUT_SECONDS = 60.0
KEYS: list[Key] = [("gradient", step) for step in (3, 2, 1, 2, 0)]


class Files:
    """Files of one byte. Reads are recorded, and may fail."""

    def __init__(self, errors: dict[Key, BaseException] | None = None) -> None:
        self.errors = errors or {}
        self.read_by: list[tuple[Key, bool]] = []
        """Every read, and whether another thread than the main one read."""
        self._changed = threading.Condition()

    def stamp(self, key: Key) -> Stamp:
        return (("file", str(key[1])),)

    def size(self, key: Key) -> int:
        return 1

    def read(self, key: Key) -> Params:
        with self._changed:
            ahead = threading.current_thread() is not threading.main_thread()
            self.read_by.append((key, ahead))
            self._changed.notify_all()
        if key in self.errors:
            raise self.errors[key]
        return {"g": torch.tensor(key[1])}

    @property
    def read_so_far(self) -> list[Key]:
        return [key for key, _ in self.read_by]

    def wait(self, what: Callable[[], bool]) -> None:
        """Block until a condition on the reads holds."""
        with self._changed:
            assert self._changed.wait_for(what, TIMEOUT_SECONDS)


@contextmanager
def ahead_of(files: Any, budget: int) -> Iterator[ReadAhead]:
    ahead = ReadAhead(files, HostCache(budget), torch.device("cpu"))
    try:
        yield ahead
    finally:
        ahead.close()
        assert not [t for t in threading.enumerate() if t.name == "read-ahead"]


def value(ahead: ReadAhead, key: Key) -> int:
    return int(ahead.load(key)["g"])


def test_planned_keys_are_read_before_they_are_loaded() -> None:
    files = Files()
    with ahead_of(files, 2) as ahead:
        ahead.plan(KEYS, [])
        files.wait(lambda: len(files.read_by) == 2)
        assert value(ahead, KEYS[0]) == 3
        files.wait(lambda: len(files.read_by) == 3)
        assert [value(ahead, key) for key in KEYS[1:3]] == [2, 1]
        files.wait(lambda: len(files.read_by) == 4)
        assert [value(ahead, key) for key in KEYS[3:]] == [2, 0]
    # Nothing is read twice: the cache held the key with the next use.
    assert files.read_by == [(key, True) for key in (KEYS[0], KEYS[1], KEYS[2], KEYS[4])]


def test_nothing_is_read_beyond_the_budget() -> None:
    files = Files()
    with ahead_of(files, 2) as ahead:
        ahead.plan(KEYS, [])
        files.wait(lambda: len(files.read_by) == 2)
    assert files.read_so_far == KEYS[:2]


@pytest.mark.parametrize("budget", [0, 1, 2, 9])
def test_any_budget_gives_the_same(budget: int) -> None:
    files = Files()
    with ahead_of(files, budget) as ahead:
        for _ in range(2):
            ahead.plan(KEYS, KEYS)
            assert [value(ahead, key) for key in KEYS] == [step for _, step in KEYS]
        assert ahead.cache.used <= budget
    reads = {0: 2 * len(KEYS), 9: len(set(KEYS))}
    assert len(files.read_by) == reads.get(budget, len(files.read_by)) <= 2 * len(KEYS)
    if budget == 0:
        assert not any(by_thread for _, by_thread in files.read_by)


def test_an_unplanned_key_is_read() -> None:
    files = Files()
    with ahead_of(files, 2) as ahead:
        ahead.plan(KEYS, [])
        assert value(ahead, ("gradient", 7)) == 7
        assert [value(ahead, key) for key in KEYS] == [step for _, step in KEYS]


@pytest.mark.parametrize("error", [DamagedFileError("damaged"), MemoryError(), OSError(5, "io")])
@pytest.mark.parametrize("budget", [0, 1, 9])
def test_errors_are_raised_by_the_load_of_the_key(error: BaseException, budget: int) -> None:
    files = Files({KEYS[2]: error})
    with ahead_of(files, budget) as ahead:
        ahead.plan(KEYS, [])
        assert value(ahead, KEYS[0]) == 3
        if budget == 9:
            files.wait(lambda: KEYS[4] in files.read_so_far)
        assert value(ahead, KEYS[1]) == 2
        with pytest.raises(type(error)):
            ahead.load(KEYS[2])


def test_a_failing_thread_does_not_block_the_replay() -> None:
    class Broken(Files):
        def size(self, key: Key) -> int:
            raise ZeroDivisionError

    files = Broken()
    with ahead_of(files, 2) as ahead:
        ahead.plan(KEYS, [])
        assert ahead._thread is not None
        ahead._thread.join(TIMEOUT_SECONDS)
        with pytest.raises(ZeroDivisionError):
            ahead.load(KEYS[0])


def test_it_restarts_after_close() -> None:
    files = Files()
    with ahead_of(files, 9) as ahead:
        for _ in range(2):
            ahead.plan(KEYS[:1], [])
            files.wait(lambda: len(files.read_by) == 1)
            ahead.close()
        assert value(ahead, KEYS[0]) == 3
    assert files.read_so_far == KEYS[:1]
