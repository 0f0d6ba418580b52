"""Read-ahead: a thread reads what the replay needs next while the replay computes.

The thread reads the first planned file that the host cache lacks, as soon as the cache has room for
it or holds an entry with a later next use (the "aggressive" strategy of Cao, Felten, Karlin and Li,
SIGMETRICS 1995). A load blocks only on a file that is being read, and reads files itself that the
budget left out. The next cached file is copied to the device while the replay computes with the
current one.
"""

import threading
from collections.abc import Sequence

import torch

from engine.replay.state import Params
from engine.runs.manifest import Key
from engine.trajectory.device_copies import DeviceCopies, DeviceCopy
from engine.trajectory.files import TrajectoryFiles
from engine.trajectory.host_cache import HostCache, ReadPlan


class ReadAhead:
    """Loads the tensors of a trajectory from the host cache or from disk."""

    def __init__(self, files: TrajectoryFiles, cache: HostCache, device: torch.device) -> None:
        """Read ``files`` through ``cache`` to ``device``."""
        self.files = files
        self.cache = cache
        self._copies = DeviceCopies(device)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._end = 0
        """Index in the cache's read plan at which reading ahead ends."""
        self._searched = 0
        """Index up to which the cache lacks nothing."""
        self._busy: set[Key] = set()
        """Keys that are being read, by the thread or by a load."""
        self._errors: dict[Key, BaseException] = {}
        """Errors of the thread's reads, raised by the load of the key."""
        self._failure: BaseException | None = None
        """The error that ended the thread, if any."""
        self._next: tuple[Key, DeviceCopy] | None = None

    def plan(self, keys: Sequence[Key], later: Sequence[Key]) -> None:
        """Read ``keys`` ahead in this order, in place of any earlier plan.

        ``later`` may be read afterwards: it is not read ahead, but kept in the cache if held.
        """
        with self._changed:
            self.cache.read_plan = ReadPlan((*keys, *later))
            self._end, self._searched = len(keys), 0
            self._changed.notify_all()
        if self._thread is None and keys and self.cache.budget > 0:
            self._closed = False
            self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
            self._thread.start()

    def load(self, key: Key) -> Params:
        """The tensors of a key on the device. A planned load must not change them in place.

        Raises:
            DamagedFileError: if a file of it is missing or damaged.
        """
        copy = self._started_copy(key) or self._copies.to_device(self._on_host(key))
        self._start_next_copy()
        return copy.result()

    def close(self) -> None:
        """Stop reading ahead and join the thread."""
        with self._changed:
            self._closed, self._end = True, 0
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._thread, self._next, self._errors = None, None, {}

    def _started_copy(self, key: Key) -> DeviceCopy | None:
        (started, copy), self._next = self._next or (None, None), None
        if started != key:
            return None
        with self._changed:
            self._count_read(key)
        return copy

    def _start_next_copy(self) -> None:
        """Copy the next planned key to the device if it is cached."""
        with self._changed:
            plan = self.cache.read_plan
            if plan.position >= self._end:
                return
            key = plan.keys[plan.position]
            tensors = self.cache.get(key, self.files.stamp(key))
        if tensors is not None:
            self._next = key, self._copies.to_device(tensors)

    def _on_host(self, key: Key) -> Params:
        """The tensors of a key in host memory: cached, awaited or read now."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._busy)
            error = self._errors.pop(key, self._failure)
            if error is not None:
                raise error
            tensors = self.cache.get(key, self.files.stamp(key))
            planned = self._count_read(key)
            if tensors is None:
                self._busy.add(key)
        if tensors is None:
            tensors = self._read_now(key)
        if planned or self.cache.lacks(key, self.files.stamp(key)):
            return tensors
        # A replay changes nothing in place; an unplanned caller may, so it gets its own copy.
        return self._copies.unshared(tensors)

    def _read_now(self, key: Key) -> Params:
        tensors: Params | None = None
        try:
            tensors = self._read(key)
            return tensors
        finally:
            with self._changed:
                self._busy.discard(key)
                if tensors is not None:
                    self._put(key, tensors)
                self._searched = 0
                self._changed.notify_all()

    def _count_read(self, key: Key) -> bool:
        """Count one read; returns whether it was the next planned one."""
        is_ahead = self.cache.read_plan.position < self._end
        is_next = self.cache.read_plan.advance(key)
        self._changed.notify_all()
        return is_ahead and is_next

    def _read(self, key: Key) -> Params:
        return self._copies.pin(self.files.read(key))

    def _work(self) -> None:
        try:
            while (key := self._reserve_next()) is not None:
                self._read_ahead(key)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._busy.clear()
                self._changed.notify_all()

    def _read_ahead(self, key: Key) -> None:
        tensors: Params | None = None
        error: BaseException | None = None
        try:
            tensors = self._read(key)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._busy.discard(key)
            if tensors is not None:
                self._put(key, tensors)
            elif error is not None:
                self.cache.drop(key)
                self._errors[key] = error
            self._changed.notify_all()

    def _reserve_next(self) -> Key | None:
        """Reserve room for the next key to read; blocks until there is room, None once closed."""
        with self._changed:
            while not self._closed:
                key = self._first_lacking()
                if key is not None and self._put(key, None):
                    self._busy.add(key)
                    return key
                self._changed.wait()
        return None

    def _first_lacking(self) -> Key | None:
        plan = self.cache.read_plan
        for position in range(max(plan.position, self._searched), self._end):
            key = plan.keys[position]
            known = key in self._busy or key in self._errors
            if not known and self.cache.lacks(key, self.files.stamp(key)):
                self._searched = position
                return key
        self._searched = self._end
        return None

    def _put(self, key: Key, tensors: Params | None) -> bool:
        """Cache what was read, or reserve room for it (None)."""
        return self.cache.put(key, self.files.stamp(key), self.files.size(key), tensors)
