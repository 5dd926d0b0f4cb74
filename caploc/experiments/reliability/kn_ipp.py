"""The poster's IPP of KN (11.4 %)."""

from __future__ import annotations

import numpy as np
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts.report import interval_parts, printed_floor

from caploc.experiments.reliability.report import measured, reliability_finding
from caploc.experiments.scaled_facts import DOUBLED, LAYER, LOCATED, MAGNITUDE, UNIFORM, ZEROED, Scaled
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import Ipp, ipp

BOTH = (DOUBLED, ZEROED)


@ends_in_a_finding
def kn_ipp(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kn-ipp``: performance is the mean share that moves as predicted, doubled and zeroed.

    A random choice takes one random set a fact, matched by layer; uniform sets, sets matched by magnitude and the other
    readings of performance stand beside.
    """
    found = measured(study, cell)
    scaled = found.known
    seed = study.settings.seed
    own = _ipp(scaled, BOTH, LAYER, seed)
    others = {
        "doubling alone": _ipp(scaled, (DOUBLED,), LAYER, seed),
        "zeroing alone": _ipp(scaled, (ZEROED,), LAYER, seed),
        **{f"{arm} sets": _ipp(scaled, BOTH, arm, seed) for arm in (UNIFORM, MAGNITUDE) if scaled.has(arm)},
    }
    return reliability_finding(
        study,
        found,
        cell,
        claim,
        "IPP: share that moves as predicted, located minus the best random choice",
        estimate=own.estimate,
        interval=(own.interval.low, own.interval.high),
        interval_kind="95 %, bootstrap over facts, the best choice found on one half and scored on the other",
        quantities={
            **interval_parts(claim, cell, {"ipp": (own.estimate, own.interval)}),
            "chosen and scored on the same facts (biased)": own.same_items,
            "against the mean choice": own.mean_choice,
            **{name: other.estimate for name, other in others.items()},
            "mean size of the four differences": _unsigned(scaled),
        },
        floor=printed_floor(claim, cell),
    )


def _ipp(scaled: Scaled, done: tuple[int, ...], arm: str, seed: int) -> Ipp:
    located = np.mean([scaled.as_predicted(one, LOCATED)[:, 0] for one in done], axis=0)
    random = np.mean([scaled.as_predicted(one, arm) for one in done], axis=0)
    return ipp(located, random.T, clusters=scaled.clusters, seed=seed)


def _unsigned(scaled: Scaled) -> float:
    """The mean size of the four differences of section 3.2 (11.4 points there), which forgets their signs."""
    differences = [
        scaled.moved(done, LOCATED, sign).mean() - scaled.moved(done, UNIFORM, sign).mean()
        for done in BOTH
        for sign in (1, -1)
    ]
    return float(np.abs(differences).mean())
