"""What is read off the logits of rows, in float32 at least, and the self-check: rows without a change are the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caploc.errors import ModelError, against_nan

_LOG_PROB_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
# Below it a float32 probability loses its digits, then is zero: such a token is only seen to be as improbable in both.
_LEAST_LOG_PROB = -80.0


def target_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """log P(target) ``[..., Y]`` from logits ``[..., Y, vocabulary]``, in float32 at least."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    chosen = wide.gather(-1, targets.expand(wide.shape[:-1])[..., None])[..., 0]
    return chosen - wide.logsumexp(-1)


class TargetProbability(torch.autograd.Function):
    """P(target) ``[R, C]`` from logits ``[R, C, vocabulary]``, with a gradient that spares memory.

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


def check_reproduced(found: Tensor, expected: Tensor, dtype: torch.dtype, name: str, what: str) -> None:
    """Raise unless the log-probabilities ``found [..., Y]`` are those ``expected [..., Y]`` of a plain run.

    Every method checks rows that change nothing, on every call: a model whose attention ignores the cache, the mask or
    the positions that it is given (GPT-Neo: off by 0.69) must not go silently wrong.

    Args:
        dtype: the model's.
        name: of the example.
        what: was run.

    Raises:
        ModelError: naming the example and the largest difference, or saying that the model's own numbers are nan.
    """
    if expected.isnan().any():
        raise ModelError(
            f"example {name!r}: the model gives probabilities that are not numbers (nan); {against_nan(dtype)}"
        )
    off = (found.clamp_min(_LEAST_LOG_PROB) - expected.clamp_min(_LEAST_LOG_PROB)).abs().max().item()
    if not off <= _LOG_PROB_TOLERANCE[dtype]:
        raise ModelError(
            f"a pass of rows does not reproduce this model: at example {name!r} a log-probability of {what} differs by "
            f"{off:.2g} (allowed {_LOG_PROB_TOLERANCE[dtype]:g}); its family, attention implementation or "
            "configuration (is_causal, use_bidirectional_attention, rope) is unsupported"
        )
