"""Preparing a run from its config, or restoring it from its folder."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.attribution.fingerprint import Fingerprint, rows_digest
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.process import freeze_loaded_objects
from engine.data.rows import batch_order, step_table
from engine.data.sources import Documents
from engine.distributed.mesh import Mesh
from engine.distributed.rank_setup import check_same, free_memory, make_mesh, staggered_load
from engine.models.checked_derivatives import ROWS, DerivativeCheck, check_derivatives
from engine.models.load import ADAPTER, LoadedModel
from engine.models.module_loss import ModuleLoss
from engine.models.module_tensors import weight_digests
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.replay.ranks import SINGLE_RANK, Ranks
from engine.runs.config import CAUSAL_LM, IMAGE_CLASSIFICATION, RunConfig
from engine.runs.errors import DerivativeError, RunError, UsageError
from engine.runs.inputs import combined
from engine.runs.run_folder import RunFolder
from engine.runs.tables import RowTable, write_arrays, write_documents
from engine.tasks.registry import prepare_task, restore_task
from engine.tasks.task import Origins, Rows, Task
from engine.training.data_stream import DataStream
from engine.training.trainer import Trainer


def prepare_run(
    config: RunConfig, device: torch.device, ranks: Ranks = SINGLE_RANK
) -> tuple[PreparedRun, Documents]:
    """Load the data and the model of a config, and check them.

    Returns:
        The prepared run, and the documents it trains on.

    Raises:
        UsageError: for any fault in the config, its data or its model.
    """
    _check_dtype(config)
    documents: list[Documents] = []
    checked: list[DerivativeCheck] = []

    def load() -> _Loaded:
        new = prepare_task(config, _load_device(device, ranks))
        documents.append(new.documents)
        loaded = _loaded(config, new.task, len(new.documents), ranks)
        # Rank 0 checks the whole model before it is sharded.
        if ranks.index == 0 and not checked:
            checked.append(_check_derivatives(config, new.task, _load_device(device, ranks)))
        return loaded

    prepared = _prepared(config, load, device, ranks)
    prepared.trainer.derivative = ranks.all_gather(checked)[0][0]
    return prepared, documents[0]


def restore_run(folder: RunFolder, device: torch.device, ranks: Ranks = SINGLE_RANK) -> PreparedRun:
    """The prepared run of a folder, from its stored rows, its config and its model.

    Raises:
        UsageError: if the model cannot be loaded, an input differs from the fingerprint, or the
            folder is not readable.
        RunError: if the stored rows are damaged.
    """
    config = folder.config()
    table, fingerprint = RowTable(folder.rows_store), Fingerprint(folder)
    origins: list[Origins] = []

    def load() -> _Loaded:
        origins.append(fingerprint.origins())
        task = restore_task(config, table.arrays(), _load_device(device, ranks), origins[0])
        loaded = _loaded(config, task, _documents_of(task.rows), ranks)
        fingerprint.check(task, loaded.weights)
        return loaded

    prepared = _prepared(config, load, device, ranks)
    prepared = replace(prepared, origins=origins[0], warnings=tuple(fingerprint.warnings))
    steps = step_table(prepared.order, len(prepared.rows), config.training.epochs)
    if not np.array_equal(steps, table.steps()):
        raise RunError(
            f"{folder.path} was trained in another order than this numpy draws from the seed; use "
            "the numpy version that trained it"
        )
    if config.training.micro_batch_size == "auto":
        # The micro-batch size determines the order of sums, so the stored one is used.
        return prepared.with_micro_batch(folder.prepared()["micro_batch_size"])
    return prepared


def store_run(folder: RunFolder, prepared: PreparedRun, documents: Documents) -> None:
    """Write the documents, rows and tokenizer of a prepared run into its folder."""
    write_documents(
        folder.documents_file,
        documents.columns,
        documents.text_columns,
        documents.source_rows,
        None if documents.cut is None else asdict(documents.cut),
    )
    steps = step_table(prepared.order, len(prepared.rows), prepared.config.training.epochs)
    write_arrays(folder.rows_store, {**prepared.rows.arrays(), "steps": steps})
    backend = getattr(prepared.task.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.save(str(folder.tokenizer_file))


def warnings_of(config: RunConfig) -> list[str]:
    """Sentences about forced checks and unused files."""
    sentences = {
        "dropout": "dropout was forced: scores hold for these dropout masks only",
        "bfloat16": "bfloat16 was forced: rounding may make the scores useless; compare them "
        "with float32 before you trust them",
    }
    warnings = [sentences[name] for name in config.force if name in sentences]
    if config.task == CAUSAL_LM and (Path(config.model.path) / ADAPTER).is_file():
        warnings.append(
            f"the adapter beside the weights in {config.model.path} is not used; to train with it, "
            "merge it into them (peft: merge_and_unload)"
        )
    return warnings


def derivative_facts(prepared: PreparedRun) -> dict[str, Any] | None:
    """The derivative check of a prepared run as JSON-ready values; None if it was not run."""
    check = prepared.trainer.derivative
    return None if check is None else check.facts("derivative" in prepared.config.force)


def derivative_warnings(prepared: PreparedRun) -> list[str]:
    """A sentence if a failed derivative check was forced."""
    check = prepared.trainer.derivative
    return [] if check is None or check.passed else [check.warning()]


def _check_dtype(config: RunConfig) -> None:
    if config.model.dtype == "bfloat16" and "bfloat16" not in config.force:
        raise UsageError(
            "model.dtype: bfloat16 rounds too coarsely for exact influence; use float32, or "
            "force: [bfloat16]"
        )


def _check_derivatives(config: RunConfig, task: Task, device: torch.device) -> DerivativeCheck:
    """Compare the derivatives of a task's model with finite differences, on the longest rows.

    Raises:
        DerivativeError: if they differ, unless ``force`` has ``derivative``.
    """
    longest = np.argsort(-task.rows.lengths, kind="stable")[:ROWS]
    micro = config.training.micro_batch_size
    count = micro if isinstance(micro, int) else len(longest)
    of_tokens = config.attribution.granularity == "token"
    shape = task.rows.document_ids.shape if of_tokens else (_documents_of(task.rows),)
    stream = DataStream(
        task.dataset, ROWS, device=device, weight_shape=shape, order=[longest[:count]]
    )
    seed = config.seed if task.model.dropout else None
    loss = ModuleLoss(task.model.loss, seed)
    dtype = next(iter(loss.parameters().values())).dtype
    check = check_derivatives(loss, stream.batch(0, dtype), free_memory(device), task.model.layers)
    if not check.passed and "derivative" not in config.force:
        own = config.task not in (CAUSAL_LM, IMAGE_CLASSIFICATION)
        name = f"task: {config.task}" if own else f"model.path: {config.model.path}"
        raise DerivativeError(check.refusal(name, "force: [derivative]"))
    return check


def _load_device(device: torch.device, ranks: Ranks) -> torch.device:
    """Where to load the model: the CPU for several ranks, as no device may hold the whole model."""
    return device if ranks.count == 1 else torch.device("cpu")


@dataclass(frozen=True)
class _Loaded:
    """A task with its model, its number of documents, and the digests of its weights."""

    task: Task
    documents: int
    weights: dict[str, str]


def _documents_of(rows: Rows) -> int:
    return int(rows.document_ids.max()) + 1


def _loaded(config: RunConfig, task: Task, documents: int, ranks: Ranks) -> _Loaded:
    _check_whole_batches(config, task.model, ranks)
    if config.training.activation_checkpointing and not task.model.layers:
        raise UsageError(
            f"training.activation_checkpointing: the model of task {config.task} "
            "has no layers to recompute; set it to false"
        )
    weights = weight_digests(task.model.loss, all_buffers=not config.has_tokens)
    return _Loaded(task, documents, weights)


def _prepared(
    config: RunConfig, load: Callable[[], _Loaded], device: torch.device, ranks: Ranks
) -> PreparedRun:
    if ranks.count == 1:
        prepared, _ = _assembled(config, load(), device)
    else:
        prepared = _divided(config, load, device, ranks)
    freeze_loaded_objects()
    return prepared


def _divided(
    config: RunConfig, load: Callable[[], _Loaded], device: torch.device, ranks: Ranks
) -> PreparedRun:
    # Ranks shard by the config, so it is compared first.
    check_same(ranks, {"the config": config.digest()[:12], "torch's version": torch.__version__})
    prepared, digests = staggered_load(
        ranks,
        load,
        lambda held: make_mesh(
            ranks, config.devices, held.task.model.loss if held else None, device
        ),
        lambda held, mesh: _assembled(config, held, device, mesh),
    )
    check_same(ranks, digests)
    return prepared


def _assembled(
    config: RunConfig, loaded: _Loaded, device: torch.device, mesh: Mesh | None = None
) -> tuple[PreparedRun, dict[str, str]]:
    """The prepared run and, for several ranks, digests that must be equal on all of them."""
    training, task = config.training, loaded.task
    order = batch_order(
        len(task.rows),
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=config.seed,
        shuffle=training.shuffle,
    )
    rate = LearningRateSpec(steps=len(order), **training.lr_schedule.model_dump())
    digests = {} if mesh is None else _digests(loaded, order)
    if mesh is not None and mesh.shard_group.count == 1:
        task.model.loss.to(device)
    trainer = new_trainer(config, task.model, rate, mesh)
    prepared = PreparedRun(
        config, task, loaded.documents, order, trainer, rate, device, loaded.weights
    )
    return prepared, digests


def _check_whole_batches(config: RunConfig, model: LoadedModel, ranks: Ranks) -> None:
    """Refuse micro-batches and several ranks for batch norm, which needs whole batches."""
    if not ModuleLoss(model.loss).buffers():
        return
    what = f"{config.model.path} trains batch norm, whose statistics are those of a whole batch"
    if config.training.micro_batch_size is not None:
        raise UsageError(f"training.micro_batch_size: {what}; leave it out")
    if ranks.count > 1:
        raise UsageError(f"devices.ranks: {what}; set 1")


def _digests(loaded: _Loaded, order: list[Any]) -> dict[str, str]:
    steps = hashlib.sha256()
    for chosen in order:
        steps.update(chosen.tobytes())
    return {
        "the training data": rows_digest(loaded.task.rows)[:12],
        "the model's weights": combined(loaded.weights)[:12],
        "the order of the data": steps.hexdigest()[:12],
    }


def new_trainer(
    config: RunConfig, model: LoadedModel, rate: LearningRateSpec, mesh: Mesh | None = None
) -> Trainer:
    """The trainer that a config describes."""
    training = config.training
    rows = training.micro_batch_size
    optimizer = OptimizerSpec(**training.optimizer.model_dump())
    trainer, _ = Trainer.initialize(
        model.loss,
        build_optimizer(optimizer, rate),
        # with_micro_batch() chooses it by measuring with this trainer.
        micro_batch_size=None if rows == "auto" else rows,
        max_grad_norm=training.max_grad_norm,
        elementwise=True,
        dropout_seed=config.seed if model.dropout else None,
        mesh=mesh,
        activation_checkpointing=model.layers,
    )
    # prepare_run() checks the derivatives, once a run.
    trainer.checks_derivatives = False
    return trainer
