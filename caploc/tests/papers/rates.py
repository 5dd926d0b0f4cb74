"""How often a rule says SUPPORTED on simulated data: seldom where nothing is there, mostly where something is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from caploc.findings import Outcome, Verdict

RUNS = 200
AT_MOST = 10
"""5 % of the runs."""
AT_LEAST = 160
"""80 % of the runs."""


def rates(simulate: Callable[[int], Verdict]) -> Counter[str]:
    """The outcomes of `RUNS` runs; each is given its number, of which its seed is made."""
    return Counter(simulate(run).outcome.value for run in range(RUNS))


def assert_seldom(simulate: Callable[[int], Verdict]) -> None:
    """SUPPORTED by accident in at most 5 % of the runs."""
    found = rates(simulate)
    assert found[Outcome.SUPPORTED] <= AT_MOST, f"of {RUNS} runs in which nothing is there: {dict(found)}"


def assert_often(simulate: Callable[[int], Verdict]) -> None:
    """SUPPORTED in at least 80 % of the runs."""
    found = rates(simulate)
    assert found[Outcome.SUPPORTED] >= AT_LEAST, f"of {RUNS} runs with the planted effect: {dict(found)}"
