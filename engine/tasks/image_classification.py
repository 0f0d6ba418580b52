"""The task of classifying images with a built-in model."""

import inspect
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.data.examples import Columns, Examples
from engine.data.images import read_images
from engine.models.image_models import ACTIVATIONS, ResNet9, TwoLayerCNN
from engine.runs.config import RunConfig, SourceConfig
from engine.runs.errors import UsageError
from engine.tasks.task import ExampleTask

MODELS: dict[str, type[nn.Module]] = {"cnn": TwoLayerCNN, "resnet9": ResNet9}
CLASSES = 10


class ImageClassification(ExampleTask):
    """Cross-entropy of the label of an image.

    Images are normalised to mean 0 and variance 1 per channel over the training data.
    """

    def read_data(self, source: SourceConfig, where: str) -> Examples:
        """Labelled images."""
        return read_images(source, where)

    def build_model(self, config: RunConfig, columns: Columns) -> nn.Module:
        """The model named by ``model.path``, with ``model.options``.

        Raises:
            UsageError: if the model, an option or a label is not known.
        """
        name, options = config.model.path, dict(config.model.options)
        if name not in MODELS:
            raise UsageError(
                f"model.path: {name!r} is not a built-in model; give one of {_listed(MODELS)}"
            )
        classes = options.pop("classes", CLASSES)
        _check_options(MODELS[name], options)
        images, labels = columns["image"], columns["label"]
        if labels.min() < 0 or labels.max() >= classes:
            raise UsageError(
                f"model.options.classes: {classes}, but labels range from {labels.min()} to "
                f"{labels.max()}; use labels from 0, and more classes than the largest"
            )
        return _Scaled(MODELS[name](images.shape[1:], classes, **options), images)

    def losses(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(images,) The cross-entropy of each label."""
        return F.cross_entropy(model(columns["image"]), columns["label"], reduction="none")


class _Scaled(nn.Module):
    """A model behind a normalisation of each channel to mean 0 and variance 1."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, images: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.network = network
        channels = [images[:, channel].astype(np.float64) for channel in range(images.shape[1])]
        for name, values in (
            ("mean", [pixels.mean() for pixels in channels]),
            ("deviation", [pixels.std() or 1.0 for pixels in channels]),
        ):
            # In full precision; the whole model is converted to its training dtype later.
            values64 = torch.tensor(values, dtype=torch.float64)
            self.register_buffer(name, values64[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.to(self.mean.dtype)
        return cast(Tensor, self.network((pixels - self.mean) / self.deviation))


def _check_options(model: type[nn.Module], options: dict[str, Any]) -> None:
    known = {
        name: parameter
        for name, parameter in inspect.signature(model).parameters.items()
        if parameter.default is not parameter.empty
    }
    for name, value in options.items():
        if name not in known:
            raise UsageError(
                f"model.options.{name} is not an option; give one of {_listed(['classes', *known])}"
            )
        kind = type(known[name].default)
        fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not fits or isinstance(value, bool) or (kind is not str and not value > 0):
            what = "a string" if kind is str else f"a positive {kind.__name__}"
            raise UsageError(f"model.options.{name}: {value!r} is not {what}")
    activation = options.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise UsageError(
            f"model.options.activation: {activation!r} is not one of {_listed(ACTIVATIONS)}"
        )


def _listed(names: Any) -> str:
    return ", ".join(names)
