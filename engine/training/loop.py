"""The loop over training steps: kept or not, from the start or from where it was interrupted."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.replay.replay import DivergedError, Observer
from engine.replay.state import Gradient, TrainState
from engine.replay.train_step import TrainStep
from engine.runs.errors import StoppedError
from engine.training.data_stream import DataStream
from engine.training.open_trajectory import Keeper
from engine.trajectory.reader import DamagedStepError, TrajectoryReader
from engine.trajectory.recovery import Remaining, remaining
from engine.trajectory.save_pace import SAVE_SECONDS


def never() -> bool:
    """Do not stop."""
    return False


@dataclass(frozen=True)
class TrainControl:
    """Whether a training goes on with what is there, when it saves and whether it is to stop."""

    should_stop: Callable[[], bool] = never
    """Asked between steps; a stop saves first and then raises :class:`StoppedError`."""
    save_seconds: float = SAVE_SECONDS
    """How much training an interruption may cost, where the schedule keeps less often."""
    resume: bool = False
    """Go on with the interrupted trajectory that is there: the same bits come out as if it had
    never been interrupted."""


class TrainingLoop:
    """Takes the steps of one training from its batches."""

    def __init__(self, step: TrainStep, stream: DataStream, observer: Observer) -> None:
        """Train with ``step`` on ``stream``; the observer hears of every step."""
        self.step = step
        self.stream = stream
        self.observer = observer

    def advance(self, state: TrainState) -> tuple[TrainState, Gradient]:
        """s_{t+1} and g_t.

        Raises:
            DivergedError: if the loss or the gradient is not finite.
        """
        began, step = time.perf_counter(), state.step
        dtype = next(iter(state.params.values())).dtype
        state, grads, report = self.step.advance(state, self.stream.batch(step, dtype))
        for what, value in (("loss", report.loss), ("gradient", report.gradient_norm)):
            if not math.isfinite(value):
                raise DivergedError(what, step)
        self.observer(
            "train_step",
            step=step,
            loss=report.loss,
            gradient_norm=report.gradient_norm,
            seconds=time.perf_counter() - began,
        )
        return state, grads


class ResumableLoop:
    """Takes the steps that a trajectory on disk lacks.

    The same bits come out wherever the training was interrupted: states are read back as they
    were written, steps whose gradient is kept are taken again by the optimizer alone, and the
    others from the same batches.
    """

    def __init__(self, steps: TrainingLoop, writer: Keeper, reader: TrajectoryReader) -> None:
        """Keep ``steps`` through ``writer``; ``reader`` reads what it has written."""
        self.steps = steps
        self.writer = writer
        self.reader = reader

    def recover(self, state: TrainState) -> tuple[TrainState, int]:
        """The state to go on from, given s_0, and the step after which nothing is lacking."""
        resumed, steps = bool(self.writer.manifest.files), self.writer.schedule.steps
        while True:
            left = remaining(self.writer.manifest, self.writer.schedule) or _nothing(steps)
            try:
                if left.is_saved:
                    state = self.reader.load_saved_state(left.start)
            except DamagedStepError as error:
                self._forget(error)
                continue
            if resumed and left.start < steps:
                self.steps.observer("resumed", phase="train", step=left.done, done=left.done)
            self.writer.take_state(state)
            return state, left.end

    def stop_if(self, should_stop: Callable[[], bool], state: TrainState) -> None:
        """Save and raise if it is time to stop."""
        if self.steps.step.ranks.any(should_stop()):
            self.writer.save(state)
            raise StoppedError(f"stopped at step {state.step}")

    def take(self, state: TrainState) -> TrainState:
        """s_{t+1}, kept as the schedule says."""
        stepped = self._apply_kept(state)
        if stepped is None:
            stepped, grads = self.steps.advance(state)
            self.writer.take_gradient(state.step, grads)
        self.writer.take_state(stepped)
        return stepped

    def _apply_kept(self, state: TrainState) -> TrainState | None:
        """s_{t+1} from the g_t on disk, or None if it is not there."""
        if ("gradient", state.step) not in self.writer.manifest.files:
            return None
        began = time.perf_counter()
        try:
            grads = self.reader.load_gradient(state.step)
        except DamagedStepError as error:
            self._forget(error)
            return None
        assert grads is not None
        stepped = self.steps.step.apply(state, grads)
        seconds = time.perf_counter() - began
        self.steps.observer("rebuild_step", step=state.step, held=[], seconds=seconds)
        return stepped

    def _forget(self, error: DamagedStepError) -> None:
        kind, step = error.key
        self.writer.drop(error.key)
        self.steps.observer(
            "warning",
            message=f"the {kind} of step {step} on disk is damaged; it is made again from what "
            "came before it",
        )


def _nothing(steps: int) -> Remaining:
    return Remaining(steps, steps, steps)


def checked(state: TrainState, step: TrainStep) -> TrainState:
    """The state that ``step`` has trained.

    Raises:
        DivergedError: if a parameter is not finite.
    """
    if not math.isfinite(step.stage.norm(state.params).item()):
        raise DivergedError("trained model", state.step)
    return state
