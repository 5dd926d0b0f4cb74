"""The engine's self-check: the packed pass at alpha = 1 must be the clean run."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from caploc.attribution.clean import CleanPass
from caploc.attribution.packed import Gradients
from caploc.errors import ModelError

_LOG_PROB_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
# Below it a float32 probability loses its digits, then is zero: such a token is only seen to be as improbable in both.
_LEAST_LOG_PROB = -80.0


def check_against_clean(
    clean: CleanPass, unscaled: Mapping[int, Gradients], dtype: torch.dtype, name: str
) -> None:
    """Raise if the packed pass at alpha = 1 does not give the clean run's log-probabilities.

    It is the engine's self-check, done for every example: a model whose attention ignores the cache, the mask or the
    positions that it is given (GPT-Neo: off by 0.69) must not go silently wrong.

    Raises:
        ModelError: naming the example and the largest difference, or saying that the model's own numbers are nan.
    """
    if clean.log_probs.isnan().any():
        raise ModelError(
            f"example {name!r}: the model gives probabilities that are not numbers (nan); check its weights, or try "
            "dtype float32"
        )
    packed = next(iter(unscaled.values())).probabilities[0].log().clamp_min(_LEAST_LOG_PROB)
    off = (packed - clean.log_probs.clamp_min(_LEAST_LOG_PROB)).abs().max().item()
    if not off <= _LOG_PROB_TOLERANCE[dtype]:
        raise ModelError(
            f"packed attribution does not reproduce this model: at example {name!r} a log-probability differs by "
            f"{off:.2g} (allowed {_LOG_PROB_TOLERANCE[dtype]:g}); its family or attention implementation is unsupported"
        )
