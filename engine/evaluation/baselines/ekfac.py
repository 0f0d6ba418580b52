"""Influence functions with EK-FAC (arXiv 2308.03296), by the ``kronfluence`` library.

Of the linear and convolutional layers that the loss calls; the Fisher matrix is the empirical one,
because losses say nothing of what else a model might have answered.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from engine.evaluation.baselines.known import Known, NotApplicableError, Scores
from engine.models.module_loss import ModuleLoss
from engine.replay.state import Batch
from engine.runs.temporary import scratch_folder
from engine.tasks.registry import restore_task


def ekfac(known: Known) -> Scores:
    """Minus the influence of every document on every query's fall in loss."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    module = _trained_module(known)
    layers = _called_layers(module, known.batch(0))
    if not layers:
        raise NotApplicableError("the model calls no linear or convolutional layer")
    # One measurement may be several batches: they are scored apart, and add up.
    asked = [(q, batch) for q, each in enumerate(known.measurements) for batch in each]
    task = _task(known, [batch for _, batch in asked], layers)
    one = {"per_device_batch_size": 1, "overwrite_output_dir": True}
    with scratch_folder("ekfac") as folder:
        analyzer = Analyzer(
            "ekfac", prepare_model(module, task), task, disable_tqdm=True, output_dir=str(folder),
            cpu=known.job.device.type == "cpu", disable_model_save=True,
        )  # fmt: skip
        documents = _Indices(0, known.job.documents)
        factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
        analyzer.fit_all_factors("factors", documents, factor_args=factors, **one)
        analyzer.compute_pairwise_scores(
            "scores", "factors", _Indices(known.job.documents, len(asked)), documents,
            per_device_query_batch_size=1, per_device_train_batch_size=1,
            score_args=ScoreArguments(), overwrite_output_dir=True,
        )  # fmt: skip
        found = analyzer.load_pairwise_scores("scores")["all_modules"].double().numpy()
    scores = np.zeros((len(known.measurements), known.job.documents))
    for (query, _), influence in zip(asked, found, strict=True):
        scores[query] -= influence
    return scores


class _Indices(Dataset[Tensor]):
    """Numbers of documents, and behind them of queries' batches."""

    def __init__(self, first: int, count: int) -> None:
        self.numbers = torch.arange(first, first + count)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Tensor:
        return self.numbers[index]


def _task(known: Known, asked: list[Batch], layers: list[str]) -> Any:
    from kronfluence.task import Task

    class LossTask(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Any:
            return _loss(model, known.batch(int(batch)))

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Any:
            return _loss(model, asked[int(batch) - known.job.documents])

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

    return LossTask()


def _loss(module: nn.Module, batch: Batch) -> Tensor:
    own = replace(batch, weights=batch.weights.float())
    return ModuleLoss(module)(dict(module.named_parameters()), own)


def _trained_module(known: Known) -> nn.Module:
    """The run's module once more, with its parameters at s_T, for the library to change."""
    # A copy of the one there is would still call parts of it; and the library mixes in float32.
    config = known.job.config
    model = config.model.model_copy(update={"dtype": "float32"})
    changed = config.model_copy(update={"model": model})
    task = restore_task(changed, known.job.rows.arrays(), known.job.device, known.job.origins)
    module: nn.Module = task.model.loss
    final = {**known.final.params, **known.final.buffers}
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name in final:
                tensor.copy_(final[name])
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "Conv1D":
                setattr(parent, name, _as_linear(child))
    return module.eval()


def _as_linear(layer: Any) -> nn.Linear:
    """GPT-2's own linear layer, which keeps its matrix the other way round, as the usual one."""
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.t())
        linear.bias.copy_(layer.bias)
    return linear


def _called_layers(module: nn.Module, batch: Batch) -> list[str]:
    """The layers that a loss passes through; a head may be used as a matrix alone."""
    called: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad
    ]
    with torch.no_grad():
        _loss(module, batch)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(called))
