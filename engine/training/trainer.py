"""Training that keeps its trajectory, and the replay that turns it into scores.

The worker of ``magic run`` and a notebook use the same class:

    trainer, state = Trainer.initialize(model, torchopt.adamw(1e-4, eps_root=1e-8))
    state = trainer.train(state, stream, save_dir="trajectory")
    scores = trainer.backward("trajectory", stream, queries)
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchopt.base import GradientTransformation

from engine.cost.training_profile import TrainingProfile
from engine.distributed.mesh import Mesh
from engine.distributed.rank_setup import free_memory
from engine.distributed.sharded_loss import ShardedLoss
from engine.models.checked_derivatives import DerivativeCheck, check_derivatives
from engine.models.layers import LayeredModuleLoss
from engine.models.module_loss import ModuleLoss, check_finite
from engine.replay.checkpointing import CheckpointingSchedule
from engine.replay.optimizer_stage import OptimizerStage
from engine.replay.ranks import SINGLE_RANK, Ranks
from engine.replay.replay import Observer, Replay, null_observer
from engine.replay.rounding import Signals, new_signals, relative_rounding
from engine.replay.state import Params, TrainState
from engine.replay.train_step import TrainStep
from engine.runs.config import CheckpointingName, Reduction
from engine.runs.errors import DerivativeError, RunError
from engine.training.data_stream import DataStream
from engine.training.loop import ResumableLoop, TrainControl, TrainingLoop, checked
from engine.training.measurements import Measurement, measurements_of
from engine.training.open_trajectory import keeper_of, settle_schedule
from engine.training.query_gradient import QueryGradient
from engine.trajectory.files import TrajectoryFiles
from engine.trajectory.host_cache import HostCache
from engine.trajectory.reader import TrajectoryReader
from engine.trajectory.replay_checkpoints import ReplayState


@dataclass(frozen=True)
class Scores:
    """∂φ/∂w for every measurement: negative is helpful, positive harmful.

    ``weights`` is (query, *shape of the stream's weights), ``steps`` (query, step) holds the sum
    over each step, ``measurements`` (query,) the φ themselves at the end of training,
    ``rounding`` (query,) an estimate of the scores' relative error, at most 1.
    """

    weights: Tensor
    steps: Tensor
    measurements: Tensor
    rounding: Tensor


class Trainer:
    """Trains one torch module with one torchopt optimizer, and replays what it trained."""

    def __init__(self, loss: ModuleLoss, step: TrainStep, template: Params) -> None:
        """Use :meth:`initialize` instead."""
        self.loss = loss
        self.step = step
        first = next(iter(template.values()))
        self.dtype, self.device = first.dtype, first.device
        self.ranks = step.ranks
        self._shards = loss.shards()
        self.tier = HostCache()
        """What of a trajectory stays in host memory between training and replay."""
        self.derivative: DerivativeCheck | None = None
        """How far the model's derivatives are from finite differences, once that was measured."""
        self.checks_derivatives = True
        """Whether :meth:`train` measures it before its first step; it then need not again."""
        self._forced: Sequence[str] = ()

    @classmethod
    def initialize(
        cls,
        model: nn.Module,
        optimizer: GradientTransformation,
        *,
        micro_batch_size: int | None = None,
        max_grad_norm: float | None = None,
        elementwise: bool = False,
        dropout_seed: int | None = None,
        mesh: Mesh | None = None,
        activation_checkpointing: Sequence[nn.Module] = (),
        force: Sequence[Literal["derivative"]] = (),
    ) -> tuple["Trainer", TrainState]:
        """A trainer and the train state s_0 at the model's present parameters.

        Args:
            model: any module that :class:`~engine.models.module_loss.ModuleLoss` accepts, in the
                mode it is to be trained in; it is not changed.
            optimizer: a torchopt chain.
            micro_batch_size: rows differentiated at a time.
            max_grad_norm: clip by global norm, inside the differentiated step.
            elementwise: the optimizer treats every element alone, as Adam(W) and SGD do; lets
                it run in cache-sized pieces.
            dropout_seed: if the model draws random numbers, the seed that makes them a function
                of the step.
            mesh: the ranks that share the training; their optimizer has to be elementwise. The
                model is then left empty, its parameters divided among them.
            activation_checkpointing: layers whose activations are recomputed, not kept, so
                that a micro-batch takes the memory of one layer; not with ``dropout_seed``.
            force: ``["derivative"]`` trains a model whose derivatives are wrong, after a warning.

        Raises:
            ModelError: if the model cannot be trained exactly as it is.
        """
        ranks: Ranks = mesh or SINGLE_RANK
        loss = ModuleLoss(model, dropout_seed)
        check_finite(model, type(model).__name__)
        buffers = loss.buffers()
        if buffers and (micro_batch_size is not None or ranks.count > 1):
            raise ValueError(
                f"{type(model).__name__} trains batch norm, whose statistics are those of a whole "
                "batch: leave out micro_batch_size, and train on one rank"
            )
        if mesh is not None and mesh.shard_group.count > 1:
            if not elementwise:
                raise ValueError("an optimizer that is not elementwise cannot be divided")
            loss = ShardedLoss(model, mesh.shard_group, mesh.device, dropout_seed)
        params = loss.parameters()
        if not params:
            raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
        stage = OptimizerStage(
            optimizer, params, elementwise=elementwise, max_grad_norm=max_grad_norm, ranks=ranks
        )
        if activation_checkpointing and (buffers or dropout_seed is not None):
            raise ValueError(
                "layers that draw random numbers or change buffers cannot be computed again"
            )
        layers = activation_checkpointing
        cut = LayeredModuleLoss(loss, layers) if layers else loss
        trainer = cls(loss, TrainStep(cut, stage, micro_batch_size, ranks), params)
        trainer._forced = force
        return trainer, trainer.step.start(params, buffers)

    @property
    def measuring(self) -> QueryGradient:
        """Measures φ on train states."""
        return QueryGradient(self.loss, self.step)

    def of_micro_batch(self, rows: int) -> "Trainer":
        """The same trainer with so many rows of a rank differentiated at a time."""
        other = copy(self)
        other.step = copy(self.step)
        other.step.micro_batch_size = rows
        return other

    def train(
        self,
        state: TrainState,
        stream: DataStream,
        *,
        save_dir: Path | str | None = None,
        schedule: CheckpointingSchedule | CheckpointingName = "auto",
        observer: Observer = null_observer,
        control: TrainControl | None = None,
    ) -> TrainState:
        """Train through the whole stream; returns s_T.

        Before the first step of a trainer the model's derivatives are compared with finite
        differences; of a model divided among ranks they are not.

        Args:
            state: s_0.
            stream: the batches.
            save_dir: where to keep the trajectory; it is not kept if left out.
            schedule: what to keep of it; a name is planned first, and refused if it won't fit.
            observer: receives ``planned``, ``resumed``, ``train_step``, ``rebuild_step``,
                ``checkpoint`` and ``warning``.
            control: whether to go on with what is there, when to save and when to stop.

        Raises:
            DerivativeError: if scores would not be the derivatives of this training.
            DivergedError: if the loss or the gradient stops being finite.
            RunError: if the trajectory cannot be written, or the folder holds one already.
            StoppedError: if ``control`` says so, after saving.
        """
        self._check_derivatives(stream, observer)
        control = control or TrainControl()
        steps = TrainingLoop(self.step, stream, observer)
        # Bound to the same name throughout, so that s_t is freed once s_{t+1} is there.
        if save_dir is None:
            for _ in range(len(stream)):
                state, _ = steps.advance(state)
            return checked(state, self.step)
        folder = Path(save_dir)
        training = TrainingProfile(self.step, state, stream)
        schedule = settle_schedule(training, folder, schedule, observer, control.resume)
        seconds = control.save_seconds
        with keeper_of(training, folder, schedule, observer, seconds, self.tier) as writer:
            files = TrajectoryFiles(folder, self._shards, writer.manifest)
            reader = TrajectoryReader(files, self.step.stage, self.device)
            kept = ResumableLoop(steps, writer, reader)
            state, end = kept.recover(state)
            while state.step < end:
                kept.stop_if(control.should_stop, state)
                state = kept.take(state)
            if state.step < len(stream):
                state = reader.load_state(len(stream))
            checked(state, self.step)
        self.ranks.barrier()
        return state

    def _check_derivatives(self, stream: DataStream, observer: Observer) -> None:
        if not self.checks_derivatives or isinstance(self.loss, ShardedLoss):
            return
        batch = next(stream.batch(0, self.dtype).split(self.step.micro_batch_size))
        cut = self.step.loss
        layers = cut.layers if isinstance(cut, LayeredModuleLoss) else ()
        self.derivative = check_derivatives(self.loss, batch, free_memory(self.device), layers)
        if not self.derivative.passed:
            if "derivative" not in self._forced:
                name = type(self.loss.module).__name__
                raise DerivativeError(
                    self.derivative.refusal(name, 'Trainer.initialize(force=["derivative"])')
                )
            observer("warning", message=self.derivative.warning())
        self.checks_derivatives = False

    def backward(
        self,
        save_dir: Path | str,
        stream: DataStream,
        queries: DataStream | Sequence[Measurement],
        *,
        reduction: Reduction = "none",
        queries_per_pass: int | None = None,
        observer: Observer = null_observer,
    ) -> Scores:
        """Replay a kept trajectory: the derivative of every measurement in every data weight.

        Args:
            save_dir: the trajectory.
            stream: the stream it was trained on.
            queries: rows to measure the mean loss of, or measurements.
            reduction: for a stream: ``none``, one measurement a row; ``mean`` or ``sum``, one
                for all rows.
            queries_per_pass: measurements that share one replay, over all groups of ranks; all if
                left out.
            observer: receives the facts of :class:`~engine.replay.replay.Replay`.

        Raises:
            DivergedError: if a cotangent stops being finite.
            RunError: if the trajectory is missing or damaged.
        """
        measurements = (
            measurements_of(queries, reduction, self.dtype)
            if isinstance(queries, DataStream)
            else queries
        )
        scores = stream.new_scores(len(measurements), self.dtype)
        steps = torch.zeros(len(measurements), len(stream), dtype=torch.float64)
        values = torch.zeros(len(measurements), dtype=torch.float64)
        signals = new_signals(len(measurements), len(stream))
        size = queries_per_pass or max(1, len(measurements))
        for first in range(0, len(measurements), size):
            chosen = range(first, min(first + size, len(measurements)))
            own = chosen[self.ranks.replica_index :: self.ranks.replicas]
            with self.open(save_dir) as reader:
                state = self.begin_replay(reader, stream, [measurements[query] for query in own])
                self.replay(reader, stream, state, observer=observer)
            found = (own, state.scores, state.steps, state.measurements, state.signals)
            for places, *of_group in self.ranks.all_gather(found):
                into = list(places)
                scores[into], steps[into], values[into], signals[into] = of_group
        return Scores(scores, steps, values, relative_rounding(signals, self.dtype, values))

    def begin_replay(
        self,
        reader: TrajectoryReader,
        stream: DataStream,
        measurements: Sequence[Measurement],
    ) -> ReplayState:
        """The measurements at s_T and their cotangents there, ready to be replayed together.

        Args:
            reader: the trajectory.
            stream: the stream it was trained on.
            measurements: the φ.

        Raises:
            DivergedError: if a measurement is not finite.
            RunError: if the stream is not the one that was trained on.
        """
        steps = reader.schedule.steps
        if steps != len(stream):
            raise RunError(
                f"{reader.folder} was trained for {steps} steps, but the stream has "
                f"{len(stream)}; give the stream it was trained on"
            )
        other = reader.other_stream(stream.digests())
        if other:
            raise RunError(
                f"{reader.folder} was trained on a stream that differs in its {other}; give the "
                "stream it was trained on"
            )
        # Measured with the first files of the replay on their way.
        reader.expect(reader.schedule.reads_of_pass())
        final = reader.load_state(steps)
        measured = [self.measuring.cotangent(final, each) for each in measurements]
        return ReplayState(
            steps,
            [cotangent for _, cotangent in measured],
            stream.new_scores(len(measured), self.dtype),
            torch.zeros(len(measured), steps, dtype=torch.float64),
            torch.tensor([value for value, _ in measured], dtype=torch.float64),
            new_signals(len(measured), steps),
        )

    def replay(
        self,
        reader: TrajectoryReader,
        stream: DataStream,
        state: ReplayState,
        *,
        observer: Observer = null_observer,
        after_step: Callable[[ReplayState], None] = lambda state: None,
    ) -> None:
        """Carry a replay from where it stands to s_0, in place.

        Args:
            reader: the trajectory.
            stream: the stream it was trained on.
            state: cotangents and scores so far.
            observer: receives the facts of :class:`~engine.replay.replay.Replay`.
            after_step: called between steps; may save the state, and may raise to stop.

        Raises:
            DivergedError: if a cotangent stops being finite.
            RunError: if the trajectory is damaged.
        """

        def take(step: int, pulled: Tensor) -> None:
            stream.collect(state.scores, step, pulled)
            state.steps[:, step] = pulled.flatten(1).double().sum(1).cpu()
            state.step = step
            after_step(state)

        replay = Replay(
            self.step,
            reader,
            lambda step: stream.batch(step, self.dtype),
            reader.schedule,
            observer,
            Signals(state.signals, self.ranks.shard_group),
        )
        with reader:
            replay.run(state.cotangents, take, state.step)

    def open(self, save_dir: Path | str) -> TrajectoryReader:
        """A kept trajectory of this trainer's model; to be closed once it is replayed."""
        files = TrajectoryFiles(Path(save_dir), self._shards)
        return TrajectoryReader(files, self.step.stage, self.device, self.tier)
