"""Making a job of a run config, or of what a run stored of it: all read, loaded and checked."""

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
    """Read and load all that a config names, and check it.

    Raises:
        UsageError: for whatever is wrong with the config, its data or its model.
    """
    _check_dtype(config)
    documents: list[Documents] = []
    checked: list[DerivativeCheck] = []

    def load() -> _Loaded:
        prepared = prepare_task(config, _loaded_to(device, ranks))
        documents.append(prepared.documents)
        loaded = _loaded(config, prepared.task, len(prepared.documents), ranks)
        # Of the whole model, before it is divided; the first rank decides for all.
        if ranks.index == 0 and not checked:
            checked.append(_checked_derivatives(config, prepared.task, _loaded_to(device, ranks)))
        return loaded

    job = _prepared(config, load, device, ranks)
    job.trainer.derivative = ranks.all_gather(checked)[0][0]
    return job, documents[0]


def restore_run(folder: RunFolder, device: torch.device, ranks: Ranks = SINGLE_RANK) -> PreparedRun:
    """The job of an existing run: its stored rows, its config and its model.

    Raises:
        UsageError: if the config's model can no longer be loaded, what it was made from changed,
            or the folder is not readable.
        RunError: if the stored rows are damaged.
    """
    config = folder.config()
    table, made_from = RowTable(folder.rows_store), Fingerprint(folder)
    origins: list[Origins] = []

    def load() -> _Loaded:
        origins.append(made_from.origins())
        task = restore_task(config, table.arrays(), _loaded_to(device, ranks), origins[0])
        loaded = _loaded(config, task, _documents_of(task.rows), ranks)
        made_from.check(task, loaded.weights)
        return loaded

    job = _prepared(config, load, device, ranks)
    job = replace(job, origins=origins[0], warnings=tuple(made_from.warnings))
    steps = step_table(job.order, len(job.rows), config.training.epochs)
    if not np.array_equal(steps, table.steps()):
        raise RunError(
            f"{folder.path} was trained in another order than this installation draws from its "
            "seed; use the numpy version that trained it"
        )
    if config.training.micro_batch_size == "auto":
        # It decides the order of sums, so it is what it was when the run was prepared.
        return job.of_micro_batch(folder.prepared()["micro_batch_size"])
    return job


def store_run(folder: RunFolder, job: PreparedRun, documents: Documents) -> None:
    """Write a job's documents, rows and tokenizer into a run folder."""
    write_documents(
        folder.documents_file,
        documents.columns,
        documents.text_columns,
        documents.source_rows,
        None if documents.cut is None else asdict(documents.cut),
    )
    steps = step_table(job.order, len(job.rows), job.config.training.epochs)
    write_arrays(folder.rows_store, {**job.rows.arrays(), "steps": steps})
    backend = getattr(job.task.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.save(str(folder.tokenizer_file))


def warnings_of(config: RunConfig) -> list[str]:
    """What was forced against advice or is left aside, a sentence each."""
    sentences = {
        "dropout": "dropout was forced: scores hold for these very dropout masks only",
        "bfloat16": "bfloat16 was forced: rounding may change scores beyond use; compare with "
        "float32 before you trust them",
    }
    found = [sentences[name] for name in config.force if name in sentences]
    if config.task == CAUSAL_LM and (Path(config.model.path) / ADAPTER).is_file():
        found.append(
            f"the adapter beside the weights in {config.model.path} is not used; to train with it, "
            "merge it into them (peft: merge_and_unload)"
        )
    return found


def derivative_facts(job: PreparedRun) -> dict[str, Any] | None:
    """How far a new job's derivatives are from finite differences, as JSON-ready values."""
    found = job.trainer.derivative
    return None if found is None else found.facts("derivative" in job.config.force)


def derivative_warnings(job: PreparedRun) -> list[str]:
    """That wrong derivatives were forced, if they were."""
    found = job.trainer.derivative
    return [] if found is None or found.passed else [found.warning()]


def _check_dtype(config: RunConfig) -> None:
    if config.model.dtype == "bfloat16" and "bfloat16" not in config.force:
        raise UsageError(
            "model.dtype: bfloat16 rounds too coarsely for exact influence; use float32, or "
            "force: [bfloat16]"
        )


def _checked_derivatives(config: RunConfig, task: Task, device: torch.device) -> DerivativeCheck:
    """The derivatives of a task's model compared with finite differences, on a few long rows.

    Raises:
        DerivativeError: if they differ and this was not forced.
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
    found = check_derivatives(loss, stream.batch(0, dtype), free_memory(device), task.model.layers)
    if not found.passed and "derivative" not in config.force:
        own = config.task not in (CAUSAL_LM, IMAGE_CLASSIFICATION)
        name = f"task: {config.task}" if own else f"model.path: {config.model.path}"
        raise DerivativeError(found.refusal(name, "force: [derivative]"))
    return found


def _loaded_to(device: torch.device, ranks: Ranks) -> torch.device:
    """A model that is divided may be too large for any one of the devices."""
    return device if ranks.count == 1 else torch.device("cpu")


@dataclass(frozen=True)
class _Loaded:
    """A task with its model, how many documents it trains on, and the digests of its weights."""

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
        job, _ = _assembled(config, load(), device)
    else:
        job = _divided(config, load, device, ranks)
    freeze_loaded_objects()
    return job


def _divided(
    config: RunConfig, load: Callable[[], _Loaded], device: torch.device, ranks: Ranks
) -> PreparedRun:
    # Before they divide anything by it.
    check_same(ranks, {"the config": config.digest()[:12], "torch's version": torch.__version__})
    job, digests = staggered_load(
        ranks,
        load,
        lambda held: make_mesh(
            ranks, config.devices, held.task.model.loss if held else None, device
        ),
        lambda held, mesh: _assembled(config, held, device, mesh),
    )
    check_same(ranks, digests)
    return job


def _assembled(
    config: RunConfig, loaded: _Loaded, device: torch.device, mesh: Mesh | None = None
) -> tuple[PreparedRun, dict[str, str]]:
    """The job, and what ranks have to have in common by name; none if there is only one."""
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
    job = PreparedRun(config, task, loaded.documents, order, trainer, rate, device, loaded.weights)
    return job, digests


def _check_whole_batches(config: RunConfig, model: LoadedModel, ranks: Ranks) -> None:
    """Batch norm takes the statistics of a batch: it cannot be divided without changing them."""
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
        # Settled once the trainer is there to measure with.
        micro_batch_size=None if rows == "auto" else rows,
        max_grad_norm=training.max_grad_norm,
        elementwise=True,
        dropout_seed=config.seed if model.dropout else None,
        mesh=mesh,
        activation_checkpointing=model.layers,
    )
    # Of a run they are compared once, when it is prepared.
    trainer.checks_derivatives = False
    return trainer
