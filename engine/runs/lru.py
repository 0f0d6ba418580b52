"""A thread-safe cache of the values used last."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """Holds at most ``most`` values; the least recently used one is evicted first.

    If values differ in size, ``most`` limits the sum of their ``weight``. The value used last is
    never evicted.
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
        """The cached value of a key, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        """Store a value and evict others while the limit is exceeded."""
        with self._lock:
            if key in self._values:
                self._total -= self._weight(self._values[key])
            self._values[key] = value
            self._values.move_to_end(key)
            self._total += self._weight(value)
            while self._total > self.most and len(self._values) > 1:
                self._total -= self._weight(self._values.popitem(last=False)[1])

    def get_or_create(self, key: Key, create: Callable[[], Value]) -> Value:
        """The cached value of a key, created if missing; two threads may both create it."""
        value = self.get(key)
        if value is None:
            value = create()
            self.put(key, value)
        return value
