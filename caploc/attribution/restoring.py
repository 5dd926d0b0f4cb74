"""Borrow a model for gradients and give it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel


@contextmanager
def frozen_eval(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no parameter gradients; every module's mode and parameter's flag comes back on leaving."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        model.eval()
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """``forward`` in the place of the module's own; what stood there, another library's wrapper too, comes back."""
    own = module.__dict__.get("forward")  # where another library has wrapped the module already
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
