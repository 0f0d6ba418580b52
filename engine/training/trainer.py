"""Training that records its trajectory, and the replay that turns it into scores.

``magic run`` and a notebook use the same class:

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
from engine.training.checkpointing import plan_checkpointing
from engine.training.data_stream import DataStream
from engine.training.loop import ResumableLoop, TrainControl, TrainingLoop, checked_final
from engine.training.query_loss import QueryLoss, QueryLossEvaluator, query_losses_of
from engine.trajectory.files import TrajectoryFiles
from engine.trajectory.host_cache import HostCache
from engine.trajectory.reader import TrajectoryReader
from engine.trajectory.replay_checkpoints import ReplayState
from engine.trajectory.writer import open_writer


@dataclass(frozen=True)
class Scores:
    """Influence scores: ∂φ/∂w, the derivative of every query loss in every data weight.

    Raising a weight with a negative score lowers the query's loss: the data is helpful. A positive
    score is harmful.
    """

    weights: Tensor
    """(query, *weights), CPU: ∂φ/∂w; the trailing shape is that of ``stream.weights``. float64
    for document weights, the training's dtype for token weights."""
    steps: Tensor
    """(query, step), float64: the sum of each training step's scores."""
    query_losses: Tensor
    """(query,), float64: φ at the end of training."""
    rounding: Tensor
    """(query,): estimated relative rounding error of the scores, at most 1."""


