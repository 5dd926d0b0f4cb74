"""Borrow a model: call its layers by name, run it without gradients of its own, and give it back as it was."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caploc.rows.sizing import refused_if_too_large


class Borrower(ABC):
    """What changes a model for as long as its ``with`` block lasts: ``_borrow`` enters what leaving undoes, also where
    it raises midway."""

    _stack = ExitStack()

    @abstractmethod
    def _borrow(self, stack: ExitStack) -> None: ...

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._borrow(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


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


def keywords(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a decoder layer's call, all by name; families differ in which they pass by position."""
    named = _signature(type(layer).forward).bind(layer, *args, **kwargs).arguments
    extra = named.pop("kwargs", {})
    return {**{name: value for name, value in named.items() if name != "self"}, **extra}


@lru_cache(maxsize=64)
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


def states_of(output: Any) -> Tensor:
    """The states in what a decoder layer returns: itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


class _WideHead(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        weight, bias = head.get_parameter("weight"), getattr(head, "bias", None)
        self._weight = weight.detach().float()
        self._bias = None if bias is None else bias.detach().float()

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states.float(), self._weight, self._bias)


@contextmanager
def wide_head(model: PreTrainedModel) -> Iterator[None]:
    """Compute the logits of a bfloat16 or float16 ``model`` in float32: probabilities and their gradients are small
    differences. The model's own head comes back on leaving.

    Costs vocabulary x width x 4 bytes while it lasts. Models in float32 and float64 are left alone.
    """
    if model.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    head = model.get_output_embeddings()
    with refused_if_too_large("the output head in float32, beside the model,"):
        wide = _WideHead(head)
    model.set_output_embeddings(wide)
    try:
        yield
    finally:
        model.set_output_embeddings(head)
