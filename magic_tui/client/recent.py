"""A small thread-safe store of what was used last."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the values of the keys used last, and never more than ``most`` of them."""

    def __init__(self, most: int) -> None:
        """Start empty."""
        self.most = most
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
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.most:
                self._values.popitem(last=False)

    def made(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not kept; two threads may both make it."""
        kept = self.get(key)
        if kept is None:
            kept = make()
            self.put(key, kept)
        return kept
