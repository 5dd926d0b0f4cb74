"""The probability of the target tokens, in float32 at least, with a gradient that spares memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def target_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """log P(target) ``[..., Y]`` from logits ``[..., Y, vocabulary]``, in float32 at least."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    chosen = wide.gather(-1, targets.expand(wide.shape[:-1])[..., None])[..., 0]
    return chosen - wide.logsumexp(-1)


class TargetProbability(torch.autograd.Function):
    """P(target) ``[R, C]`` from logits ``[R, C, vocabulary]``.

    Equal to ``logits.softmax(-1).gather(-1, target)``, whose autograd makes three more tensors as large as the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        probabilities = target_log_probs(logits, targets).exp()
        ctx.save_for_backward(logits, targets, probabilities)
        return probabilities

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, targets, probabilities = ctx.saved_tensors
        scale = (grad * probabilities)[..., None]  # dP/dlogits = P (onehot - softmax)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        slope = wide.softmax(-1).mul_(-scale)
        slope.scatter_add_(-1, targets.expand(logits.shape[:-1])[..., None], scale)
        return slope.to(logits.dtype), None
