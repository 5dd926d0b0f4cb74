"""The self-check of tracing: rows that restore nothing must be the runs they differ from."""

from __future__ import annotations

import torch
from torch import Tensor

from caploc.errors import ModelError

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
# Below it a token is only seen to be as improbable in both.
_LEAST_LOG_PROB = -80.0


def check_reproduced(found: Tensor, expected: Tensor, dtype: torch.dtype, name: str, what: str) -> None:
    """Raise unless the log-probabilities ``found [..., Y]`` are those ``expected [..., Y]`` of the example ``name``.

    A model whose attention ignores the cache, the mask or the positions that it is given must not go silently wrong.

    Raises:
        ModelError: naming the example, ``what`` was run and the largest difference, or saying that the model's own
            numbers are nan.
    """
    if expected.isnan().any():
        raise ModelError(
            f"example {name!r}: the model gives probabilities that are not numbers (nan); check its weights, or try "
            "dtype float32"
        )
    off = (found.clamp_min(_LEAST_LOG_PROB) - expected.clamp_min(_LEAST_LOG_PROB)).abs().max().item()
    if not off <= _TOLERANCE[dtype]:
        raise ModelError(
            f"causal tracing does not reproduce this model: at example {name!r} a log-probability of {what} differs by "
            f"{off:.2g} (allowed {_TOLERANCE[dtype]:g}); its family or attention implementation is unsupported"
        )
