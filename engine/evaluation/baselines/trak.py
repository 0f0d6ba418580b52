"""TRAK (arXiv 2303.14186) on the one trained model, by the ``traker`` library.

The model output of a document is log p/(1 − p) with p = exp(−its mean loss), so that its gradient
is that of the loss times −1/(1 − p). A query's gradient only has to have the right direction.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.evaluation.baselines.known import Known, Scores
from engine.replay.state import Params
from engine.runs.temporary import scratch_folder

MOST_DIMENSIONS = 512
"""Of the projected gradients; at most half as many as there are documents, so that their
covariance can be inverted."""
_BLOCK_NUMBERS, _BATCH_NUMBERS = 2**26, 2**28
"""How much of the projection is drawn, and of gradients held, at a time."""


def trak(known: Known) -> Scores:
    """Minus the TRAK score of every document for every query."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    size = sum(value.numel() for value in known.final.params.values())
    documents, device = known.job.documents, str(known.job.device)
    dimensions = max(1, min(MOST_DIMENSIONS, documents // 2))
    projector = BasicProjector(
        size, dimensions, 0, ProjectionType.normal, device,
        block_size=max(1, _BLOCK_NUMBERS // size), dtype=torch.float32,
    )  # fmt: skip
    shell = _Shell(known.final.params)
    with scratch_folder("trak") as folder:
        traker = TRAKer(
            shell, _Task(), documents, str(folder), device=device, use_half_precision=False,
            gradient_computer=_computer(known), projector=projector,
            logging_level=logging.WARNING,
        )  # fmt: skip
        checkpoint, together = shell.state_dict(), max(1, _BATCH_NUMBERS // size)
        traker.load_checkpoint(checkpoint, model_id=0)
        for batch in torch.split(torch.arange(documents), together):
            traker.featurize([batch], num_samples=len(batch))
        traker.finalize_features()
        # It lets go of the projection, and does not always draw it again.
        projector.generate_sketch_matrix(projector.generator_states[0])
        queries = len(known.measurements)
        traker.start_scoring_checkpoint("queries", checkpoint, model_id=0, num_targets=queries)
        for batch in torch.split(documents + torch.arange(queries), together):
            traker.score([batch], num_samples=len(batch))
        return -np.array(traker.finalize_scores("queries"), np.float64).T


class _Shell(nn.Module):
    """As many parameters as are trained: all that the library asks of a model itself."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.values = nn.ParameterList(params.values())


class _Task:
    """Gradients are computed without the library's idea of a model's output."""


def _computer(known: Known) -> Any:
    """A gradient computer of the library whose samples are documents, and behind them queries."""

    class Computer:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.missing = torch.zeros(0)

        def load_model_params(self, model: nn.Module) -> None:
            """They are known."""

        def compute_per_sample_grad(self, batch: list[Tensor]) -> Tensor:
            found = [_output_gradient(known, index) for index in batch[0].tolist()]
            self.missing = torch.tensor([missing for _, missing in found])
            return torch.stack([gradient for gradient, _ in found])

        def compute_loss_grad(self, batch: list[Tensor]) -> Tensor:
            return self.missing[:, None]

    return Computer


def _output_gradient(known: Known, index: int) -> tuple[Tensor, float]:
    """The gradient of a sample's model output, (parameters,), and its 1 − p."""
    if index < known.job.documents:
        loss, gradient = known.gradient(index)
        missing = max(-float(np.expm1(-loss)), 1e-6)
    else:
        measurement = known.measurements[index - known.job.documents]
        _, gradient = known.measured(measurement)
        missing = 1.0
    flat = torch.cat([value.flatten().float() for value in gradient.values()])
    return flat / -missing, missing
