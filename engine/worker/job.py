"""A run config made ready to compute: its model, rows, stream and trainer, all checked."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.contract.config import Granularity, RunConfig
from engine.contract.errors import RunError, UsageError
from engine.data.order import batch_order, step_table
from engine.data.rows import Rows, one_document_a_row, packed
from engine.data.sources import Documents, read_documents
from engine.data.tokens import TokenizedDocument, tokenize
from engine.magic.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.magic.ranks import ALONE, Ranks
from engine.magic.state import TrainState
from engine.models.causal_lm_loss import IGNORED
from engine.models.load import LoadedModel, load_causal_lm
from engine.planning import Training
from engine.records.run_folder import RunFolder
from engine.records.tables import RowTable, write_documents, write_rows
from engine.sharding.mesh import Mesh
from engine.stream import DataStream
from engine.trainer import Trainer
from engine.worker.mesh import check_same, divided


class RowDataset:
    """Rows as a :class:`~engine.stream.DataStream` takes them, without their padding."""

    def __init__(self, rows: Rows) -> None:
        """Serve ``rows``."""
        self.rows = rows
        self.lengths = rows.lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        length = int(self.rows.lengths[index])
        columns = model_inputs(
            self.rows.input_ids[index, :length], self.rows.targets[index, :length]
        )
        return {**columns, "doc_ids": self.rows.document_ids[index, :length]}


def model_inputs(
    input_ids: NDArray[np.int32], targets: NDArray[np.bool_]
) -> dict[str, NDArray[np.int64]]:
    """A row as the model takes it: its labels stand one position after the targets."""
    ids = input_ids.astype(np.int64)
    return {"input_ids": ids, "labels": np.where(np.append(False, targets[:-1]), ids, IGNORED)}


@dataclass(frozen=True)
class Job:
    """Everything that the three phases of a run need."""

    config: RunConfig
    model: LoadedModel
    rows: Rows
    documents: int
    order: list[Any]
    trainer: Trainer
    rate: LearningRateSpec
    device: torch.device

    def stream(self, granularity: Granularity) -> DataStream:
        """The training's batches, with one weight a token or a document."""
        per_token = granularity == "token"
        return DataStream(
            RowDataset(self.rows),
            self.config.training.batch_size,
            device=self.device,
            weight_shape=self.rows.input_ids.shape if per_token else (self.documents,),
            order=self.order,
        )

    def of_micro_batch(self, rows: int) -> "Job":
        """The same with so many rows of a rank differentiated at a time."""
        return replace(self, trainer=self.trainer.of_micro_batch(rows))

    @property
    def start(self) -> TrainState:
        """s_0, made anew each time: whoever asks for it can let it go."""
        return self.trainer.step.start(self.trainer.loss.parameters())

    @property
    def training(self) -> Training:
        """The training, for planning."""
        return Training(
            self.trainer.step, self.start, self.stream(self.config.attribution.granularity)
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of update ``step``."""
        return self.config.training.optimizer.learning_rate * self.rate.factor(step)


def new_job(config: RunConfig, device: torch.device, ranks: Ranks = ALONE) -> tuple[Job, Documents]:
    """Read, tokenise and load all that a config names, and check it.

    Raises:
        UsageError: for whatever is wrong with the config, its data or its model.
    """
    _check_dtype(config)
    documents = read_documents(config.data, "data")
    model = load_model(config, _loaded_to(device, ranks))
    length = config.data.sequence_length
    tokenizer = model.tokenizer
    tokenized = tokenize(documents, tokenizer, None if config.data.packing else length, "data")
    check_tokens(tokenized, model, "data")
    pad = tokenizer.pad_token_id or 0
    if config.data.packing:
        rows = packed(tokenized, length, tokenizer.eos_token_id, pad)
    else:
        rows = one_document_a_row(tokenized, pad)
    return _job(config, model, rows, len(documents), device, ranks), documents


def stored_job(folder: RunFolder, device: torch.device, ranks: Ranks = ALONE) -> Job:
    """The job of an existing run: its stored rows, its config and its model.

    Raises:
        UsageError: if the config's model can no longer be loaded, or the folder is not readable.
        RunError: if the stored rows are damaged.
    """
    config = folder.config()
    table = RowTable(folder.rows_store)
    document_ids = table.document_ids()
    rows = Rows(
        table.input_ids(), document_ids, table.targets(), (document_ids >= 0).sum(1).astype("int32")
    )
    documents = int(document_ids.max()) + 1
    model = load_model(config, _loaded_to(device, ranks))
    job = _job(config, model, rows, documents, device, ranks)
    steps = step_table(job.order, len(rows), config.training.epochs)
    if not np.array_equal(steps, table.steps()):
        raise RunError(
            f"{folder.path} was trained in another order than this installation draws from its "
            "seed; use the numpy version that trained it"
        )
    if config.training.micro_batch_size == "auto":
        # It decides the order of sums, so it is what it was when the run was prepared.
        return job.of_micro_batch(folder.prepared()["micro_batch_size"])
    return job


def write_job(folder: RunFolder, job: Job, documents: Documents) -> None:
    """Write a job's documents, rows and tokenizer into a run folder."""
    write_documents(
        folder.documents_file, documents.columns, documents.text_columns, documents.source_rows
    )
    steps = step_table(job.order, len(job.rows), job.config.training.epochs)
    rows = job.rows
    write_rows(folder.rows_store, rows.input_ids, rows.document_ids, rows.targets, steps)
    backend = getattr(job.model.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.save(str(folder.tokenizer_file))


def check_tokens(tokenized: list[TokenizedDocument], model: LoadedModel, where: str) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        UsageError: naming the largest one.
    """
    largest = max(int(document.input_ids.max(initial=0)) for document in tokenized)
    if largest >= model.vocabulary:
        raise UsageError(
            f"{where}: the tokenizer gives token {largest}, but the model embeds only "
            f"{model.vocabulary} tokens; use the tokenizer that belongs to the model"
        )


def warnings_of(config: RunConfig) -> list[str]:
    """What was forced against advice, a sentence each."""
    sentences = {
        "dropout": "dropout was forced: scores hold for these very dropout masks only",
        "bfloat16": "bfloat16 was forced: rounding may change scores beyond use; compare with "
        "float32 before you trust them",
    }
    return [sentences[name] for name in config.force]


def _check_dtype(config: RunConfig) -> None:
    if config.model.dtype == "bfloat16" and "bfloat16" not in config.force:
        raise UsageError(
            "model.dtype: bfloat16 rounds too coarsely for exact influence; use float32, or "
            "force: [bfloat16]"
        )


def load_model(config: RunConfig, device: torch.device) -> LoadedModel:
    """The config's model, its weights as they were before training.

    Raises:
        UsageError: if it cannot be loaded, or has too few positions.
    """
    model = load_causal_lm(
        config.model, config.seed, device, force_dropout="dropout" in config.force
    )
    limit = model.positions
    if limit is not None and config.data.sequence_length > limit:
        raise UsageError(
            f"data.sequence_length: {config.data.sequence_length} is more than the {limit} "
            f"positions of {config.model.path}; lower it"
        )
    return model


def _loaded_to(device: torch.device, ranks: Ranks) -> torch.device:
    """A model that is divided may be too large for any one of the devices."""
    return device if ranks.count == 1 else torch.device("cpu")


def _job(
    config: RunConfig,
    model: LoadedModel,
    rows: Rows,
    documents: int,
    device: torch.device,
    ranks: Ranks,
) -> Job:
    training = config.training
    order = batch_order(
        len(rows),
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=config.seed,
        shuffle=training.shuffle,
    )
    rate = LearningRateSpec(steps=len(order), **training.schedule.model_dump())
    mesh = None
    if ranks.count > 1:
        check_same(ranks, _digests(config, model, rows, order))
        mesh = divided(ranks, config.devices, model.loss, device)
        if mesh.group.count == 1:
            model.loss.to(device)
    trainer = new_trainer(config, model, rate, mesh)
    return Job(config, model, rows, documents, order, trainer, rate, device)


def _digests(config: RunConfig, model: LoadedModel, rows: Rows, order: list[Any]) -> dict[str, str]:
    """What ranks have to have in common, by name."""
    weights, data, steps = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for name, parameter in model.loss.named_parameters():
        weights.update(name.encode())
        # A sum in float64 differs if any weight does, but for a conspiracy of several.
        weights.update(parameter.detach().double().sum().cpu().numpy().tobytes())
    for array in (rows.input_ids, rows.document_ids, rows.targets):
        data.update(array.tobytes())
    for chosen in order:
        steps.update(chosen.tobytes())
    return {
        "the config": config.digest()[:12],
        "the training data": data.hexdigest()[:12],
        "the model's weights": weights.hexdigest()[:12],
        "the order of the data": steps.hexdigest()[:12],
        "torch's version": torch.__version__,
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
    )
    return trainer
