"""Image classifiers of the paper's experiments (arXiv 2504.16430).

:class:`TwoLayerCNN` is the MNIST model. :class:`ResNet9` is the CIFAR-10 model (Table 1), smooth
enough to differentiate through its training: batch norm before every activation, log-sum-exp
pooling in place of maxima, wider layers, and scaled logits.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": F.tanh,
}


class TwoLayerCNN(nn.Module):
    """Two convolutions, each followed by 2×2 average pooling, and a linear layer."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: int = 32,
        activation: str = "relu",
    ) -> None:
        """A network for images of a shape.

        Args:
            shape: channels, height and width of an image.
            classes: the number of labels.
            width: channels of the first convolution; the second has twice as many.
            activation: a key of :data:`ACTIVATIONS`; all but relu are smooth.
        """
        super().__init__()
        channels, height, breadth = shape
        self.activation = ACTIVATIONS[activation]
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width * (height // 4) * (breadth // 4), classes)

    def forward(self, images: Tensor) -> Tensor:
        """(images, classes) logits of (images, channels, height, width)."""
        x = F.avg_pool2d(self.activation(self.first(images)), 2)
        x = F.avg_pool2d(self.activation(self.second(x)), 2)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


WIDTHS = (64, 128, 256, 128)
"""Channels at width 1 of the stem, the two residual blocks and the last layer."""


class ResNet9(nn.Module):
    """Eight convolutions, four of them in residual blocks, and a linear layer without a bias."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: float = 2.5,
        pooling_epsilon: float = 0.1,
        final_scale: float = 0.04,
        activation: str = "relu",
    ) -> None:
        """A network for images of a shape.

        Args:
            shape: channels, height and width of an image.
            classes: the number of labels.
            width: factor on the channels of every layer.
            pooling_epsilon: ε of :func:`smooth_maximum`; ε → 0 gives the maximum.
            final_scale: factor on the logits.
            activation: a key of :data:`~engine.models.image_models.ACTIVATIONS`.
        """
        super().__init__()
        stem, first, second, last = (max(1, round(width * channels)) for channels in WIDTHS)
        self.epsilon, self.scale = pooling_epsilon, final_scale
        self.stem = _Convolution(shape[0], stem, 3, activation)
        self.down = _Convolution(stem, first, 5, activation, stride=2)
        self.first = _Residual(first, activation)
        self.middle = _Convolution(first, second, 3, activation)
        self.second = _Residual(second, activation)
        self.last = _Convolution(second, last, 3, activation, padding=0)
        self.head = nn.Linear(last, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(images, classes) logits of (images, channels, height, width)."""
        x = self.first(self.down(self.stem(images)))
        x = smooth_maximum(_windows(self.middle(x)), self.epsilon)
        x = smooth_maximum(self.last(self.second(x)).flatten(2), self.epsilon)
        return self.head(x) * self.scale  # type: ignore[no-any-return]


def smooth_maximum(x: Tensor, epsilon: float) -> Tensor:
    """ε log Σ exp(x/ε) over the last dim of n entries: at most ε log n above the maximum."""
    return epsilon * torch.logsumexp(x / epsilon, dim=-1)


def _windows(x: Tensor) -> Tensor:
    """(…, height, width) to (…, height/2, width/2, 4); an odd last row or column is dropped."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    even = x[..., : 2 * height, : 2 * width]
    parts = even.reshape(*x.shape[:-2], height, 2, width, 2)
    return parts.transpose(-3, -2).flatten(-2)


class _Convolution(nn.Module):
    """A convolution without a bias, batch norm and the activation."""

    def __init__(
        self,
        channels: int,
        width: int,
        size: int,
        activation: str,
        *,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding_size = size // 2 if padding is None else padding
        self.conv = nn.Conv2d(channels, width, size, stride, padding_size, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class _Residual(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.one = _Convolution(width, width, 3, activation)
        self.two = _Convolution(width, width, 3, activation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))  # type: ignore[no-any-return]
