"""Writing a trajectory while training runs, and resuming an interrupted one.

A file counts only once the manifest names it with its size and crc32c, after it was written under
a temporary name, synced and renamed. Training passes its states to a writer thread. States are
never changed in place, so the thread needs no copies, and training does not block on copies from a
GPU. Files on disk also stay in the host cache.

States that the schedule does not checkpoint are saved from time to time under the kind ``resume``,
so that an interrupted training does not start over. Only the latest of these saves is kept, and
none once the trajectory is complete.
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
from engine.replay.ranks import Ranks
from engine.replay.replay import Observer, null_observer
from engine.replay.state import Gradient, TrainState
from engine.runs.errors import DiskFullError, RunError, StoppedError
from engine.runs.journal import JournalWriter
from engine.runs.manifest import (
    MANIFEST,
    Key,
    Manifest,
    other_stream,
    part_folder,
    parts_of,
    read_part,
)
from engine.trajectory.device_copies import DeviceCopies
from engine.trajectory.files import stamp_of
from engine.trajectory.host_cache import HostCache, ReadPlan
from engine.trajectory.reader import gradient_tensors, state_tensors
from engine.trajectory.recovery import SAVE_SECONDS, SaveTimer, missing_elsewhere
from engine.trajectory.tensor_files import remove_unfinished, write_tensors

_QUEUE_LENGTH = 2
"""Files that may be queued before training blocks on the writer."""
QueuedFile = tuple[Key, dict[str, Tensor], torch.cuda.Event | None]
"""A key, its tensors, and the event after which the device has computed them."""


class TrajectoryWriter:
    """Writes the checkpoints and gradients of a schedule while training runs."""

    def __init__(
        self,
        folder: Path,
        schedule: CheckpointingSchedule,
        stage: OptimizerStage,
        observer: Observer = null_observer,
        save_seconds: float = SAVE_SECONDS,
        cache: HostCache | None = None,
        stream: dict[str, str] | None = None,
    ) -> None:
        """Begin a trajectory in ``folder``, or resume the unfinished one that is there.

        Args:
            folder: this rank's part of the trajectory.
            schedule: which states and gradients to write.
            stage: the optimizer whose states are written.
            observer: receives ``checkpoint`` for every durable file, and ``warning``.
            save_seconds: seconds of training that an interruption may lose.
            cache: the host cache, which also holds what is written, as far as it has room.
            stream: digests of the data stream.

        Raises:
            RunError: if the folder holds a trajectory of another schedule or data stream.
        """
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        self.folder = folder
        self.schedule = schedule
        self._stage = stage
        self._observer = observer
        self._timer = SaveTimer(save_seconds)
        self._journal = JournalWriter(folder / MANIFEST)
        self.manifest = self._begin(stream or {})
        for key in missing_elsewhere(self.manifest, stage.ranks):
            self.drop(key)
        self._remove_unnamed_saves()
        self._copies = DeviceCopies(stage.device)
        self._cache = cache or HostCache(0)
        self._cache.read_plan = ReadPlan(schedule.reads_of_pass())
        self._queue: queue.Queue[QueuedFile | None] = queue.Queue(_QUEUE_LENGTH)
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(
            target=self._write_all, name="trajectory-writer", daemon=True
        )
        self._thread.start()
        self._checkpoints = {*schedule.checkpoints, schedule.steps}

    def __enter__(self) -> "TrajectoryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind is not None and issubclass(kind, StoppedError)
        self.close(complete=kind is None, flush=stopped)

    def write_state(self, state: TrainState) -> None:
        """Write s_t if the schedule checkpoints it; otherwise save it if a save is due."""
        if state.step in self._checkpoints:
            self._put(("state", state.step), lambda: state_tensors(state, self._stage))
            self._timer.restart()
        elif self._stage.ranks.any(self._timer.is_due()):
            self.save(state)

    def write_gradient(self, step: int, grads: Gradient) -> None:
        """Write g_t if the schedule records gradients."""
        if self.schedule.keep_gradients:
            self._put(("gradient", step), lambda: gradient_tensors(grads))

    def save(self, state: TrainState) -> None:
        """Save s_t to resume from, unless it follows from what the schedule writes."""
        if state.step not in self._checkpoints and not self.schedule.keep_gradients:
            self._put(("resume", state.step), lambda: state_tensors(state, self._stage))
        self._timer.restart()

    def drop(self, key: Key) -> None:
        """Remove a damaged file from the manifest, so that it is written again."""
        self._journal.append("dropped", kind=key[0], step=key[1])
        self.manifest.apply({"event": "dropped", "kind": key[0], "step": key[1]})

    def close(self, *, complete: bool, flush: bool = False) -> None:
        """Join the writer thread; mark the trajectory complete if training finished.

        Args:
            complete: training finished.
            flush: training did not finish, but write what is queued.
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
            self._raise_error()

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
                f"{self.folder} was started with a stream that differs in its {other}; resume with "
                "that stream, or give another folder"
            )
        raise RunError(
            f"{self.folder} already holds a trajectory of {manifest.steps} steps with "
            f"checkpointing {manifest.kind}; give another folder"
        )

    def _complete(self) -> None:
        if not self.manifest.complete:
            self._journal.append("complete")
            self._journal.sync()
            self.manifest.complete = True
        self._remove_saves()

    def _put(self, key: Key, tensors: Callable[[], dict[str, Tensor]]) -> None:
        self._raise_error()
        if key not in self.manifest.files:
            file = key, tensors(), self._copies.record_event()
            self._queue.put(file)

    def _write_all(self) -> None:
        while (file := self._queue.get()) is not None:
            if self._error is not None or self._abandoned.is_set():
                continue
            try:
                self._write(*file)
            except BaseException as error:
                self._error = error

    def _write(
        self, key: Key, tensors: dict[str, Tensor], computed: torch.cuda.Event | None
    ) -> None:
        (kind, step), began = key, time.monotonic()
        tensors = self._copies.to_host(tensors, computed)
        record = write_tensors(self.folder / f"{kind}-{step:08d}.safetensors", tensors)
        before = self.manifest.dropped.get(key)
        self._journal.append(kind, step=step, **record)
        self._journal.sync()
        if kind != "gradient":
            self._remove_saves()
        self.manifest.apply({"event": kind, "step": step, **record})
        if kind != "resume":
            self._cache_file(key, record, tensors)
        self._timer.record(time.monotonic() - began)
        self._observer("checkpoint", kind=kind, step=step, bytes=record["bytes"])
        if before is not None and before["crc32c"] != record["crc32c"]:
            self._observer(
                "warning",
                message=f"the {kind} of step {step} was damaged and computed again, and the new "
                "bits differ: this machine does not reproduce its own results; scores include "
                "that difference",
            )

    def _cache_file(self, key: Key, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Cache what was written, as copies: the caller may change s_0 and s_T."""
        stamp, size = (stamp_of(self.folder, record),), int(record["bytes"])
        if self._cache.put(key, stamp, size, None):
            self._cache.put(key, stamp, size, self._copies.unshared(tensors))

    def _remove_saves(self) -> None:
        for key in [key for key in self.manifest.files if key[0] == "resume"]:
            file = self.manifest.files[key]["file"]
            self.drop(key)
            (self.folder / file).unlink(missing_ok=True)

    def _remove_unnamed_saves(self) -> None:
        """Remove saves that a killed writer had not named yet, or had already dropped."""
        named = {record["file"] for record in self.manifest.files.values()}
        for file in self.folder.glob("resume-*.safetensors"):
            if file.name not in named:
                file.unlink(missing_ok=True)

    def _raise_error(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, OSError) and self._error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no disk space left for the trajectory in {self.folder}; free some, point "
                "--runs-dir elsewhere, or set trajectory.checkpointing: sqrt or log, "
                "which write less"
            ) from self._error
        raise RunError(
            f"cannot write the trajectory in {self.folder}: {self._error}"
        ) from self._error


class NullWriter:
    """Writes nothing: the first replica group writes the same shards.

    It takes part in the collective decisions of :class:`TrajectoryWriter`.
    """

    def __init__(self, folder: Path, schedule: CheckpointingSchedule, ranks: Ranks) -> None:
        """Follow the part of a trajectory in ``folder``."""
        self.schedule = schedule
        self.manifest = read_part(folder) or Manifest(schedule.kind, schedule.steps)
        self._ranks = ranks
        self._checkpoints = {*schedule.checkpoints, schedule.steps}
        for key in missing_elsewhere(self.manifest, ranks):
            self.drop(key)

    def __enter__(self) -> "NullWriter":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write_state(self, state: TrainState) -> None:
        """Take part in the decision whether to save."""
        if state.step not in self._checkpoints:
            self._ranks.any(False)

    def write_gradient(self, step: int, grads: Gradient) -> None:
        """Write nothing."""

    def save(self, state: TrainState) -> None:
        """Write nothing."""

    def drop(self, key: Key) -> None:
        """Remove a damaged file from the manifest."""
        self.manifest.apply({"event": "dropped", "kind": key[0], "step": key[1]})


def open_writer(
    folder: Path,
    schedule: CheckpointingSchedule,
    stage: OptimizerStage,
    digests: Callable[[], dict[str, str]],
    *,
    observer: Observer = null_observer,
    save_seconds: float = SAVE_SECONDS,
    cache: HostCache | None = None,
) -> TrajectoryWriter | NullWriter:
    """Open the writer of this rank's part of a trajectory.

    The first replica group writes; the others get a :class:`NullWriter`.

    Args:
        folder: the whole trajectory's folder.
        schedule: which states and gradients to write.
        stage: the optimizer, which has the ranks.
        digests: computes the digests of the data stream; called only where they are written.
        observer: see :class:`TrajectoryWriter`.
        save_seconds: see :class:`TrajectoryWriter`.
        cache: see :class:`TrajectoryWriter`.

    Raises:
        RunError: if the folder holds a trajectory of another number of ranks, schedule or stream.
    """
    ranks, group = stage.ranks, stage.ranks.shard_group
    parts, part = parts_of(folder), part_folder(folder, group.index, group.count)
    if part not in parts and any(read_part(other) is not None for other in parts):
        raise RunError(
            f"{folder} was started with the model divided among {len(parts)} ranks; resume with as "
            "many ranks"
        )
    if ranks.replica_index == 0:
        return TrajectoryWriter(part, schedule, stage, observer, save_seconds, cache, digests())
    return NullWriter(part, schedule, ranks)


def drop_damaged(folder: Path, key: Key) -> None:
    """Remove a damaged file from the manifests of a trajectory that has no open writer."""
    for part in parts_of(folder):
        journal = JournalWriter(part / MANIFEST)
        journal.append("dropped", kind=key[0], step=key[1])
        journal.close()
