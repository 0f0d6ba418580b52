"""Influence functions with EK-FAC (arXiv 2308.03296), by the ``kronfluence`` library.

The layers are the linear and convolutional ones that the loss calls. The Fisher matrix is the
empirical one, because a loss does not define the model's distribution over labels.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from engine.evaluation.baselines.trained_run import NotApplicableError, Scores, TrainedRun
from engine.models.module_loss import ModuleLoss
from engine.replay.state import Batch
from engine.runs.temporary import scratch_folder
from engine.tasks.registry import restore_task


def ekfac(run: TrainedRun) -> Scores:
    """Minus the influence of every document on the decrease of every query's loss."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    module = _trained_module(run)
    layers = _called_layers(module, run.batch(0))
    if not layers:
        raise NotApplicableError("the model calls no linear or convolutional layer")
    # The batches of one measurement are scored separately and added.
    batches = [(q, batch) for q, each in enumerate(run.measurements) for batch in each]
    task = _task(run, [batch for _, batch in batches], layers)
    one = {"per_device_batch_size": 1, "overwrite_output_dir": True}
    with scratch_folder("ekfac") as folder:
        analyzer = Analyzer(
            "ekfac", prepare_model(module, task), task, disable_tqdm=True, output_dir=str(folder),
            cpu=run.job.device.type == "cpu", disable_model_save=True,
        )  # fmt: skip
        documents = _Indices(0, run.job.documents)
        factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
        analyzer.fit_all_factors("factors", documents, factor_args=factors, **one)
        analyzer.compute_pairwise_scores(
            "scores", "factors", _Indices(run.job.documents, len(batches)), documents,
            per_device_query_batch_size=1, per_device_train_batch_size=1,
            score_args=ScoreArguments(), overwrite_output_dir=True,
        )  # fmt: skip
        influences = analyzer.load_pairwise_scores("scores")["all_modules"].double().numpy()
    scores = np.zeros((len(run.measurements), run.job.documents))
    for (query, _), influence in zip(batches, influences, strict=True):
        scores[query] -= influence
    return scores


class _Indices(Dataset[Tensor]):
    """Indices of documents, followed by those of the queries' batches."""

    def __init__(self, first: int, count: int) -> None:
        self.numbers = torch.arange(first, first + count)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Tensor:
        return self.numbers[index]


def _task(run: TrainedRun, batches: list[Batch], layers: list[str]) -> Any:
    from kronfluence.task import Task

    class LossTask(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Tensor, model: nn.Module, sample: bool = False) -> Any:
            return _loss(model, run.batch(int(batch)))

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Any:
            return _loss(model, batches[int(batch) - run.job.documents])

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

    return LossTask()


def _loss(module: nn.Module, batch: Batch) -> Tensor:
    own = replace(batch, weights=batch.weights.float())
    return ModuleLoss(module)(dict(module.named_parameters()), own)


def _trained_module(run: TrainedRun) -> nn.Module:
    """A new module with the parameters at s_T, which the library may modify."""
    # A copy of the existing module would still call parts of it. The library computes in float32.
    config = run.job.config
    model = config.model.model_copy(update={"dtype": "float32"})
    changed = config.model_copy(update={"model": model})
    task = restore_task(changed, run.job.rows.arrays(), run.job.device, run.job.origins)
    module: nn.Module = task.model.loss
    final = {**run.final.params, **run.final.buffers}
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
    """A Conv1D of transformers, whose matrix is transposed, as a linear layer."""
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.t())
        linear.bias.copy_(layer.bias)
    return linear


def _called_layers(module: nn.Module, batch: Batch) -> list[str]:
    """The layers that are called in a loss. A head may be used as a matrix only."""
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