class Trainer:
    """Trains a torch module with a torchopt optimizer and differentiates through the training.

    Create one with :meth:`initialize`, train with :meth:`train`, and compute influence scores with
    :meth:`backward`.

    Example:
        Which training documents affect the loss on ``validation``? ::

            stream = DataStream(dataset, batch_size=8, weight_shape=(documents,))
            optimizer = torchopt.adamw(1e-4, eps_root=1e-8)
            trainer, state = Trainer.initialize(model, optimizer)
            trainer.train(state, stream, save_dir="trajectory")
            scores = trainer.backward(
                "trajectory", stream, DataStream(validation, 1), reduction="mean"
            )
            most_helpful = scores.weights[0].argsort()[:10]
    """

    def __init__(self, loss: ModuleLoss, step: TrainStep, template: Params) -> None:
        """Use :meth:`initialize` instead."""
        self.loss = loss
        self.step = step
        first = next(iter(template.values()))
        self.dtype, self.device = first.dtype, first.device
        self.ranks = step.ranks
        self._shards = loss.shards()
        self.host_cache = HostCache()
        """States and gradients that stay in host memory between training and replay."""
        self.derivative: DerivativeCheck | None = None
        """The model's derivatives compared with finite differences; None before the check."""
        self.checks_derivatives = True
        """Whether :meth:`train` runs that check before its first step. It runs once."""
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
        """Create a trainer, and the initial train state s_0 at the model's current parameters.

        Args:
            model: a module that returns a loss for every data weight of a batch, such as
                :class:`~engine.models.causal_lm_loss.CausalLMLoss`; see
                :class:`~engine.models.module_loss.ModuleLoss` for what is accepted. It trains in
                its current mode (``train()`` or ``eval()``) and is not modified.
            optimizer: a torchopt chain. Adam and AdamW need ``eps_root > 0``; otherwise the
                derivative of their square root is infinite where a gradient is zero.
            micro_batch_size: rows differentiated at a time; None differentiates whole batches.
                Smaller micro-batches take less memory. Scores change only by rounding.
            max_grad_norm: clip the gradient to this global 2-norm. Scores include the derivative
                of the clipping.
            elementwise: whether the optimizer updates every parameter element independently, as
                Adam(W) and SGD do. It then runs in cache-sized pieces; ``mesh`` requires it.
            dropout_seed: for a model that draws random numbers: the seed that makes them a
                function of the step, so that replay draws the same ones.
            mesh: ranks that share the training. The model's parameters are divided among the
                ranks of a shard group, and ``model`` itself is left without parameters.
            activation_checkpointing: layers whose activations are recomputed during
                differentiation, so that a micro-batch takes the memory of one layer. Not
                available with ``dropout_seed`` or batch norm.
            force: ``["derivative"]`` trains a model that fails the derivative check of
                :meth:`train`, after a warning.

        Returns:
            The trainer and s_0.

        Raises:
            ModelError: if the model cannot be differentiated exactly.
            ValueError: if the arguments contradict each other, or no parameter requires a gradient.

        Example:
            >>> optimizer = torchopt.adam(1e-3, eps_root=1e-8)
            >>> trainer, state = Trainer.initialize(CausalLMLoss(model), optimizer)
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
                raise ValueError(
                    "mesh: only an elementwise optimizer can be divided among ranks; pass "
                    "elementwise=True if it is one"
                )
            loss = ShardedLoss(model, mesh.shard_group, mesh.device, dropout_seed)
        params = loss.parameters()
        if not params:
            raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
        stage = OptimizerStage(
            optimizer, params, elementwise=elementwise, max_grad_norm=max_grad_norm, ranks=ranks
        )
        if activation_checkpointing and (buffers or dropout_seed is not None):
            raise ValueError(
                "activation_checkpointing: layers that draw random numbers or change buffers "
                "cannot be recomputed; leave it out"
            )
        layers = activation_checkpointing
        cut = LayeredModuleLoss(loss, layers) if layers else loss
        trainer = cls(loss, TrainStep(cut, stage, micro_batch_size, ranks), params)
        trainer._forced = force
        return trainer, trainer.step.start(params, buffers)

    @property
    def evaluator(self) -> QueryLossEvaluator:
        """Evaluates query losses φ and their gradients at a train state."""
        return QueryLossEvaluator(self.loss, self.step)

    def with_micro_batch(self, rows: int) -> "Trainer":
        """A copy of this trainer with ``micro_batch_size=rows``, in rows of one rank."""
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
        checkpointing: CheckpointingSchedule | CheckpointingName = "auto",
        observer: Observer = null_observer,
        control: TrainControl | None = None,
    ) -> TrainState:
        """Train on the whole stream.

        Before a trainer's first step, the model's derivatives are compared with finite differences
        on the first micro-batch (not for a model that is divided among ranks).

        Args:
            state: s_0 from :meth:`initialize`.
            stream: the batches, in order; one step a batch.
            save_dir: folder for the trajectory, which :meth:`backward` needs; created if missing.
                None writes nothing.
            checkpointing: which train states and gradients to write: ``"all"``, ``"gradients"``,
                ``"sqrt"``, ``"log"``, or ``"auto"``, which measures a few steps and the disk and
                chooses the cheapest that fits; see :mod:`engine.replay.checkpointing`. Scores do
                not depend on it, bit for bit.
            observer: called with an event's name and its facts: ``planned``, ``resumed``,
                ``train_step``, ``rebuild_step``, ``checkpoint`` and ``warning``.
            control: when to stop and save, and whether to resume the trajectory in ``save_dir``.

        Returns:
            s_T, the train state after the last step.

        Raises:
            DerivativeError: if the derivative check fails: scores would not be the derivatives of
                this training.
            DivergedError: if a loss, a gradient or a trained parameter is not finite.
            RunError: if the trajectory cannot be written or does not fit on the disk or in memory,
                or if ``save_dir`` already holds one and ``control`` does not resume it.
            StoppedError: if ``control.should_stop`` returned True; the training is saved first.

        Example:
            >>> state = trainer.train(
            ...     state, stream, save_dir="trajectory", control=TrainControl(resume=True)
            ... )
        """
        self._check_derivatives(stream, observer)
        control = control or TrainControl()
        loop = TrainingLoop(self.step, stream, observer)
        # ``state`` is rebound in every step, so that s_t is freed once s_{t+1} exists.
        if save_dir is None:
            for _ in range(len(stream)):
                state, _ = loop.advance(state)
            return checked_final(state, self.step)
        folder = Path(save_dir)
        schedule = plan_checkpointing(
            TrainingProfile(self.step, state, stream),
            folder,
            checkpointing,
            observer,
            control.resume,
        )
        with open_writer(
            folder,
            schedule,
            self.step.stage,
            stream.digests,
            observer=observer,
            save_seconds=control.save_seconds,
            cache=self.host_cache,
        ) as writer:
            files = TrajectoryFiles(folder, self._shards, writer.manifest)
            reader = TrajectoryReader(files, self.step.stage, self.device)
            resumable = ResumableLoop(loop, writer, reader)
            state, end = resumable.resume_state(state)
            while state.step < end:
                resumable.stop_if(control.should_stop, state)
                state = resumable.advance(state)
            if state.step < len(stream):
                state = reader.load_state(len(stream))
            checked_final(state, self.step)
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
        queries: DataStream | Sequence[QueryLoss],
        *,
        reduction: Reduction = "none",
        queries_per_pass: int | None = None,
        observer: Observer = null_observer,
    ) -> Scores:
        """Replay a trajectory backward: the scores ∂φ/∂w of every query loss φ.

        Args:
            save_dir: the trajectory that :meth:`train` wrote.
            stream: the stream it was trained on, with the same rows, order and data weights.
            queries: a stream of query rows, or query losses
                (:data:`~engine.training.query_loss.QueryLoss`).
            reduction: for a stream: ``"none"`` scores every row's mean loss, ``"mean"`` or
                ``"sum"`` one loss of all rows.
            queries_per_pass: queries that share one replay, over all replica groups; None replays
                all at once. Each needs memory for a cotangent as large as a train state and for
                its scores. More passes take longer.
            observer: receives the events of :class:`~engine.replay.replay.Replay`.

        Returns:
            The scores, one row a query.

        Raises:
            DivergedError: if a query loss or a cotangent is not finite.
            RunError: if the trajectory is missing or damaged, or belongs to another stream.

        Example:
            >>> scores = trainer.backward("trajectory", stream, queries, queries_per_pass=4)
            >>> scores.weights.shape  # (queries, documents)
        """
        losses = (
            query_losses_of(queries, reduction, self.dtype)
            if isinstance(queries, DataStream)
            else queries
        )
        scores = stream.new_scores(len(losses), self.dtype)
        steps = torch.zeros(len(losses), len(stream), dtype=torch.float64)
        values = torch.zeros(len(losses), dtype=torch.float64)
        signals = new_signals(len(losses), len(stream))
        size = queries_per_pass or max(1, len(losses))
        for first in range(0, len(losses), size):
            pass_queries = range(first, min(first + size, len(losses)))
            own = pass_queries[self.ranks.replica_index :: self.ranks.replicas]
            with self.open(save_dir) as reader:
                state = self.begin_replay(reader, stream, [losses[query] for query in own])
                self.replay(reader, stream, state, observer=observer)
            results = (own, state.scores, state.steps, state.query_losses, state.signals)
            for indices, *of_group in self.ranks.all_gather(results):
                into = list(indices)
                scores[into], steps[into], values[into], signals[into] = of_group
        return Scores(scores, steps, values, relative_rounding(signals, self.dtype, values))

    def begin_replay(
        self,
        reader: TrajectoryReader,
        stream: DataStream,
        queries: Sequence[QueryLoss],
    ) -> ReplayState:
        """Evaluate query losses and their cotangents at s_T, ready for :meth:`replay`.

        Args:
            reader: the trajectory, from :meth:`open`.
            stream: the stream it was trained on.
            queries: the query losses φ of one pass.

        Raises:
            DivergedError: if a φ is not finite.
            RunError: if the trajectory belongs to another stream.
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
        # The replay's first files are read while the query losses are evaluated.
        reader.plan_reads(reader.schedule.reads_of_pass())
        final = reader.load_state(steps)
        evaluated = [self.evaluator.cotangent(final, query) for query in queries]
        return ReplayState(
            steps,
            [cotangent for _, cotangent in evaluated],
            stream.new_scores(len(evaluated), self.dtype),
            torch.zeros(len(evaluated), steps, dtype=torch.float64),
            torch.tensor([value for value, _ in evaluated], dtype=torch.float64),
            new_signals(len(evaluated), steps),
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
        """Replay from ``state.step`` to s_0, updating ``state`` in place.

        Args:
            reader: the trajectory; closed when this returns.
            stream: the stream it was trained on.
            state: cotangents and scores so far, from :meth:`begin_replay` or a checkpoint.
            observer: receives the events of :class:`~engine.replay.replay.Replay`.
            after_step: called after every step; may save the state, and may raise to stop.

        Raises:
            DivergedError: if a cotangent stops being finite.
            RunError: if the trajectory is damaged.
        """

        def collect(step: int, scores: Tensor) -> None:
            stream.collect(state.scores, step, scores)
            state.steps[:, step] = scores.flatten(1).double().sum(1).cpu()
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
            replay.run(state.cotangents, collect, state.step)

    def open(self, save_dir: Path | str) -> TrajectoryReader:
        """Open a trajectory of this trainer's model. Use the reader as a context manager.

        Raises:
            RunError: if there is no complete trajectory in ``save_dir``.
        """
        files = TrajectoryFiles(Path(save_dir), self._shards)
        return TrajectoryReader(files, self.step.stage, self.device, self.host_cache)
