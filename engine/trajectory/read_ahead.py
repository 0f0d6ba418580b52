"""Reading ahead: a thread reads what a replay will ask for next while the replay computes.

The thread takes the first of the expected reads that the host tier lacks, as soon as the tier has
room for it or holds something that is needed later (the "aggressive" strategy of Cao, Felten,
Karlin and Li, SIGMETRICS 1995). Whoever asks waits only for what is being read, or reads what the
budget left out. The next thing held is on its way to the device while the one before is computed
with.
"""

import threading
from collections.abc import Sequence

import torch

from engine.replay.state import Params
from engine.runs.manifest import Key
from engine.trajectory.device_copies import Arriving, DeviceCopies
from engine.trajectory.files import TrajectoryFiles
from engine.trajectory.host_cache import HostCache, ReadPlan


class ReadAhead:
    """Gives what is kept of a trajectory, from the host tier or from the disk."""

    def __init__(self, files: TrajectoryFiles, tier: HostCache, device: torch.device) -> None:
        """Read ``files`` through ``tier`` to ``device``."""
        self.files = files
        self.tier = tier
        self._copies = DeviceCopies(device)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._end = 0
        """Place in the tier's foresight up to which to read ahead."""
        self._searched = 0
        """Place up to which nothing is lacking."""
        self._busy: set[Key] = set()
        """What is being read, by the thread or by who asked."""
        self._errors: dict[Key, BaseException] = {}
        """What the thread could not read: raised when it is asked for."""
        self._failure: BaseException | None = None
        """What ended the thread, if anything did."""
        self._next: tuple[Key, Arriving] | None = None

    def expect(self, keys: Sequence[Key], later: Sequence[Key]) -> None:
        """Read ``keys`` ahead, in their order, in place of what was expected before.

        ``later`` is what comes after them, perhaps: it is kept rather than let go.
        """
        with self._changed:
            self.tier.foresight = ReadPlan((*keys, *later))
            self._end, self._searched = len(keys), 0
            self._changed.notify_all()
        if self._thread is None and keys and self.tier.budget > 0:
            self._closed = False
            self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
            self._thread.start()

    def take(self, key: Key) -> Params:
        """The tensors of a key, on the device: the caller's own unless they were expected.

        Raises:
            DamagedFileError: if a file of it is missing or damaged.
        """
        arriving = self._begun(key) or self._copies.begin(self._on_host(key))
        self._begin_next()
        return arriving.taken()

    def close(self) -> None:
        """Stop reading ahead; returns once the thread has ended."""
        with self._changed:
            self._closed, self._end = True, 0
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._thread, self._next, self._errors = None, None, {}

    def _begun(self, key: Key) -> Arriving | None:
        (begun, arriving), self._next = self._next or (None, None), None
        if begun != key:
            return None
        with self._changed:
            self._pass(key)
        return arriving

    def _begin_next(self) -> None:
        """Start to copy what comes next to the device, if it has been read."""
        with self._changed:
            foresight = self.tier.foresight
            if foresight.place >= self._end:
                return
            key = foresight.keys[foresight.place]
            found = self.tier.get(key, self.files.stamp(key))
        if found is not None:
            self._next = key, self._copies.begin(found)

    def _on_host(self, key: Key) -> Params:
        """The tensors of a key in host memory, once they are there."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._busy)
            error = self._errors.pop(key, self._failure)
            if error is not None:
                raise error
            found = self.tier.get(key, self.files.stamp(key))
            expected = self._pass(key)
            if found is None:
                self._busy.add(key)
        if found is None:
            found = self._read_now(key)
        if expected or self.tier.lacks(key, self.files.stamp(key)):
            return found
        # A replay changes nothing in place; of others that is not known.
        return self._copies.own(found)

    def _read_now(self, key: Key) -> Params:
        found: Params | None = None
        try:
            found = self._read(key)
            return found
        finally:
            with self._changed:
                self._busy.discard(key)
                if found is not None:
                    self._hold(key, found)
                self._searched = 0
                self._changed.notify_all()

    def _pass(self, key: Key) -> bool:
        """Count one read; whether it was the one expected."""
        ahead = self.tier.foresight.place < self._end
        foreseen = self.tier.foresight.passed(key)
        self._changed.notify_all()
        return ahead and foreseen

    def _read(self, key: Key) -> Params:
        return self._copies.pinned(self.files.read(key))

    def _work(self) -> None:
        try:
            while (key := self._chosen()) is not None:
                self._read_ahead(key)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._busy.clear()
                self._changed.notify_all()

    def _read_ahead(self, key: Key) -> None:
        found: Params | None = None
        error: BaseException | None = None
        try:
            found = self._read(key)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._busy.discard(key)
            if found is not None:
                self._hold(key, found)
            elif error is not None:
                self.tier.drop(key)
                self._errors[key] = error
            self._changed.notify_all()

    def _chosen(self) -> Key | None:
        """What to read next, with room kept for it; None once it is time to end."""
        with self._changed:
            while not self._closed:
                key = self._lacking()
                if key is not None and self._hold(key, None):
                    self._busy.add(key)
                    return key
                self._changed.wait()
        return None

    def _lacking(self) -> Key | None:
        foresight = self.tier.foresight
        for place in range(max(foresight.place, self._searched), self._end):
            key = foresight.keys[place]
            known = key in self._busy or key in self._errors
            if not known and self.tier.lacks(key, self.files.stamp(key)):
                self._searched = place
                return key
        self._searched = self._end
        return None

    def _hold(self, key: Key, found: Params | None) -> bool:
        """Hold in the tier what was read, or room for it (None)."""
        return self.tier.put(key, self.files.stamp(key), self.files.size(key), found)
