"""A float32 output head for models in half precision: probabilities and their gradients are small differences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


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
    """Compute the logits of a bfloat16 or float16 ``model`` in float32; the model's own head comes back on leaving.

    Costs vocabulary x width x 4 bytes while it lasts. Models in float32 and float64 are left alone.
    """
    if model.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    head = model.get_output_embeddings()
    model.set_output_embeddings(_WideHead(head))
    try:
        yield
    finally:
        model.set_output_embeddings(head)
