"""The kinds of rules: which thresholds each reads from a claim's entry, and which numbers from a finding.

A finding is ordered so that a positive difference speaks for the claim. ``interval`` is its 95 % interval. A rule over
several parts reads, for each part NAME, the quantities ``NAME:low``, ``NAME:high`` (95 %), ``NAME:low90``,
``NAME:high90`` (90 %), and where it says so the p value ``NAME``, corrected within the finding.
`caploc.statistics.Effect` writes them.

Supported / refuted:

================== ===================================================================================================
``lower_bound``    the interval lies above ``supported_above`` / below ``refuted_below``
``upper_bound``    the estimate (no sampling error: a share of neurons) is below / above
``interval_below`` the interval lies below ``supported_below`` / above ``refuted_above``
``overlap_below``  as ``interval_below``, if the baseline of unrelated items is lower: unless the quantity
                   ``baseline_gap:low`` (overlap minus baseline) lies above 0, INCONCLUSIVE
``within``         the interval lies within ``supported_low`` .. ``supported_high`` / wholly outside
                   ``refuted_low`` .. ``refuted_high``
``lower_bounds``   parts ``bound:*``: all lie above ``supported_above`` / all lie below ``refuted_below``
``both``           overlap and IoU of one cell, each a ``lower_bound`` of another claim: both / either
``agreement``      parts ``number:KEY`` against the claim's printed numbers of those keys, or table cells of those
                   ids, or else the interval against the number printed for the cell: all within the claim's margin /
                   one wholly outside it. A finding with neither (the paper prints nothing for its model): INCONCLUSIVE
``readings``       parts ``reading:*`` against the claim's first printed number: all agree / none does. A finding
                   without them that quotes no printed number: INCONCLUSIVE
``difference``     within minus between, permutation p, and scrambled text (see `rules.differences`)
``plain_difference`` the interval lies above 0 and the quantities ``gap90_low``, ``gap90_high`` (90 %) not within
                   ``equivalence_margin`` of 0 / below 0 or equivalent
``comparison``     parts ``effect:*``, each with a p value: all lie above 0 with p below the level and are not
                   equivalent to 0 within ``equivalence_margin`` / one lies at or below 0, or is equivalent to 0
``best_of``        parts ``effect:*``, each the best rival subtracted: at least ``share`` of the estimates
                   (``NAME:estimate``) above 0, the p value ``best`` (that this is luck) below the level, and no part's
                   interval below 0 / a part's interval lies below 0
``specificity``    part ``effect:own`` as in ``comparison``; part ``effect:other`` equivalent to 0 within
                   ``other_margin`` / own refuted, or the whole interval of other beyond ``other_refuted`` (either
                   side)
``equivalence``    parts ``effect:*``: at least ``share`` of them have their 90 % interval within ``margin`` / so many
                   lie wholly outside it that the share cannot be reached
``non_inferiority`` parts ``effect:*``: every interval lies above ``-margin`` / one lies wholly below it
``above_chance``   p values ``pair:*`` all below ``pair_level`` and ``layer:*`` below the level / no pair's below
                   ``refuted_level`` (see `rules.chance`)
``partition``      the range over partitions is below ``supported_below`` / the worst structured one lies more than
                   ``refuted_above`` lower
``trend``          rising, then flat: the p value ``trend`` below the level, the quantity ``rise`` above and the last
                   increment (90 %) below ``last_supported_below`` / not rising (``trend_tau``), or the last increment
                   above ``last_refuted_above``
``monotone``       the p value ``trend`` is below the level and the estimate above 0 / the p value ``reversal`` is
                   below the level, whatever the trend
``one_reading``    of the quantities ``ratio_std`` and ``ratio_variance`` exactly one lies within ``low`` .. ``high`` /
                   neither does
``vanishing_error`` the estimate (an error) is below ``supported_below`` and below the quantity ``coarse`` / not below
                   ``coarse``
``consistent``     the estimate counts violations: none / any
``derived``        follows from the verdicts of ``claims`` (`rules.derive`): all supported / any refuted. With
                   ``universal`` 1 the claim is a universal negative, which no finite set of methods supports and no
                   lost premise refutes: INCONCLUSIVE instead
``untestable``     no measurement decides it: always INCONCLUSIVE
================== ===================================================================================================

In every other case the verdict is INCONCLUSIVE, and so it is for a floor effect and where a number is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping

PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "lower_bound": ("supported_above", "refuted_below"),
    "upper_bound": ("supported_below", "refuted_above"),
    "interval_below": ("supported_below", "refuted_above"),
    "overlap_below": ("supported_below", "refuted_above"),
    "within": ("supported_low", "supported_high", "refuted_low", "refuted_high"),
    "lower_bounds": ("supported_above", "refuted_below"),
    "both": (),
    "agreement": (),
    "readings": (),
    "difference": ("equivalence_margin",),
    "plain_difference": ("equivalence_margin",),
    "comparison": ("equivalence_margin",),
    "best_of": ("share",),
    "specificity": ("equivalence_margin", "other_margin", "other_refuted"),
    "equivalence": ("margin", "share"),
    "non_inferiority": ("margin",),
    "above_chance": ("pair_level", "refuted_level"),
    "partition": ("supported_below", "refuted_above"),
    "trend": ("last_supported_below", "last_refuted_above"),
    "monotone": (),
    "one_reading": ("low", "high"),
    "vanishing_error": ("supported_below",),
    "consistent": (),
    "derived": ("universal",),
    "untestable": (),
}

# rules that take the thresholds of other claims: field naming the claim -> prefix of the copied parameters
REFERENCES: Mapping[str, Mapping[str, str]] = {"both": {"overlap_claim": "overlap_", "iou_claim": "iou_"}}

COMPARISONS = ("difference", "plain_difference", "comparison", "best_of", "specificity", "above_chance")
"""Rules that set located against something else; their claims state the effect that they are meant to detect."""

DERIVED = ("derived",)
