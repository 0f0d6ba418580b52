"""Reading a trajectory: train states and gradients, every file checked against the manifest."""

from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoints.tensor_files import DamagedFileError, read_tensors
from engine.contract.errors import RunError
from engine.magic.optimizer_stage import OptimizerStage
from engine.magic.schedule import Schedule, ScheduleKind, make_schedule
from engine.magic.state import Params, TrainState
from engine.records.manifest import Key, Manifest, read_manifest


class DamagedStepError(DamagedFileError):
    """A file of the trajectory is damaged: ``key`` says which."""

    def __init__(self, message: str, key: Key) -> None:
        """Keep which file it is, so that it can be made again."""
        super().__init__(message)
        self.key = key


class TrajectoryReader:
    """Reads what a training kept."""

    def __init__(
        self,
        folder: Path,
        stage: OptimizerStage,
        template: Params,
        device: torch.device,
        manifest: Manifest | None = None,
    ) -> None:
        """Open the trajectory in ``folder`` for parameters like ``template``.

        Args:
            folder: where it lies.
            stage: the optimizer whose states it keeps.
            template: parameters of the names and shapes it keeps.
            device: where to load to.
            manifest: what of an unfinished trajectory is there; read, and required to be
                complete, if left out.

        Raises:
            RunError: if it is missing, incomplete or damaged.
        """
        self.folder = folder
        self._stage = stage
        self._template = template
        self._device = device
        found = manifest or read_manifest(folder)
        if found is None or (manifest is None and not found.complete):
            raise RunError(
                f"{folder} holds no complete trajectory (it was removed, or training did not "
                "finish); run the config again"
            )
        self._manifest = found
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
        kept = ("state", step) in self._manifest.files
        return self._as_state(self._load(("state" if kept else "resume", step)), step)

    def load_gradient(self, step: int) -> Params | None:
        """The kept g_t, or None if the schedule keeps no gradients.

        Raises:
            DamagedStepError: if its file is missing or damaged.
        """
        if not self.schedule.keep_gradients:
            return None
        # Sums over parameters must go in the order of training: files keep none.
        grads = self._load(("gradient", step))
        return {name: grads[name] for name in self._template}

    def _as_state(self, tensors: dict[str, Tensor], step: int) -> TrainState:
        params = {name: tensors.pop(f"params/{name}", None) for name in self._template}
        if any(p is None or p.shape != self._template[n].shape for n, p in params.items()):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        leaves = [tensors[f"optimizer/{index}"] for index in range(len(tensors))]
        known = {name: tensor for name, tensor in params.items() if tensor is not None}
        return TrainState(step, known, self._stage.state_from_tensors(leaves, known))

    def _load(self, key: Key) -> dict[str, Tensor]:
        facts = self._manifest.files.get(key)
        if facts is None:
            raise RunError(f"{self.folder} does not keep the {key[0]} of step {key[1]}")
        try:
            return read_tensors(self.folder, facts, self._device)
        except DamagedFileError as error:
            raise DamagedStepError(str(error), key) from None


def state_tensors(state: TrainState, stage: OptimizerStage) -> dict[str, Tensor]:
    """A train state as the named tensors of its file."""
    tensors = {f"params/{name}": tensor for name, tensor in state.params.items()}
    for index, tensor in enumerate(stage.state_tensors(state.optimizer)):
        tensors[f"optimizer/{index}"] = tensor
    return tensors
