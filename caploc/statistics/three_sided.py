"""On which side of a margin an effect lies."""

from __future__ import annotations

import math
from enum import StrEnum

from caploc.statistics.checks import StatisticsError
from caploc.statistics.intervals import Interval


class Side(StrEnum):
    """Where an effect was shown to lie; UNDECIDED if it was not."""

    ABOVE = "above"
    BELOW = "below"
    WITHIN = "within"
    UNDECIDED = "undecided"


def three_sided(interval: Interval, low: float, high: float, inner: Interval | None = None) -> Side:
    """Above, below or within the margin `low` .. `high`, if the whole interval is (Goeman, Solari & Stijnen 2010).

    ABOVE and BELOW ask it of `interval`, of level 1 - a, WITHIN of `inner`, the same effect's interval of level 1 - 2a
    as in `tost`, or of `interval` itself if none is given, which is stricter. Exactly one of the three regions holds
    the truth, so each wrong answer has probability a at most, and so have all together, without a correction for
    making three tests: seen from any true effect, every wrong answer means that `interval`, or one end of `inner`,
    missed it. That holds for intervals with equal tails of a / 2 and a. The margin may be infinite on one side, and
    an interval that touches it is undecided. Raises `StatisticsError` for a margin or a pair of levels without
    meaning.
    """
    if math.isnan(low) or math.isnan(high) or low > high:
        raise StatisticsError(f"the margin {low} .. {high} is empty: low must not exceed high")
    if inner is not None and not 2 * interval.level - 1 - 1e-9 <= inner.level <= interval.level:
        raise StatisticsError(
            f"inner has level {inner.level:g}: beside an interval of level {interval.level:g} it must have "
            f"{max(0.0, 2 * interval.level - 1):g} at least, and at most as much"
        )
    if interval.low > high:
        return Side.ABOVE
    if interval.high < low:
        return Side.BELOW
    return Side.WITHIN if (inner or interval).inside(low, high) else Side.UNDECIDED
