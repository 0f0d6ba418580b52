"""A logistic regression as a task of magic."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import engine
from engine.runs.errors import UsageError


class Flowers(engine.ExampleTask):
    """Whether a plant flowers early, from two measurements."""

    def read_data(self, source, where):
        """The rows of a CSV file as examples: what the model gets, and a text for lists."""
        if not Path(source.path).is_file():
            raise UsageError(f"{where}.path: no file at {source.path}; run make_data.py first")
        table = np.genfromtxt(source.path, delimiter=",", skip_header=1)
        columns = {"measurements": table[:, :2], "early": table[:, 2]}
        names = [f"width {w:.2f}, height {h:.2f}, early {e:.0f}" for w, h, e in table]
        return engine.Examples(columns, names, np.arange(len(table)))

    def build_model(self, config, columns):
        """A linear layer; the weights are drawn from the run's seed."""
        return torch.nn.Linear(columns["measurements"].shape[1], 1)

    def losses(self, model, columns):
        """(examples,) Cross-entropy of each label."""
        logits = model(columns["measurements"])[:, 0]
        return F.binary_cross_entropy_with_logits(logits, columns["early"], reduction="none")
