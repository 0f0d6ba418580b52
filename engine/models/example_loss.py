"""The loss of a task whose examples have one loss each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.runs.errors import UsageError

Columns = dict[str, Tensor]
PerExample = Callable[[nn.Module, Columns], Tensor]


class ExampleLoss(nn.Module):
    """(1/D) Σ w·ℓ over a batch of examples; in eval mode of what is measured in place of ℓ.

    Parameters and buffers keep the model's names under ``model.``.
    """

    def __init__(self, model: nn.Module, losses: PerExample, measure: PerExample) -> None:
        """Both functions take the model and a batch's columns and give one number an example."""
        super().__init__()
        self.model = model
        self.losses = losses
        self.measure = measure

    def forward(self, example_weight: Tensor, num_items_in_batch: int, **columns: Any) -> Tensor:
        """The weighted loss of a batch: a scalar.

        Args:
            example_weight: (examples,) data weights.
            num_items_in_batch: D, what the sum is divided by.
            columns: (examples, …) what the model is given.

        Raises:
            UsageError: if the task does not give one number an example.
        """
        of = self.losses if self.training else self.measure
        values = of(self.model, columns)
        if values.shape != example_weight.shape:
            raise UsageError(
                f"task: {getattr(of, '__qualname__', of)} gives a tensor of shape "
                f"{tuple(values.shape)} for {len(example_weight)} examples; give one number each"
            )
        return torch.dot(example_weight, values) / num_items_in_batch
