"""KN's own verification, repeated with random neurons (section 3.2; zsRE): how many answers get likelier or less so."""

from __future__ import annotations

import numpy as np
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts.report import interval_parts, printed_floor
from caploc.experiments.reliability.correlation import correlation_of, correlations
from caploc.experiments.reliability.shares import located_minus_random, located_share, mcnemar_p, random_share

from caploc.experiments.reliability.report import DONE, measured, reliability_finding
from caploc.experiments.scaled_facts import (
    ARMS,
    DOUBLED,
    LAYER,
    LOCATED,
    MAGNITUDE,
    RANDOM_ARMS,
    UNIFORM,
    ZEROED,
    Scaled,
)
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.rules.base import Share
from caploc.statistics import defined_mean, part_quantities


@ends_in_a_finding
def kn_double(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kn-double``: 85.1 % up and 14.9 % down, located; 72.3 and 27.7 %, random."""
    return _shares(study, cell, claim, DOUBLED)


@ends_in_a_finding
def kn_zero(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kn-zero``: 27.4 % up and 72.4 % down, located; 17.6 and 82.6 %, random."""
    return _shares(study, cell, claim, ZEROED)


@ends_in_a_finding
def kn_similar_to_random(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kn-similar-to-random``: the two differences of shares, against random sets matched by layer.

    Against uniform sets and sets matched by magnitude they stand beside. The estimate is the larger difference in size.
    """
    found = measured(study, cell)
    scaled = found.known
    seed = study.settings.seed
    effects = {f"effect:{DONE[done]}": located_minus_random(scaled, done, seed=seed) for done in DONE}
    beside = {
        f"{arm} sets, {DONE[done]}": located_minus_random(scaled, done, arm, seed)
        for arm in RANDOM_ARMS
        if arm != LAYER and scaled.has(arm)
        for done in DONE
    }
    widest = max(effects.values(), key=lambda effect: abs(effect.estimate))
    return reliability_finding(
        study,
        found,
        cell,
        claim,
        "share that moves as KN predicts, located minus random",
        estimate=widest.estimate,
        interval=(widest.interval.low, widest.interval.high),
        interval_kind=f"95 %, {widest.interval.kind} over facts; of the larger of the two differences",
        effect_size=widest.effect_size,
        p_values={f"McNemar, {DONE[done]}": mcnemar_p(scaled, done, LAYER) for done in DONE},
        quantities={**part_quantities(effects), **part_quantities(beside)},
        plots=[_choices(scaled)],
    )


@ends_in_a_finding
def kn_not_necessarily(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kn-not-necessarily``: shares that move against KN's prediction, the smaller as estimate."""
    found = measured(study, cell)
    scaled = found.known
    against = {
        "doubled-decrease": located_share(scaled, DOUBLED, -1),
        "zeroed-increase": located_share(scaled, ZEROED, 1),
    }
    smaller = min(against.values(), key=lambda share: share[0])
    bounds = {
        f"bound:{name}:{end}": value
        for name, (_, interval) in against.items()
        for end, value in (("low", interval.low), ("high", interval.high))
    }
    return reliability_finding(
        study,
        found,
        cell,
        claim,
        "share of facts that move against KN's prediction, the smaller of two",
        estimate=smaller[0],
        interval=(smaller[1].low, smaller[1].high),
        interval_kind="95 %, Wilson",
        quantities={**bounds, **interval_parts(claim, cell, against)},
    )


@ends_in_a_finding
def kn_no_strong_correlation(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kn-no-strong-correlation``: |Spearman rho| of attribution changed with the change of log P.

    Over facts and their sets, the located and those matched by layer, for doubling and for zeroing apart; the estimate
    is the larger, chosen anew in every resample, since a strong correlation under either contradicts the claim.
    """
    found = measured(study, cell)
    scaled = found.known
    estimate, interval = correlation_of(scaled, (LOCATED, LAYER), study.settings.seed)
    quantities = {
        f"rho, {DONE[done]}": rho for done, rho in enumerate(correlations(scaled, (LOCATED, LAYER)))
    }
    others: dict[str, tuple[str, ...]] = {"located sets alone": (LOCATED,), "sets by layer alone": (LAYER,)}
    if scaled.has(MAGNITUDE):
        others["located sets and those by magnitude"] = (LOCATED, MAGNITUDE)
    for name, arms in others.items():
        quantities |= {
            f"rho, {DONE[done]}, {name}": rho for done, rho in enumerate(correlations(scaled, arms))
        }
    return reliability_finding(
        study,
        found,
        cell,
        claim,
        "rank correlation of the attribution changed with the change of log probability, its size",
        unit="correlation",
        estimate=estimate,
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over facts, those of one subject together",
        quantities=quantities,
    )


def _shares(study: Study, cell: Cell, claim: str, done: int) -> Finding:
    found = measured(study, cell)
    scaled = found.known
    seed = study.settings.seed
    shares: dict[str, Share] = {}
    for name, sign in (("increase", 1), ("decrease", -1)):
        shares[f"located-{name}"] = located_share(scaled, done, sign)
    for name, sign in (("increase", 1), ("decrease", -1)):
        shares[f"random-{name}"] = random_share(scaled, done, sign, UNIFORM, seed)
    predicted = "increase" if done == DOUBLED else "decrease"
    own, spread = shares[f"located-{predicted}"]
    return reliability_finding(
        study,
        found,
        cell,
        claim,
        f"share of answers that get {'likelier' if done == DOUBLED else 'less likely'}, located neurons {DONE[done]}",
        estimate=own,
        interval=(spread.low, spread.high),
        interval_kind="95 %, Wilson",
        chance=shares[f"random-{predicted}"][0],
        p_values={
            f"McNemar, {arm} sets": mcnemar_p(scaled, done, arm) for arm in RANDOM_ARMS if scaled.has(arm)
        },
        quantities={**interval_parts(claim, cell, shares), **_further_shares(scaled, done)},
        floor=printed_floor(claim, cell),
    )


def _further_shares(scaled: Scaled, done: int) -> dict[str, float]:
    """Shares under every arm, and of those that move neither way."""
    found: dict[str, float] = {}
    for arm in ARMS:
        for name, sign in (("increase", 1), ("decrease", -1)):
            found[f"{arm}, {name}"] = defined_mean(scaled.moved(done, arm, sign))
        found[f"{arm}, neither"] = 1 - found[f"{arm}, increase"] - found[f"{arm}, decrease"]
    return found


def _choices(scaled: Scaled) -> Plot:
    """Shares that move as predicted: one of the located neurons, and as many as there are random sets a fact."""
    groups = {
        f"{name}: {arm}": np.nanmean(scaled.as_predicted(done, arm), axis=0).tolist()
        for done, name in DONE.items()
        for arm in ARMS
        if scaled.has(arm)
    }
    axis = "share of facts that move as KN predicts, one dot a choice of sets"
    return Plot("splits", "Located neurons against random ones", {"groups": groups, "axis": axis})
