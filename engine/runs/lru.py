"""A small thread-safe store of what was used last."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the values of the keys used last, and never more than ``most`` of them.

    Where values differ in size, ``most`` counts what ``weight`` says of each; the one used last is
    kept whatever its weight.
    """

    def __init__(self, most: int, weight: Callable[[Value], int] = lambda _: 1) -> None:
        """Start empty."""
        self.most = most
        self._weight = weight
        self._total = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value of a key if it is still kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, and forget the ones longest unused where there are too many."""
        with self._lock:
            if key in self._values:
                self._total -= self._weight(self._values[key])
            self._values[key] = value
            self._values.move_to_end(key)
            self._total += self._weight(value)
            while self._total > self.most and len(self._values) > 1:
                self._total -= self._weight(self._values.popitem(last=False)[1])

    def made(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not kept; two threads may both make it."""
        kept = self.get(key)
        if kept is None:
            kept = make()
            self.put(key, kept)
        return kept
