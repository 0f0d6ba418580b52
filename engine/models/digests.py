"""A digest of every tensor that a model computes with: its weights, however it got them."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

_MOST_THREADS = 16
_LENGTH = 16
"""Hexadecimal digits kept of a tensor's SHA-256: enough to tell which one changed."""


def weight_digests(model: nn.Module, *, all_buffers: bool = False) -> dict[str, str]:
    """By name, a digest of each parameter and persistent buffer, frozen ones included.

    SHA-256 of dtype, shape and bytes, several tensors at a time: about 0.7 s a gigabyte and core.
    Buffers that are not persistent are left out unless ``all_buffers``: models of transformers
    compute them from their config, and other processors may round them otherwise.
    """
    tensors = dict(_tensors(model, all_buffers))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        return dict(zip(tensors, threads.map(_digest, tensors.values()), strict=True))


def _tensors(model: nn.Module, all_buffers: bool) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            own = name.rpartition(".")[2]
            if all_buffers or own not in module._non_persistent_buffers_set:
                yield name, buffer


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{values.dtype} {list(values.shape)} ".encode())
    found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:_LENGTH]
