"""Classifying images with the models that ship."""

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
    """Cross-entropy of an image's label.

    Images are scaled to mean 0 and variance 1 in each channel, over the training data.
    """

    def read_data(self, source: SourceConfig, where: str) -> Examples:
        """Labelled images."""
        return read_images(source, where)

    def build_model(self, config: RunConfig, columns: Columns) -> nn.Module:
        """The model that ``model.path`` names, with ``model.options``.

        Raises:
            UsageError: if there is no such model or option.
        """
        name, options = config.model.path, dict(config.model.options)
        if name not in MODELS:
            raise UsageError(f"model.path: no model is called {name!r}; name {_listed(MODELS)}")
        classes = options.pop("classes", CLASSES)
        _check_options(MODELS[name], options)
        images, labels = columns["image"], columns["label"]
        if labels.min() < 0 or labels.max() >= classes:
            raise UsageError(
                f"model.options.classes: {classes}, but there are labels from {labels.min()} to "
                f"{labels.max()}; raise it"
            )
        return _Scaled(MODELS[name](images.shape[1:], classes, **options), images)

    def losses(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(images,) The cross-entropy of each label."""
        return F.cross_entropy(model(columns["image"]), columns["label"], reduction="none")


class _Scaled(nn.Module):
    """A model of images whose channels have mean 0 and variance 1 over the training data."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, images: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.network = network
        of_channels = [images[:, channel].astype(np.float64) for channel in range(images.shape[1])]
        for name, values in (
            ("mean", [pixels.mean() for pixels in of_channels]),
            ("deviation", [pixels.std() or 1.0 for pixels in of_channels]),
        ):
            # Of full precision: the model takes the type that it is trained in later.
            whole = torch.tensor(values, dtype=torch.float64)
            self.register_buffer(name, whole[:, None, None])

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
                f"model.options.{name} is not known; {_listed(['classes', *known])} are"
            )
        kind = type(known[name].default)
        fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not fits or isinstance(value, bool) or (kind is not str and not value > 0):
            what = "text" if kind is str else f"a positive {kind.__name__}"
            raise UsageError(f"model.options.{name}: {value!r} should be {what}")
    activation = options.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise UsageError(
            f"model.options.activation: {activation!r} is none of {_listed(ACTIVATIONS)}"
        )


def _listed(names: Any) -> str:
    return ", ".join(names)
