"""The loss of a trained model on each token of some texts."""

from typing import Any

import numpy as np
import torch

from engine.attribution.fingerprint import Fingerprint
from engine.attribution.prepare import new_trainer
from engine.attribution.query_texts import typed_documents
from engine.data.sources import Documents, read_documents
from engine.data.tokens import TokenizedDocument, tokenize
from engine.models.module_tensors import weight_digests
from engine.replay.optimizers import LearningRateSpec
from engine.replay.state import Batch, Params
from engine.runs.config import RunConfig
from engine.runs.errors import UsageError
from engine.runs.manifest import read_manifest
from engine.runs.request import AttributionRequest
from engine.runs.run_folder import RunFolder
from engine.tasks.causal_lm import check_tokens, load_model, model_inputs
from engine.training.trainer import Trainer


def token_losses(folder: RunFolder, request: AttributionRequest) -> dict[str, Any]:
    """The losses of a request's texts under a run's trained model, token by token.

    Nothing is written and no lock is taken: only the end of a complete trajectory is read. The
    computation runs on the CPU, so it takes no device memory from runs in progress.

    Raises:
        UsageError: for any fault in the texts.
        RunError: if there is no complete trajectory.
    """
    config, device = folder.config(), torch.device("cpu")
    if not config.has_tokens:
        raise UsageError(f"run {folder.id} trains {config.task}: there are no tokens to show")
    documents, where = _documents(request)
    fingerprint = Fingerprint(folder)
    model = load_model(config, device, fingerprint.origins())
    # Trained tensors are read from the trajectory, so their initial values do not matter.
    trained = [name for name, p in model.loss.named_parameters() if p.requires_grad]
    fingerprint.check_model(model, weight_digests(model.loss), besides=trained)
    tokenized = tokenize(documents, model.tokenizer, config.data.sequence_length)
    tokenized.check(where, "texts", strict=True)
    check_tokens(tokenized.tokens, model, where)
    trainer = new_trainer(config, model, _rate(folder, config))
    reader = trainer.open(folder.trajectory)
    params = reader.load_state(reader.schedule.steps).params
    with trainer.loss.evaluating():
        queries = [
            _facts("".join(documents.texts(index)), tokens, trainer, params)
            for index, tokens in enumerate(tokenized.tokens)
        ]
    return {"run": folder.id, "queries": queries}


def _documents(request: AttributionRequest) -> tuple[Documents, str]:
    if request.queries is None:
        return typed_documents(request), "--text"
    return read_documents(request.queries, "queries"), "queries"


def _rate(folder: RunFolder, config: RunConfig) -> LearningRateSpec:
    manifest = read_manifest(folder.trajectory)
    # Without a manifest, opening the trajectory raises the error.
    steps = 1 if manifest is None else manifest.steps
    return LearningRateSpec(steps=steps, **config.training.lr_schedule.model_dump())


def _facts(
    text: str, tokens: TokenizedDocument, trainer: Trainer, params: Params
) -> dict[str, Any]:
    """A text's tokens with their losses; None for tokens that are not predicted."""
    losses = np.append(np.nan, _losses(tokens, trainer, params)[:-1])
    predicted = np.append(False, tokens.targets[:-1])
    return {
        "text": text,
        "loss": float(losses[predicted].mean()),
        "cut_tokens": tokens.cut,
        "tokens": [
            {"id": token, "loss": loss if counts else None}
            for token, loss, counts in zip(
                tokens.input_ids.tolist(), losses.tolist(), predicted.tolist(), strict=True
            )
        ],
    }


def _losses(tokens: TokenizedDocument, trainer: Trainer, params: Params) -> Any:
    """(tokens,) The loss at every position; 0 where there is no target."""
    columns = model_inputs(tokens.input_ids, tokens.targets)
    inputs = {name: torch.from_numpy(values)[None] for name, values in columns.items()}
    weights = torch.ones((1, len(tokens)), dtype=trainer.dtype, requires_grad=True)
    # The loss is linear in the weights: its derivative in one is the loss of that position.
    loss = trainer.loss(params, Batch(inputs, weights, 1))
    (losses,) = torch.autograd.grad(loss, weights)
    return losses[0].double().numpy()
