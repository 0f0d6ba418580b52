"""Batch norm with differentiable running statistics.

torch updates running statistics outside autograd, and does not differentiate in them where they are
used. Here both are part of the graph: with momentum m, over the n values of a channel,

    mean' = (1-m) mean + m E[x],    var' = (1-m) var + m Var[x] n/(n-1),

and in eval mode y = (x - mean) / √(var + eps) · weight + bias. The output while training is
torch's own.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch-norm layers, by name, whose current mode updates running statistics."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        and type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        and layer.training
        and layer.running_mean is not None
    }


@contextlib.contextmanager
def differentiable(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, a forward pass of the layers replaces their buffers with new, differentiable ones.

    The caller sets the buffers before the pass and restores the original ones after it.
    """
    plain = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer, own in zip(layers, plain, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _forward(layer: Any, x: Tensor) -> Tensor:
    layer._check_input_dim(x)
    if not layer.training:
        return _with_running_statistics(layer, x)
    output = F.batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps)
    layer.num_batches_tracked = layer.num_batches_tracked + 1
    momentum = layer.momentum
    if momentum is None:
        momentum = 1.0 / int(layer.num_batches_tracked)
    variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=1)
    layer.running_mean = (1 - momentum) * layer.running_mean + momentum * mean
    layer.running_var = (1 - momentum) * layer.running_var + momentum * variance
    return output


def _with_running_statistics(layer: Any, x: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(layer.running_var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight
    y: Tensor = (x - layer.running_mean.view(shape)) * scale.view(shape)
    return y if layer.bias is None else y + layer.bias.view(shape)
