"""TRAK (arXiv 2303.14186) on the one trained model, by the ``traker`` library.

The model output of a document is log p/(1 − p) with p = exp(−its mean loss), so that its gradient
is that of the loss times −1/(1 − p). Only the direction of a query's gradient matters.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.evaluation.baselines.trained_run import Scores, TrainedRun
from engine.replay.state import Params
from engine.runs.temporary import scratch_folder

MOST_DIMENSIONS = 512
"""Dimensions of the projected gradients. At most half as many as documents are used, so that their
covariance is invertible."""
_BLOCK_NUMBERS, _BATCH_NUMBERS = 2**26, 2**28
"""Numbers of the projection, and of gradients, in memory at a time."""


def trak(run: TrainedRun) -> Scores:
    """Minus the TRAK score of every document for every query."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    size = sum(value.numel() for value in run.final.params.values())
    documents, device = run.job.documents, str(run.job.device)
    dimensions = max(1, min(MOST_DIMENSIONS, documents // 2))
    projector = BasicProjector(
        size, dimensions, 0, ProjectionType.normal, device,
        block_size=max(1, _BLOCK_NUMBERS // size), dtype=torch.float32,
    )  # fmt: skip
    shell = _Shell(run.final.params)
    with scratch_folder("trak") as folder:
        traker = TRAKer(
            shell, _Task(), documents, str(folder), device=device, use_half_precision=False,
            gradient_computer=_computer(run), projector=projector,
            logging_level=logging.WARNING,
        )  # fmt: skip
        checkpoint, together = shell.state_dict(), max(1, _BATCH_NUMBERS // size)
        traker.load_checkpoint(checkpoint, model_id=0)
        for batch in torch.split(torch.arange(documents), together):
            traker.featurize([batch], num_samples=len(batch))
        traker.finalize_features()
        # The library frees the projection and does not always draw it again.
        projector.generate_sketch_matrix(projector.generator_states[0])
        queries = len(run.measurements)
        traker.start_scoring_checkpoint("queries", checkpoint, model_id=0, num_targets=queries)
        for batch in torch.split(documents + torch.arange(queries), together):
            traker.score([batch], num_samples=len(batch))
        return -np.array(traker.finalize_scores("queries"), np.float64).T


class _Shell(nn.Module):
    """A module with the trained parameters, which is all that the library needs of the model."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.values = nn.ParameterList(params.values())


class _Task:
    """An empty task: gradients are computed by :func:`_computer`."""


def _computer(run: TrainedRun) -> Any:
    """A gradient computer for the library. Samples are documents, followed by queries."""

    class Computer:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.missing = torch.zeros(0)

        def load_model_params(self, model: nn.Module) -> None:
            """Nothing to load."""

        def compute_per_sample_grad(self, batch: list[Tensor]) -> Tensor:
            pairs = [_output_gradient(run, index) for index in batch[0].tolist()]
            self.missing = torch.tensor([missing for _, missing in pairs])
            return torch.stack([gradient for gradient, _ in pairs])

        def compute_loss_grad(self, batch: list[Tensor]) -> Tensor:
            return self.missing[:, None]

    return Computer


def _output_gradient(run: TrainedRun, index: int) -> tuple[Tensor, float]:
    """Gradient (parameters,) of a sample's model output log p/(1 − p), and 1 − p."""
    if index < run.job.documents:
        loss, gradient = run.gradient(index)
        missing = max(-float(np.expm1(-loss)), 1e-6)
    else:
        measurement = run.measurements[index - run.job.documents]
        _, gradient = run.query_gradient(measurement)
        missing = 1.0
    flat = torch.cat([value.flatten().float() for value in gradient.values()])
    return flat / -missing, missing
