"""What an evaluation gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Of each set on each item; without sets, of each item. Numpy arrays.

    score  float64 from 0 to 1, by the prepared scoring
    nll    float64, nats per token of the reference answer, teacher forced
    exact  every token of the reference is the likeliest one, teacher forced
    ended  generation came to an end; True where none was needed. Where it is False, ``score`` is what the text so far
           gives.
    """

    score: Float[np.ndarray, "*sets items"]
    nll: Float[np.ndarray, "*sets items"]
    exact: Bool[np.ndarray, "*sets items"]
    ended: Bool[np.ndarray, "*sets items"]

    def of_set(self, index: int) -> Outcomes:
        """One set's, without the axis of sets."""
        return Outcomes(self.score[index], self.nll[index], self.exact[index], self.ended[index])
