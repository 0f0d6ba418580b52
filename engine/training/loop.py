"""The training loop, without or with a trajectory on disk from which it resumes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.replay.replay import DivergedError, Observer
from engine.replay.state import Gradient, TrainState
from engine.replay.train_step import TrainStep
from engine.runs.errors import StoppedError
from engine.training.data_stream import DataStream
from engine.trajectory.reader import DamagedStepError, TrajectoryReader
from engine.trajectory.recovery import SAVE_SECONDS, Remaining, remaining
from engine.trajectory.writer import NullWriter, TrajectoryWriter


def never() -> bool:
    """Never stop."""
    return False


@dataclass(frozen=True)
class TrainControl:
    """How a training is interrupted and resumed.

    Example:
        Stop after an hour and resume later, with the same bits as an uninterrupted training::

            end = time.monotonic() + 3600
            control = TrainControl(should_stop=lambda: time.monotonic() > end, resume=True)
            trainer.train(state, stream, save_dir="trajectory", control=control)
    """

    should_stop: Callable[[], bool] = never
    """Called before every step. If it returns True, training saves and raises
    :class:`StoppedError`."""
    save_seconds: float = SAVE_SECONDS
    """Seconds of training that an interruption may lose, where the schedule writes less often. 0
    saves after every step."""
    resume: bool = False
    """Resume the interrupted trajectory in ``save_dir``, if there is one. The result is bit for
    bit that of an uninterrupted training."""


class TrainingLoop:
    """Advances one training step by step."""

    def __init__(self, step: TrainStep, stream: DataStream, observer: Observer) -> None:
        """Train with ``step`` on ``stream``; the observer receives ``train_step`` events."""
        self.step = step
        self.stream = stream
        self.observer = observer

    def advance(self, state: TrainState) -> tuple[TrainState, Gradient]:
        """s_{t+1} and g_t from s_t.

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
    """Advances a training whose trajectory is written to disk, computing only what is missing.

    The result does not depend on where the training was interrupted, bit for bit: states are read
    back as they were written, steps whose gradient is on disk need only the optimizer, and the
    other steps use the same batches again.
    """

    def __init__(
        self, loop: TrainingLoop, writer: TrajectoryWriter | NullWriter, reader: TrajectoryReader
    ) -> None:
        """Write the steps of ``loop`` with ``writer``; ``reader`` reads the same files."""
        self.loop = loop
        self.writer = writer
        self.reader = reader

    def resume_state(self, state: TrainState) -> tuple[TrainState, int]:
        """The state to resume from, given s_0, and the step after which nothing is missing."""
        resumed, steps = bool(self.writer.manifest.files), self.writer.schedule.steps
        nothing = Remaining(steps, steps, steps)
        while True:
            left = remaining(self.writer.manifest, self.writer.schedule) or nothing
            try:
                if left.is_saved:
                    state = self.reader.load_saved_state(left.start)
            except DamagedStepError as error:
                self._drop_damaged(error)
                continue
            if resumed and left.start < steps:
                self.loop.observer("resumed", phase="train", step=left.done, done=left.done)
            self.writer.write_state(state)
            return state, left.end

    def stop_if(self, should_stop: Callable[[], bool], state: TrainState) -> None:
        """Save ``state`` and raise :class:`StoppedError` if any rank should stop."""
        if self.loop.step.ranks.any(should_stop()):
            self.writer.save(state)
            raise StoppedError(f"stopped at step {state.step}")

    def advance(self, state: TrainState) -> TrainState:
        """s_{t+1} from s_t, writing what the schedule says."""
        next_state = self._apply_gradient_on_disk(state)
        if next_state is None:
            next_state, grads = self.loop.advance(state)
            self.writer.write_gradient(state.step, grads)
        self.writer.write_state(next_state)
        return next_state

    def _apply_gradient_on_disk(self, state: TrainState) -> TrainState | None:
        """s_{t+1} from the g_t on disk; None if there is no intact g_t."""
        if ("gradient", state.step) not in self.writer.manifest.files:
            return None
        began = time.perf_counter()
        try:
            grads = self.reader.load_gradient(state.step)
        except DamagedStepError as error:
            self._drop_damaged(error)
            return None
        assert grads is not None
        next_state = self.loop.step.apply(state, grads)
        seconds = time.perf_counter() - began
        self.loop.observer("rebuild_step", step=state.step, held=[], seconds=seconds)
        return next_state

    def _drop_damaged(self, error: DamagedStepError) -> None:
        kind, step = error.key
        self.writer.drop(error.key)
        self.loop.observer(
            "warning",
            message=f"the {kind} of step {step} on disk is damaged; it is computed again from the "
            "steps before it",
        )


def checked_final(state: TrainState, step: TrainStep) -> TrainState:
    """s_T.

    Raises:
        DivergedError: if a parameter is not finite.
    """
    if not math.isfinite(step.stage.norm(state.params).item()):
        raise DivergedError("trained model", state.step)
    return state
