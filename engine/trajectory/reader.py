"""Reading a trajectory: train states and gradients, from the host cache or from verified files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.replay.checkpointing import (
    CheckpointingKind,
    CheckpointingSchedule,
    Read,
    checkpointing_schedule,
)
from engine.replay.optimizer_stage import OptimizerStage
from engine.replay.state import Gradient, Params, TrainState
from engine.runs.errors import RunError
from engine.runs.manifest import Key, other_stream
from engine.trajectory.files import TrajectoryFiles
from engine.trajectory.host_cache import HostCache
from engine.trajectory.read_ahead import ReadAhead
from engine.trajectory.tensor_files import DamagedFileError

_BUFFERS = "buffers/"


class DamagedStepError(DamagedFileError):
    """A file of the trajectory is damaged; ``key`` names its kind and step."""

    def __init__(self, message: str, key: Key) -> None:
        """``key`` lets the caller compute the file again."""
        super().__init__(message)
        self.key = key


class TrajectoryReader:
    """Reads one rank's part of a trajectory.

    Use it as a context manager: leaving it joins the read-ahead thread.
    """

    def __init__(
        self,
        files: TrajectoryFiles,
        stage: OptimizerStage,
        device: torch.device,
        cache: HostCache | None = None,
    ) -> None:
        """Read a trajectory.

        Args:
            files: the trajectory's files.
            stage: the optimizer whose states it holds.
            device: where to load tensors.
            cache: the host cache; by default every load reads a file.
        """
        self._files = files
        self._stage = stage
        self._ahead = ReadAhead(files, cache or HostCache(0), device)
        kind: CheckpointingKind = files.manifest.kind  # type: ignore[assignment]
        self.schedule: CheckpointingSchedule = checkpointing_schedule(kind, files.manifest.steps)

    def __enter__(self) -> "TrajectoryReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._ahead.close()

    @property
    def folder(self) -> Path:
        """The trajectory's folder."""
        return self._files.folder

    def other_stream(self, digests: dict[str, str]) -> str:
        """How a data stream with these digests differs from the training's; empty if it does not.

        For example "rows and data weights".
        """
        return other_stream(self._files.manifest.stream, digests)

    def plan_reads(self, reads: Sequence[Read]) -> None:
        """Read these files ahead, in this order, while the caller computes."""
        self._ahead.plan(reads, self.schedule.reads_of_pass())

    def load_state(self, step: int) -> TrainState:
        """The checkpointed s_t.

        Raises:
            DamagedStepError: if its file is missing or damaged.
            RunError: if the schedule does not checkpoint it, or it belongs to another model.
        """
        return self._as_state(self._load(("state", step)), step)

    def load_saved_state(self, step: int) -> TrainState:
        """s_t from the checkpoint or from the save to resume from, whichever exists.

        Raises:
            DamagedStepError: if its file is missing or damaged.
        """
        is_checkpoint = ("state", step) in self._files.manifest.files
        return self._as_state(self._load(("state" if is_checkpoint else "resume", step)), step)

    def load_gradient(self, step: int) -> Gradient | None:
        """The recorded g_t, or None if the schedule records no gradients.

        Raises:
            DamagedStepError: if its file is missing or damaged.
        """
        if not self.schedule.keep_gradients:
            return None
        # A file does not keep the order of its tensors, but sums must follow training's order.
        grads = self._load(("gradient", step))
        buffers = _pop_buffers(grads)
        own = {name: self._shaped(name, grads.get(name)) for name in self._files.shards}
        return Gradient(own, buffers)

    def _as_state(self, tensors: Params, step: int) -> TrainState:
        shards = self._files.shards
        params = {n: self._shaped(n, tensors.pop(f"params/{n}", None)) for n in shards}
        buffers = _pop_buffers(tensors)
        state = {name.removeprefix("optimizer/"): tensor for name, tensor in tensors.items()}
        try:
            optimizer = self._stage.state_from_tensors(state, params)
        except KeyError:
            raise RunError(
                f"{self.folder} was written with another optimizer, or by another version of "
                "magic; run the config again"
            ) from None
        return TrainState(step, params, optimizer, buffers)

    def _shaped(self, name: str, tensor: Tensor | None) -> Tensor:
        shard = self._files.shards[name]
        flat = torch.Size([shard.stop - shard.start])
        expected = shard.shape if shard.count == 1 else flat
        if tensor is None or tensor.shape not in (expected, flat):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        return tensor.view(shard.shape) if shard.count == 1 else tensor

    def _load(self, key: Key) -> Params:
        """This rank's part of the tensors of a key.

        Raises:
            DamagedStepError: if one of its files is damaged, on this rank or on another.
        """
        if key not in self._files.manifest.files:
            raise RunError(f"{self.folder} has no {key[0]} of step {key[1]}")
        error, tensors = "", {}
        try:
            tensors = self._ahead.load(key)
        except DamagedFileError as damage:
            error = str(damage)
        ranks = self._stage.ranks
        if ranks.any(bool(error)):
            raise DamagedStepError(next(filter(None, ranks.all_gather(error))), key)
        return tensors


def state_tensors(state: TrainState, stage: OptimizerStage) -> Params:
    """A train state as the named tensors of its file."""
    optimizer = stage.state_tensors(state.optimizer)
    return {
        **{f"params/{name}": tensor for name, tensor in state.params.items()},
        **{f"optimizer/{name}": tensor for name, tensor in optimizer.items()},
        **_named_buffers(state.buffers),
    }


def gradient_tensors(grads: Gradient) -> Params:
    """A step's gradient as the named tensors of its file."""
    return {**grads.params, **_named_buffers(grads.buffers)}


def _named_buffers(buffers: Params) -> Params:
    return {f"{_BUFFERS}{name}": tensor for name, tensor in buffers.items()}


def _pop_buffers(tensors: Params) -> Params:
    """Remove the buffers from a file's tensors and return them."""
    names = [name for name in tensors if name.startswith(_BUFFERS)]
    return {name.removeprefix(_BUFFERS): tensors.pop(name) for name in names}
