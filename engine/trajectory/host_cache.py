"""The host cache of a trajectory: states and gradients in host memory, evicted by future use.

The order in which a replay reads states and gradients is known in advance, and the next pass reads
them in the same order. The cache therefore evicts the entry whose next read is farthest away, which
is optimal (L. A. Belady, IBM Systems Journal 5(2), 1966). The disk is authoritative: an entry is
valid only while the manifests name the same bits.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from engine.replay.state import Params
from engine.runs.manifest import Key
from engine.trajectory.files import Stamp

CACHE_SHARE = 0.2
"""Share of the free host memory that the cache takes by default."""


class ReadPlan:
    """A known sequence of reads and the position of the next one."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Plan to read ``keys`` in this order."""
        self.keys = tuple(keys)
        self.position = 0
        """Index of the next read."""
        self._positions: dict[Key, list[int]] = {}
        for position, key in enumerate(self.keys):
            self._positions.setdefault(key, []).append(position)

    def next_use(self, key: Key) -> float:
        """The index of the next read of ``key``; infinite if there is none."""
        positions = self._positions.get(key, [])
        index = bisect_left(positions, self.position)
        return positions[index] if index < len(positions) else math.inf

    def advance(self, key: Key) -> bool:
        """Count a read of ``key``. Returns False, without advancing, if it was not the next one."""
        is_next = self.position < len(self.keys) and self.keys[self.position] == key
        self.position += is_next
        return is_next


@dataclass
class _Entry:
    stamp: Stamp
    size: int
    tensors: Params | None
    """None while they are being read."""


class HostCache:
    """States and gradients in host memory within a budget. Not thread-safe: callers lock."""

    def __init__(self, budget: int | None = None) -> None:
        """Hold at most ``budget`` bytes; None takes a share of the free memory, 0 holds nothing."""
        if budget is None:
            budget = int(CACHE_SHARE * psutil.virtual_memory().available)
        self.budget = budget
        self.read_plan = ReadPlan()
        self.used = 0
        """Bytes held."""
        self._entries: dict[Key, _Entry] = {}

    def lacks(self, key: Key, stamp: Stamp) -> bool:
        """Whether these bits are neither held nor being read."""
        entry = self._entries.get(key)
        return entry is None or entry.stamp != stamp

    def get(self, key: Key, stamp: Stamp) -> Params | None:
        """The tensors of ``key``, or None unless exactly these bits are held."""
        entry = self._entries.get(key)
        return entry.tensors if entry is not None and entry.stamp == stamp else None

    def put(self, key: Key, stamp: Stamp, size: int, tensors: Params | None) -> bool:
        """Hold tensors, or reserve room for tensors that are being read (None).

        Entries with a later next use are evicted to make room, the latest first.

        Returns:
            Whether they are held. False if only entries with an earlier next use would make room.
        """
        self.drop(key)
        use = self.read_plan.next_use(key)
        lacking = self.used + size - self.budget
        if lacking > 0:
            evictable = self._used_after(use)
            if lacking > sum(self._entries[other].size for other in evictable):
                return False
            while self.used + size > self.budget:
                self.drop(evictable.pop())
        self._entries[key] = _Entry(stamp, size, tensors)
        self.used += size
        return True

    def _used_after(self, use: float) -> list[Key]:
        """The entries whose next use comes after ``use``, the latest at the end."""
        uses = [
            (self.read_plan.next_use(key), key)
            for key, entry in self._entries.items()
            if entry.tensors is not None
        ]
        return [key for position, key in sorted(uses) if position > use]

    def drop(self, key: Key) -> None:
        """Evict a key if it is held."""
        entry = self._entries.pop(key, None)
        self.used -= 0 if entry is None else entry.size
