"""The host tier of a trajectory: what of it is held in host memory, chosen by foresight.

A replay asks for states and gradients in an order that is known in advance, and the next pass
asks in the same order again. So what is held within the budget is what will be asked for soonest,
and whatever is needed last makes room (L. A. Belady, IBM Systems Journal 5(2), 1966). The disk
remains the truth: something held counts only while the manifests name the same bits.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from engine.replay.state import Params
from engine.runs.manifest import Key
from engine.trajectory.files import Stamp

TIER_SHARE = 0.2
"""Part of the free host memory that the tier may take where nobody says how much."""


class ReadPlan:
    """A known sequence of reads, and how far it has come."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Expect ``keys``, in order."""
        self.keys = tuple(keys)
        self.place = 0
        """Of the next read."""
        self._places: dict[Key, list[int]] = {}
        for place, key in enumerate(self.keys):
            self._places.setdefault(key, []).append(place)

    def next(self, key: Key) -> float:
        """The place at which ``key`` is read next; infinite if it is not."""
        places = self._places.get(key, [])
        found = bisect_left(places, self.place)
        return places[found] if found < len(places) else math.inf

    def passed(self, key: Key) -> bool:
        """Whether the read of ``key`` was foreseen; if not, nothing has come any nearer."""
        foreseen = self.place < len(self.keys) and self.keys[self.place] == key
        self.place += foreseen
        return foreseen


@dataclass
class _Held:
    stamp: Stamp
    size: int
    tensors: Params | None
    """None while they are being read."""


class HostCache:
    """States and gradients in host memory within a budget; for one thread at a time."""

    def __init__(self, budget: int | None = None) -> None:
        """Hold at most ``budget`` bytes, by default a share of what is free; 0: nothing."""
        if budget is None:
            budget = int(TIER_SHARE * psutil.virtual_memory().available)
        self.budget = budget
        self.foresight = ReadPlan()
        self.used = 0
        """Bytes held."""
        self._held: dict[Key, _Held] = {}

    def lacks(self, key: Key, stamp: Stamp) -> bool:
        """Whether it is neither held nor being read."""
        held = self._held.get(key)
        return held is None or held.stamp != stamp

    def get(self, key: Key, stamp: Stamp) -> Params | None:
        """The tensors of a key if these very bits are held."""
        held = self._held.get(key)
        return held.tensors if held is not None and held.stamp == stamp else None

    def put(self, key: Key, stamp: Stamp, size: int, tensors: Params | None) -> bool:
        """Hold tensors, or room for them while they are read (None), unless it isn't worth it.

        To make room, things that are needed later are let go, those needed last first.

        Returns:
            Whether they are held.
        """
        self.drop(key)
        use = self.foresight.next(key)
        lacking = self.used + size - self.budget
        if lacking > 0:
            later = self._needed_after(use)
            if lacking > sum(self._held[other].size for other in later):
                return False
            while self.used + size > self.budget:
                self.drop(later.pop())
        self._held[key] = _Held(stamp, size, tensors)
        self.used += size
        return True

    def _needed_after(self, use: float) -> list[Key]:
        """What is held and may make room, what is needed last at the end."""
        found = [
            (self.foresight.next(key), key)
            for key, held in self._held.items()
            if held.tensors is not None
        ]
        return [key for place, key in sorted(found) if place > use]

    def drop(self, key: Key) -> None:
        """Let go of a key, if it is held."""
        held = self._held.pop(key, None)
        self.used -= 0 if held is None else held.size
