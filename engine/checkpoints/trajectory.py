"""A trajectory on disk: train states and gradients as safetensors, named by a manifest.

A file counts only once the manifest names it with its size and crc32c, after it was written
under another name, synced and renamed. Training hands its states to a writer thread; they are
never changed in place, so the thread needs no copies.
"""

import errno
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from engine.contract.errors import RunError
from engine.magic.optimizer_stage import OptimizerStage
from engine.magic.schedule import Schedule, ScheduleKind, make_schedule
from engine.magic.state import Params, TrainState
from engine.records.atomic import write_atomically
from engine.records.journal import JournalWriter, read_journal
from engine.records.run_folder import MANIFEST

_WAITING = 2
"""States that may wait for the writer before training waits for it."""


class TrajectoryWriter:
    """Keeps what a schedule asks for while training goes on."""

    def __init__(
        self,
        folder: Path,
        schedule: Schedule,
        stage: OptimizerStage,
        on_kept: Callable[[str, int, int], None] = lambda kind, step, size: None,
    ) -> None:
        """Start a trajectory in ``folder``, which must hold none yet.

        ``on_kept(kind, step, bytes)`` is called once something is safely on disk.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():
            raise RunError(f"{folder} already holds a trajectory; give another folder")
        self.folder = folder
        self.schedule = schedule
        self._stage = stage
        self._on_kept = on_kept
        self._manifest = JournalWriter(folder / MANIFEST)
        self._manifest.append("schedule", kind=schedule.kind, steps=schedule.steps)
        self._queue: queue.Queue[tuple[str, int, dict[str, Tensor]] | None] = queue.Queue(_WAITING)
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
        self.close(complete=kind is None)

    def take_state(self, state: TrainState) -> None:
        """Keep s_t if the schedule does."""
        if state.step in self._kept:
            tensors = {f"params/{name}": tensor for name, tensor in state.params.items()}
            for index, tensor in enumerate(self._stage.state_tensors(state.optimizer)):
                tensors[f"optimizer/{index}"] = tensor
            self._put("state", state.step, tensors)

    def take_gradient(self, step: int, grads: Params) -> None:
        """Keep g_t if the schedule does."""
        if self.schedule.keep_gradients:
            self._put("gradient", step, grads)

    def close(self, *, complete: bool) -> None:
        """Wait for the writer; mark the trajectory complete if training came to its end."""
        if not complete:
            self._abandoned.set()
        try:
            self._queue.put(None)
            self._thread.join()
        except BaseException:
            self._abandoned.set()
            self._thread.join()
            raise
        if complete and self._error is None:
            self._manifest.append("complete")
        self._manifest.close()
        if complete:
            self._raise()

    def _put(self, kind: str, step: int, tensors: dict[str, Tensor]) -> None:
        self._raise()
        self._queue.put((kind, step, tensors))

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None or self._abandoned.is_set():
                continue
            try:
                self._write(*item)
            except BaseException as error:
                self._error = error

    def _write(self, kind: str, step: int, tensors: dict[str, Tensor]) -> None:
        data = encode({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
        name = _file_name(kind, step)
        write_atomically(self.folder / name, data)
        size, checksum = len(data), google_crc32c.value(data)
        self._manifest.append(kind, step=step, file=name, bytes=size, crc32c=f"{checksum:08x}")
        self._manifest.sync()
        self._on_kept(kind, step, size)

    def _raise(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, OSError) and self._error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"no disk space left for the trajectory in {self.folder}; free some, point "
                "--runs-dir elsewhere, or set trajectory.schedule: sqrt or log, which keep less"
            ) from self._error
        raise RunError(
            f"cannot write the trajectory in {self.folder}: {self._error}"
        ) from self._error


class TrajectoryReader:
    """Reads a complete trajectory, checking every file against the manifest."""

    def __init__(
        self, folder: Path, stage: OptimizerStage, template: Params, device: torch.device
    ) -> None:
        """Open the trajectory in ``folder`` for parameters like ``template``.

        Raises:
            RunError: if it is missing, incomplete or damaged.
        """
        self.folder = folder
        self._stage = stage
        self._template = template
        self._device = device
        self._files: dict[tuple[str, int], dict[str, Any]] = {}
        schedule, complete = None, False
        for record in read_journal(folder / MANIFEST):
            if record["event"] == "schedule":
                kind: ScheduleKind = record["kind"]
                schedule = make_schedule(kind, record["steps"])
            elif record["event"] == "complete":
                complete = True
            else:
                self._files[record["event"], record["step"]] = record
        if schedule is None or not complete:
            raise RunError(
                f"{folder} holds no complete trajectory (it was removed, or training did not "
                "finish); run the config again"
            )
        self.schedule = schedule

    def load_state(self, step: int) -> TrainState:
        """The kept s_t.

        Raises:
            RunError: if its file is missing, damaged, or of another model.
        """
        tensors = self._load("state", step)
        params = {name: tensors.pop(f"params/{name}", None) for name in self._template}
        if any(p is None or p.shape != self._template[n].shape for n, p in params.items()):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        leaves = [tensors[f"optimizer/{index}"] for index in range(len(tensors))]
        known = {name: tensor for name, tensor in params.items() if tensor is not None}
        return TrainState(step, known, self._stage.state_from_tensors(leaves, known))

    def load_gradient(self, step: int) -> Params | None:
        """The kept g_t, or None if the schedule keeps no gradients.

        Raises:
            RunError: if its file is missing or damaged.
        """
        if not self.schedule.keep_gradients:
            return None
        # Sums over parameters must go in the order of training: files keep none.
        grads = self._load("gradient", step)
        return {name: grads[name] for name in self._template}

    def _load(self, kind: str, step: int) -> dict[str, Tensor]:
        record = self._files.get((kind, step))
        path = self.folder / _file_name(kind, step)
        if record is None:
            raise RunError(f"{self.folder} does not keep the {kind} of step {step}")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
        checksum = google_crc32c.value(data)
        if len(data) != record["bytes"] or f"{checksum:08x}" != record["crc32c"]:
            raise RunError(
                f"{path} is damaged: its content is not what training wrote; restore it from a "
                "backup, or run the config again"
            )
        return {name: tensor.to(self._device) for name, tensor in decode(data).items()}


def _file_name(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}.safetensors"
