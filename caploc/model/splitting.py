"""A model whose layers lie on several GPUs, for one that does not fit on one of them.

Embeddings, the final norm and the head lie on the first device, which is the model's; the layers on all, in equal runs.
A layer that lies elsewhere takes there what it is given, and gives back to the first device what it makes. So between
layers all is on one device, whoever runs the model; what reads or changes a layer's inside meets tensors on the
layer's own. Keys and values stay with their layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caploc.architectures import Architecture


class _Elsewhere:
    """The forward of a layer on another device than ``home``."""

    def __init__(self, layer: nn.Module, device: torch.device, home: torch.device) -> None:
        self._own, self._device, self._home = layer.forward, device, home

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return moved(self._own(*moved(args, self._device), **moved(kwargs, self._device)), self._home)


def moved(value: Any, device: torch.device) -> Any:
    """The same on ``device``: tensors, also inside of tuples and dictionaries; all else, such as caches, as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    return value


def place(model: PreTrainedModel, architecture: Architecture, devices: Sequence[torch.device]) -> None:
    """Put ``model`` on ``devices``, split over them if there are several; it may have been split before."""
    layers = architecture.decoder_layers(model)
    for layer in layers:
        if isinstance(layer.__dict__.get("forward"), _Elsewhere):
            del layer.forward
    where = [devices[number * len(devices) // len(layers)] for number in range(len(layers))]
    # each goes straight to its own device: the first has no room for all
    for layer, device in zip(layers, where, strict=True):
        layer.to(device)
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensor.data = tensor.data.to(devices[0])
    for layer, device in zip(layers, where, strict=True):
        if device != devices[0]:
            layer.forward = _Elsewhere(layer, device, devices[0])
