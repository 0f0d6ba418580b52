"""Writing a trajectory while training goes on, and going on with one that was interrupted.

A file counts only once the manifest names it with its size and crc32c, after it was written
under another name, synced and renamed. Training hands its states to a writer thread; they are
never changed in place, so the thread needs no copies, and training does not wait for those that
it takes from a GPU. What is safely on disk may stay in host memory as well.

What the schedule does not keep is saved from time to time under another kind, ``resume``, so that
an interrupted training need not begin again; only the latest of these stays, and none once the
trajectory is complete.
"""

import errno
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.replay.checkpointing import CheckpointingSchedule
from engine.replay.optimizer_stage import OptimizerStage
from engine.replay.replay import Observer, null_observer
from engine.replay.state import Gradient, TrainState
from engine.runs.errors import DiskFullError, RunError, StoppedError
from engine.runs.journal import JournalWriter
from engine.runs.manifest import (
    MANIFEST,
    Key,
    Manifest,
    other_stream,
    parts_of,
    read_part,
)
from engine.trajectory.device_copies import DeviceCopies
from engine.trajectory.files import stamp_of
from engine.trajectory.host_cache import HostCache, ReadPlan
from engine.trajectory.reader import gradient_tensors, state_tensors
from engine.trajectory.recovery import agree
from engine.trajectory.save_pace import SAVE_SECONDS, SavePace
from engine.trajectory.tensor_files import remove_unfinished, write_tensors

_WAITING = 2
"""States that may wait for the writer before training waits for it."""
Tensors = Callable[[], dict[str, Tensor]]
Waiting = tuple[Key, dict[str, Tensor], torch.cuda.Event | None]
"""What is to be written, and the mark behind its computing on the device."""


