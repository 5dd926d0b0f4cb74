"""KN's premises (section 2.1): attribution measures contribution, and knowledge neurons carry the fact."""

from __future__ import annotations

import dataclasses

import numpy as np
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts.report import finding_of

from caploc.attribution.engine import Method
from caploc.experiments.completeness import require_exact
from caploc.experiments.facts import FEWEST_FACTS, facts_of, require_known
from caploc.experiments.reliability.report import measured, reliability_finding
from caploc.experiments.scaled_facts import DOUBLED, LAYER, LOCATED, MAGNITUDE, UNIFORM, ZEROED, Scaled
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.locators.knowledge_neurons import example_scores
from caploc.papers import load_paper
from caploc.statistics import bootstrap_interval, compare_pairs, holm_parts, part_quantities, row_correlations

PAPER_FACTS = 100


@ends_in_a_finding
def attribution_measures_contribution(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-attr-measures-contribution``: over all neurons, Spearman's rho of the attribution by eq. (2), a layer
    scaled at once as in KN, with the probability lost by zeroing that neuron alone; median over known facts.

    Each neuron costs a run, so a study takes ``neuron_path_samples`` facts at most.
    """
    facts = require_known(facts_of(study, cell.dataset or "", wordings=1))
    require_exact(study)
    settings = study.settings
    chosen = np.flatnonzero(facts.known)[: settings.neuron_path_samples or PAPER_FACTS]
    prompts = [facts.prompts[facts.first[one]] for one in chosen]
    lm = study.model_for()
    along = dataclasses.replace(settings.attribution, path="layer")
    alone = Method(path="neuron", value=settings.attribution.value)
    rhos, located = [], []
    for attributed, lost in zip(
        example_scores(lm, prompts, along, settings.store),
        example_scores(lm, prompts, alone, settings.store),
        strict=True,
    ):
        first, second = (one.values.double().numpy(force=True).ravel() for one in (attributed, lost))
        rhos.append(float(row_correlations(first[None], second[None])[0]))
        largest = np.argsort(-first)[:15]
        located.append(float(second[largest].sum() / np.abs(second).sum()) if second.any() else np.nan)
    defined = np.isfinite(rhos)
    if defined.sum() < FEWEST_FACTS:
        raise FloorError(
            f"floor effect: no neuron changes the answer's probability in {(~defined).sum()} of {len(rhos)} facts"
        )
    values, clusters = np.array(rhos)[defined], facts.clusters[chosen][defined]
    interval = bootstrap_interval(
        values, lambda rows: float(np.median(rows)), seed=settings.seed, clusters=clusters
    )
    return finding_of(
        study,
        facts,
        cell,
        claim,
        "rank correlation of attribution and contribution over neurons, median over facts",
        unit="correlation",
        n=len(values),
        estimate=float(np.median(values)),
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over facts, those of one subject together",
        quantities={
            "smallest": float(values.min()),
            "largest": float(values.max()),
            "P(answer), mean": float(np.exp(facts.log_prob[facts.first[chosen]]).mean()),
            "share of all single effects in the 15 largest attributions, mean": float(np.nanmean(located)),
        },
        notes=[
            f"{len(prompts)} facts, since every neuron is zeroed alone; the claim's test asks for {PAPER_FACTS}"
        ]
        if len(prompts) < PAPER_FACTS
        else [],
    )


@ends_in_a_finding
def kn_verification(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-kn-verification``: four effects in nats; the estimate is the smallest.

    A ceiling effect, by a rule fixed beforehand: if log P(answer) can rise by less than the rule's equivalence margin
    on average, doubling cannot show an effect beyond it, whatever it does.
    """
    found = measured(study, cell)
    scaled = found.known
    parts = {
        f"effect:{name}": compare_pairs(first, second, clusters=scaled.clusters, seed=study.settings.seed)
        for name, (first, second) in _arms(scaled, LAYER).items()
    }
    beside = {
        f"{arm} sets, {name}": float(np.nanmean(first - second))
        for arm in (UNIFORM, MAGNITUDE)
        for name, (first, second) in _arms(scaled, arm).items()
        if "random" in name
    }
    least = min(parts.values(), key=lambda effect: effect.estimate)
    margin = load_paper("capability_localization").claim(claim).rule.parameters["equivalence_margin"]
    ceiling = (
        f"ceiling effect: the answers have P {np.exp(scaled.clean).mean():.3f} on average, so log P can rise by "
        f"{scaled.room:.2g} nats at most, less than the margin of {margin:g}: doubling cannot show an effect"
    )
    return reliability_finding(
        study,
        found,
        cell,
        claim,
        "change of log P(answer) in nats, as KN predicts it; the smallest of four effects",
        unit="nats",
        estimate=least.estimate,
        interval=(least.interval.low, least.interval.high),
        interval_kind=f"95 %, {least.interval.kind} over facts, those of one subject together",
        effect_size=least.effect_size,
        p_values=holm_parts(parts),
        quantities={**part_quantities(parts), **beside, "room": scaled.room},
        floor=ceiling if scaled.room < margin else None,
    )


def _arms(scaled: Scaled, arm: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By effect, what is compared with what, so that a positive difference speaks for KN."""
    nothing = np.zeros(len(scaled))
    zeroed, doubled = scaled.nats(ZEROED, LOCATED), scaled.nats(DOUBLED, LOCATED)
    return {
        "zeroed weakens": (-zeroed, nothing),
        "zeroed weakens more than random": (scaled.nats(ZEROED, arm), zeroed),
        "doubled strengthens": (doubled, nothing),
        "doubled strengthens more than random": (doubled, scaled.nats(DOUBLED, arm)),
    }
