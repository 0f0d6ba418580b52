"""Reading a trajectory: train states and gradients, every file checked against its manifest.

One rank keeps whole tensors, several keep a part each, in a folder of its own. Whoever reads
takes its own part from all of theirs, however many they were.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.tensor_files import DamagedFileError, read_tensors
from engine.contract.errors import RunError
from engine.magic.optimizer_stage import OptimizerStage
from engine.magic.schedule import Schedule, ScheduleKind, make_schedule
from engine.magic.shards import Shard
from engine.magic.state import Gradient, Params, TrainState
from engine.records.manifest import Key, Manifest, parts_of, read_manifest, read_part

_BUFFERS = "buffers/"


class DamagedStepError(DamagedFileError):
    """A file of the trajectory is damaged: ``key`` says which."""

    def __init__(self, message: str, key: Key) -> None:
        """Keep which file it is, so that it can be made again."""
        super().__init__(message)
        self.key = key


class TrajectoryReader:
    """Reads what a training kept: this rank's part of it."""

    def __init__(
        self,
        folder: Path,
        stage: OptimizerStage,
        shards: Mapping[str, Shard],
        device: torch.device,
        manifest: Manifest | None = None,
    ) -> None:
        """Open the trajectory in ``folder``.

        Args:
            folder: where it lies.
            stage: the optimizer whose states it keeps.
            shards: which part of every parameter to read.
            device: where to load to.
            manifest: what this rank has kept of an unfinished trajectory; read, and required to
                be complete, if left out.

        Raises:
            RunError: if it is missing, incomplete or damaged.
        """
        self.folder = folder
        self._stage = stage
        self._shards = shards
        self._device = device
        first = next(iter(shards.values()))
        self._index, self._count = first.index, first.count
        found = manifest or read_manifest(folder)
        if found is None or (manifest is None and not found.complete):
            raise RunError(
                f"{folder} holds no complete trajectory (it was removed, or training did not "
                "finish); run the config again"
            )
        self._found = found
        self._parts = parts_of(folder)
        # A training that goes on keeps only its own part up to date.
        self._manifests = (
            {part: read_part(path) for part, path in enumerate(self._parts)}
            if manifest is None
            else {self._index: manifest}
        )
        kind: ScheduleKind = found.kind  # type: ignore[assignment]
        self.schedule: Schedule = make_schedule(kind, found.steps)

    def load_state(self, step: int) -> TrainState:
        """The kept s_t.

        Raises:
            DamagedStepError: if its file is missing or damaged.
            RunError: if it is not kept, or belongs to another model.
        """
        return self._as_state(self._load(("state", step)), step)

    def load_saved_state(self, step: int) -> TrainState:
        """s_t from whatever holds it: the trajectory, or what was saved to go on from.

        Raises:
            DamagedStepError: if its file is missing or damaged.
        """
        kept = ("state", step) in self._found.files
        return self._as_state(self._load(("state" if kept else "resume", step)), step)

    def load_gradient(self, step: int) -> Gradient | None:
        """The kept g_t, or None if the schedule keeps no gradients.

        Raises:
            DamagedStepError: if its file is missing or damaged.
        """
        if not self.schedule.keep_gradients:
            return None
        # Sums over parameters must go in the order of training: files keep none.
        grads = self._load(("gradient", step))
        buffers = _take_buffers(grads)
        own = {name: self._shaped(name, grads.get(name)) for name in self._shards}
        return Gradient(own, buffers)

    def _as_state(self, tensors: Params, step: int) -> TrainState:
        params = {n: self._shaped(n, tensors.pop(f"params/{n}", None)) for n in self._shards}
        buffers = _take_buffers(tensors)
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
        shard = self._shards[name]
        flat = torch.Size([shard.stop - shard.start])
        expected = shard.shape if shard.count == 1 else flat
        if tensor is None or tensor.shape not in (expected, flat):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        return tensor.view(shard.shape) if shard.count == 1 else tensor

    def _load(self, key: Key) -> Params:
        """This rank's part of the tensors of a key.

        Raises:
            DamagedStepError: if a file of it is damaged, here or where another rank reads it.
        """
        if key not in self._found.files:
            raise RunError(f"{self.folder} does not keep the {key[0]} of step {key[1]}")
        error, found = "", {}
        try:
            found = self._read(key)
        except DamagedFileError as damage:
            error = str(damage)
        ranks = self._stage.ranks
        if ranks.any(bool(error)):
            raise DamagedStepError(next(filter(None, ranks.everyone(error))), key)
        return found

    def _read(self, key: Key) -> Params:
        if len(self._parts) == self._count:
            return self._read_part(self._index, key)
        found: Params = {}
        for part in range(len(self._parts)):
            for name, tensor in self._read_part(part, key).items():
                shard = self._shards.get(name.rsplit("/", 1)[-1])
                if shard is None or (tensor.ndim == 0 and name.startswith("optimizer/")):
                    found[name] = tensor
                    continue
                own = found.setdefault(name, tensor.new_empty(shard.stop - shard.start))
                self._take_over(tensor, part, own, shard)
        return found

    def _take_over(self, theirs: Tensor, part: int, own: Tensor, shard: Shard) -> None:
        """Copy what a rank of the training and this one have in common."""
        held = Shard(shard.shape, part, len(self._parts))
        flat = torch.Size([held.stop - held.start])
        if theirs.shape not in (shard.shape if held.count == 1 else flat, flat):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        start, stop = max(held.start, shard.start), min(held.stop, shard.stop)
        if start < stop:
            common = theirs.reshape(-1)[start - held.start : stop - held.start]
            own[start - shard.start : stop - shard.start] = common

    def _read_part(self, part: int, key: Key) -> Params:
        folder, manifest = self._parts[part], self._manifests[part]
        facts = None if manifest is None else manifest.files.get(key)
        if facts is None:
            raise DamagedFileError(f"{folder} does not keep the {key[0]} of step {key[1]}")
        return read_tensors(folder, facts, self._device)


def state_tensors(state: TrainState, stage: OptimizerStage) -> Params:
    """A train state as the named tensors of its file."""
    kept = stage.state_tensors(state.optimizer)
    return {
        **{f"params/{name}": tensor for name, tensor in state.params.items()},
        **{f"optimizer/{name}": tensor for name, tensor in kept.items()},
        **_named_buffers(state.buffers),
    }


def gradient_tensors(grads: Gradient) -> Params:
    """A step's gradient as the named tensors of its file."""
    return {**grads.params, **_named_buffers(grads.buffers)}


def _named_buffers(buffers: Params) -> Params:
    return {f"{_BUFFERS}{name}": tensor for name, tensor in buffers.items()}


def _take_buffers(tensors: Params) -> Params:
    """The buffers of a file, removed from its tensors."""
    names = [name for name in tensors if name.startswith(_BUFFERS)]
    return {name.removeprefix(_BUFFERS): tensors.pop(name) for name in names}