class TrajectoryWriter:
    """Keeps what a schedule asks for while training goes on."""

    def __init__(
        self,
        folder: Path,
        schedule: CheckpointingSchedule,
        stage: OptimizerStage,
        observer: Observer = null_observer,
        save_seconds: float = SAVE_SECONDS,
        tier: HostCache | None = None,
        stream: dict[str, str] | None = None,
    ) -> None:
        """Begin a trajectory in ``folder``, or go on with the unfinished one that is there.

        What is written stays in ``tier`` as well, as far as there is room. The observer
        receives ``checkpoint`` once something is safely on disk, and ``warning``. ``stream``
        holds the digests of what is trained on.

        Raises:
            RunError: if the folder holds a trajectory of another schedule or stream.
        """
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        self.folder = folder
        self.schedule = schedule
        self._stage = stage
        self._observer = observer
        self._pace = SavePace(save_seconds)
        self._journal = JournalWriter(folder / MANIFEST)
        self.manifest = self._begin(stream or {})
        for key in agree(self.manifest, stage.ranks):
            self.drop(key)
        self._remove_strays()
        self._copies = DeviceCopies(stage.device)
        self._tier = tier or HostCache(0)
        self._tier.foresight = ReadPlan(schedule.reads_of_pass())
        self._queue: queue.Queue[Waiting | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(
            target=self._write_all, name="trajectory-writer", daemon=True
        )
        self._thread.start()
        self._kept = {*schedule.checkpoints, schedule.steps}

    def __enter__(self) -> "TrajectoryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind is not None and issubclass(kind, StoppedError)
        self.close(complete=kind is None, flush=stopped)

    def take_state(self, state: TrainState) -> None:
        """Keep s_t if the schedule does; else save it if the last one saved is old enough."""
        if state.step in self._kept:
            self._put(("state", state.step), lambda: state_tensors(state, self._stage))
            self._pace.saved()
        elif self._stage.ranks.any(self._pace.is_due()):
            self.save(state)

    def take_gradient(self, step: int, grads: Gradient) -> None:
        """Keep g_t if the schedule does."""
        if self.schedule.keep_gradients:
            self._put(("gradient", step), lambda: gradient_tensors(grads))

    def save(self, state: TrainState) -> None:
        """Save s_t to go on from, unless what is kept anyway gives it."""
        if state.step not in self._kept and not self.schedule.keep_gradients:
            self._put(("resume", state.step), lambda: state_tensors(state, self._stage))
        self._pace.saved()

    def drop(self, key: Key) -> None:
        """Forget a file that is damaged; it will be written again."""
        self._journal.append("dropped", kind=key[0], step=key[1])
        self.manifest.take({"event": "dropped", "kind": key[0], "step": key[1]})

    def close(self, *, complete: bool, flush: bool = False) -> None:
        """Wait for the writer; mark the trajectory complete if training came to its end.

        Args:
            complete: training came to its end.
            flush: it did not, but what waits is to be written all the same.
        """
        if not complete and not flush:
            self._abandoned.set()
        try:
            self._queue.put(None)
            self._thread.join()
        except BaseException:
            self._abandoned.set()
            self._thread.join()
            raise
        try:
            if complete and self._error is None:
                self._complete()
        finally:
            self._journal.close()
        if complete or flush:
            self._raise()

    def _begin(self, stream: dict[str, str]) -> Manifest:
        manifest = read_part(self.folder)
        kind, steps = self.schedule.kind, self.schedule.steps
        if manifest is None:
            self._journal.append("schedule", kind=kind, steps=steps, stream=stream)
            self._journal.sync()
            return Manifest(kind, steps, stream=stream)
        other = other_stream(manifest.stream, stream)
        if (manifest.kind, manifest.steps) == (kind, steps) and not other:
            return manifest
        self._journal.close()
        if other:
            raise RunError(
                f"{self.folder} was begun with a stream that differs in its {other}; go on with "
                "that one, or give another folder"
            )
        raise RunError(
            f"{self.folder} already holds a trajectory of {manifest.steps} steps under the "
            f"schedule {manifest.kind}; give another folder"
        )

    def _complete(self) -> None:
        if not self.manifest.complete:
            self._journal.append("complete")
            self._journal.sync()
            self.manifest.complete = True
        self._forget_saved()

    def _put(self, key: Key, tensors: Tensors) -> None:
        self._raise()
        if key not in self.manifest.files:
            found = tensors()
            self._queue.put((key, found, self._copies.computed()))

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None or self._abandoned.is_set():
                continue
            try:
                self._write(*item)
            except BaseException as error:
                self._error = error

    def _write(
        self, key: Key, tensors: dict[str, Tensor], computed: torch.cuda.Event | None
    ) -> None:
        (kind, step), began = key, time.monotonic()
        tensors = self._copies.to_host(tensors, computed)
        facts = write_tensors(self.folder / f"{kind}-{step:08d}.safetensors", tensors)
        before = self.manifest.dropped.get(key)
        self._journal.append(kind, step=step, **facts)
        self._journal.sync()
        if kind != "gradient":
            self._forget_saved()
        self.manifest.take({"event": kind, "step": step, **facts})
        if kind != "resume":
            self._hold(key, facts, tensors)
        self._pace.took(time.monotonic() - began)
        self._observer("checkpoint", kind=kind, step=step, bytes=facts["bytes"])
        if before is not None and before["crc32c"] != facts["crc32c"]:
            self._observer(
                "warning",
                message=f"the {kind} of step {step}, made again, differs from the one that was "
                "lost: this machine does not repeat its own bits; scores carry that difference",
            )

    def _hold(self, key: Key, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Keep what was written in host memory too: copies, for s_0 and s_T are the caller's."""
        stamp, size = (stamp_of(self.folder, facts),), int(facts["bytes"])
        if self._tier.put(key, stamp, size, None):
            self._tier.put(key, stamp, size, self._copies.own(tensors))

    def _forget_saved(self) -> None:
        for key in [key for key in self.manifest.files if key[0] == "resume"]:
            file = self.manifest.files[key]["file"]
            self.drop(key)
            (self.folder / file).unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Remove what a killed writer saved and could not name, or had dropped already."""
        named = {facts["file"] for facts in self.manifest.files.values()}
        for file in self.folder.glob("resume-*.safetensors"):
            if file.name not in named:
                file.unlink(missing_ok=True)

    def _raise(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, OSError) and self._error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no disk space left for the trajectory in {self.folder}; free some, point "
                "--runs-dir elsewhere, or set trajectory.checkpointing: sqrt or log, "
                "which keep less"
            ) from self._error
        raise RunError(
            f"cannot write the trajectory in {self.folder}: {self._error}"
        ) from self._error


def forget(folder: Path, key: Key) -> None:
    """Strike damaged files from the manifests of a trajectory that nobody writes."""
    for part in parts_of(folder):
        journal = JournalWriter(part / MANIFEST)
        journal.append("dropped", kind=key[0], step=key[1])
        journal.close()
