"""``--samples auto``: which claims are looked at before their last fact is in, and what a finding is held to at a look.

A cell is measured on a quarter, a half and all of the facts that a run takes by default, each time on the first of the
same order, and the first look at which its rule says SUPPORTED or REFUTED is the last. So that looking three times errs
no more often than looking once, the level is spent over the looks (`caploc.statistics.sequential`), on every side of
every interval and on every p value:

- **intervals** are widened about the estimate, by the look's boundary over the z of one look: repeated confidence
  intervals (Jennison and Turnbull 1989), which hold at all looks together with the level that they name;
- **p values** are multiplied by the level over what the look may spend of it, so that a rule compares them with its
  level as ever.

Rules, thresholds and verdicts are then what they are without looks, and whoever judges a finding again, from a ledger,
comes to the same verdict. A normal scale is not exact: an interval of counts near 0, whose tail is exponential, errs by
2.9 % a side instead of 2.5 % (the statistics benchmark simulates the rules as they are).

What keeps its full number is in the docstring of `EARLY`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scipy.stats import norm

from caploc.findings import Chance, Effect, Finding, Outcome, Part, Range
from caploc.rules.base import ONE_SIDED, TWO_SIDED, widened
from caploc.statistics import boundaries

if TYPE_CHECKING:
    from caploc.papers import Claim

SHARES = (0.25, 0.5, 1.0)
"""Of the default number of facts. Where the fewest that can be judged are more than a share, the looks have more in
common than these say, and err less."""
DECIDED = (Outcome.SUPPORTED, Outcome.REFUTED)
EARLY = frozenset(
    {
        "decoupling.individual_low",
        "decoupling.rate_of_a_task",
        "decoupling.rate_of_two_tasks",
        "fidelity.circuits_identical",
        "fidelity.kc_granularity",
        "fidelity.kc_param_share",
        "fidelity.kn_mean_located",
        "fidelity.ordering",
        "fidelity.overlap",
        "premises.kc_recall_premise",
        "premises.kn_verification",
        "query_overlap.last_token",
        "query_overlap.wording_effect",
        "reliability_kc.kc_recalled_param_share",
        "reliability_kn.kn_double",
        "reliability_kn.kn_no_strong_correlation",
        "reliability_kn.kn_not_necessarily",
        "reliability_kn.kn_similar_to_random",
        "reliability_kn.kn_zero",
        "synapses.attention_neglected",
        "synapses.selects",
        "synapses.suppress_answer",
        "synapses.suppress_neurons",
    }
)
"""Experiments whose numbers are of facts each located alone, so that fewer of them measure the same, less precisely.

All others keep their full number, since with fewer samples they would measure something else, or save nothing:

- what is located with many examples (Table 1 and all that is erased, scaled or trained by it), whose halves agree the
  more, the more there are: their curve is extrapolated from the full number;
- what is chosen or fitted on other facts (edited layers, the size of a change, neighbours, IPP, classes);
- guards that hold unless the contrary is shown, which a wider interval would lift (recall against controls);
- scores of evaluation items, of which the p value against 100 random sets is too coarse for an early level;
- counts, and the paper's own sizes."""


@dataclass(frozen=True)
class Look:
    """One look: its ``number``, from 1."""

    number: int

    @property
    def share(self) -> float:
        """Of the default number of facts."""
        return SHARES[self.number - 1]

    @property
    def last(self) -> bool:
        return self.number == len(SHARES)

    def z(self, level: float) -> float:
        """The boundary of a one-sided test of this level."""
        return boundaries(SHARES, level)[self.number - 1]

    def wider(self, level: float) -> float:
        """By what an interval that leaves ``level`` beyond an end is widened there."""
        return self.z(level) / float(norm.isf(level))

    def spends(self, level: float) -> float:
        """What a one-sided p must lie below for a test of this level."""
        return float(norm.sf(self.z(level)))

    @property
    def words(self) -> str:
        """For the notes of a finding."""
        share = "all" if self.last else f"{self.share:g}"
        return (
            f"judged at look {self.number} of {len(SHARES)} (--samples auto), on {share} of the default number of "
            f"facts, at the one-sided level {self.spends(ONE_SIDED):.2g} that {ONE_SIDED:g} over all looks leaves to "
            "this one: intervals are widened and p values raised accordingly"
        )


LOOKS = tuple(Look(number) for number in range(1, len(SHARES) + 1))


def held_to(finding: Finding, look: Look, claim: Claim) -> Finding:
    """The finding of a look as its rule may judge it: with repeated confidence intervals and p values."""
    found = finding.measurement
    if found.not_run is not None:
        return finding
    settings = {"look": f"{look.number} of {len(SHARES)}", "share of the default facts": look.share}
    return replace(
        finding,
        measurement=replace(
            found,
            value=None if found.value is None else _held(found.value, look, claim.level),
            parts={name: _held(one, look, claim.level) for name, one in found.parts.items()},
        ),
        settings={**finding.settings, **settings},
        notes=[look.words, *finding.notes],
    )


def _held(one: Part, look: Look, level: float) -> Part:
    raised = level / look.spends(level)
    held = replace(
        one,
        interval=_widened(one, one.interval, look.wider(TWO_SIDED)),
        interval90=_widened(one, one.interval90, look.wider(ONE_SIDED)),
        p=_raised(one.p, raised),
        method=f"{one.method}, held at look {look.number}" if one.method else "",
    )
    return replace(held, p_by_layer=_raised(held.p_by_layer, raised)) if isinstance(held, Chance) else held


def _widened(one: Part, ends: Range | None, by: float) -> Range | None:
    """`caploc.rules.base.widened`; a fraction stays one."""
    if ends is None:
        return None
    low, high = ends
    wide = widened(ends, one.estimate, by)
    if not isinstance(one, Effect) and one.unit in ("fraction", "share") and low >= 0 and high <= 1:
        return max(0.0, wide[0]), min(1.0, wide[1])
    return wide


def _raised(p: float | None, by: float) -> float | None:
    return p if p is None or math.isnan(p) else min(1.0, p * by)
