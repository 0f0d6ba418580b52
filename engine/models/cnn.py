"""The two-layer convolutional network of the paper's comparison on MNIST (arXiv 2504.16430)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": F.tanh,
}


class TwoLayerCNN(nn.Module):
    """Two convolutions, each halved in size by average pooling, and a linear layer."""

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
            classes: how many labels there are.
            width: channels of the first convolution; the second has twice as many.
            activation: a key of :data:`ACTIVATIONS`; only relu has a kink.
        """
        super().__init__()
        channels, height, across = shape
        self.activation = ACTIVATIONS[activation]
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width * (height // 4) * (across // 4), classes)

    def forward(self, images: Tensor) -> Tensor:
        """(images, classes) logits of (images, channels, height, width)."""
        x = F.avg_pool2d(self.activation(self.first(images)), 2)
        x = F.avg_pool2d(self.activation(self.second(x)), 2)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]
