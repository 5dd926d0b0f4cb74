"""What one more random draw would give: whether something lies above what chance alone leads to, from a few draws.

A few draws give no quantile of their own. Draws of several kinds, such as one model's twins on several datasets, share
a spread on a scale on which they are about normal, and with it a prediction interval for one more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from caploc.statistics.splits import Bootstrapped

NEAREST = 0.01
"""A share nearer to 0 or 1 is taken as this far from it, or its log odds would have no end."""
LEVEL = 0.05
"""How often one more draw lies above the bound that is predicted for it."""


def log_odds(share: np.ndarray | float) -> np.ndarray:
    """The scale on which shares are compared; one that is undefined counts as 0, as of masks without any neuron."""
    found: np.ndarray = special.logit(np.clip(np.nan_to_num(share), NEAREST, 1 - NEAREST))
    return found


@dataclass(frozen=True)
class OneMore:
    """``count`` draws of one kind with this ``mean``, and the ``spread`` of all kinds' draws round their means, on
    ``freedom`` degrees; in log odds."""

    mean: float
    spread: float
    count: int
    freedom: int

    @classmethod
    def of(cls, kinds: Sequence[np.ndarray], which: int) -> OneMore:
        """From the shares drawn of every kind, at least two each: one more of kind ``which``."""
        odds = [log_odds(one) for one in kinds]
        freedom = sum(len(one) - 1 for one in odds)
        squares = sum(float(((one - one.mean()) ** 2).sum()) for one in odds)
        return cls(float(odds[which].mean()), math.sqrt(squares / freedom), len(odds[which]), freedom)

    @property
    def quantile(self) -> float:
        """The share that 95 % of draws are estimated to stay below."""
        return float(special.expit(self.mean + stats.norm.isf(LEVEL) * self.spread))

    def bound(self, error: float = 0.0) -> float:
        """The share that one more draw exceeds in 5 of 100 cases at most (one-sided prediction interval, Student's t),
        if its log odds have this ``error`` besides what draws have: a prediction lies above the quantile."""
        reach = math.hypot(self.spread * math.sqrt(1 + 1 / self.count), error)
        return float(special.expit(self.mean + stats.t.ppf(1 - LEVEL, self.freedom) * reach))

    def beyond(self, own: Bootstrapped, level: float) -> tuple[float, float, float]:
        """How far a share lies above the bound for one more; and the ends of its interval above the quantile, with the
        error of ``own`` and that of the draws' mean. Of shares that are all as good as 1, none lies above."""
        odds = own.mapped(log_odds)
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * math.hypot(
            odds.error, self.spread / math.sqrt(self.count)
        )
        value, low, high = special.expit([odds.value, odds.value - reach, odds.value + reach])
        above = value - self.bound(odds.error), low - self.quantile, high - self.quantile
        value, low, high = np.round(above, 12).tolist()
        return value, low, high
