"""What the paper takes over from the methods it builds on (section 2, appendices A, C and D), tested: group J.

The completeness of eq. (2) stands in `caploc.experiments.completeness`; the others rest on the specs of section 3.2's
experiments, whose measurements they make from other sides.
"""

from __future__ import annotations

import numpy as np

from caploc import statistics as stats
from caploc.experiments.completeness import KnownScores
from caploc.experiments.edited_facts import PROMPT, SUBJECT, Editable, FactTraces
from caploc.experiments.evidence import asides, bound, difference, effects, finite
from caploc.experiments.facts import (
    BY_SUBJECT,
    OF_EQUATION_8,
    Known,
    facts_of,
    fewest_facts,
    require_known,
)
from caploc.experiments.reliability_kc import (
    BOTH,
    KnownAlone,
    on_circuits,
    recall_controls,
    recall_readings,
)
from caploc.experiments.reliability_kn import ScaledKnown, on_scaled
from caploc.experiments.reliability_rome import EditedEverywhere, on_edits
from caploc.experiments.scaled_facts import DOUBLED, LAYER, LOCATED, MAGNITUDE, UNIFORM, ZEROED, Scaled
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study, experiment
from caploc.findings import Cell, Measurement, Test
from caploc.locators.causal_tracing.trace import Tracing
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES

PAPER_FACTS = 100
FIRST = 10
LARGEST_ATTRIBUTIONS = 15


# ------------------------------------------------------------------------------------------------------------------- KN


def _both_scores(study: Study, cell: Cell) -> tuple[KnownScores, KnownScores]:
    """Attributions, a layer scaled at once as in KN, and what each neuron does alone."""
    dataset, count = cell.dataset or "", study.settings.neuron_path_samples or PAPER_FACTS
    return KnownScores(dataset, count, "layer"), KnownScores(dataset, count, "neuron")


@experiment(lambda study, cell, claim: _both_scores(study, cell))
def attribution_measures_contribution(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-attr-measures-contribution``: over all neurons, Spearman's rho of the attribution by eq. (2), a layer
    scaled at once as in KN, with the probability lost by zeroing that neuron alone; median over known facts.

    Each neuron costs a run, so a study takes ``neuron_path_samples`` facts at most.
    """
    facts = study.result(Known(facts_of(cell.dataset or "", wordings=1)))
    attributed, lost = _both_scores(study, cell)
    chosen = attributed.facts(study)
    rhos, located = [], []
    attributions, losses = study.result(attributed), study.result(lost)
    for pair in zip(attributions, losses, strict=True):
        first, second = (values.astype(np.float64).ravel() for values in pair)
        rhos.append(float(stats.row_correlations(first[None], second[None])[0]))
        largest = np.argsort(-first)[:LARGEST_ATTRIBUTIONS]
        located.append(float(second[largest].sum() / np.abs(second).sum()) if second.any() else np.nan)
    defined = np.isfinite(rhos)
    if defined.sum() < fewest_facts(study):
        raise FloorError(
            f"floor effect: no neuron changes the answer's probability in {(~defined).sum()} of {len(rhos)} facts"
        )
    values, clusters = np.array(rhos)[defined], facts.clusters[chosen][defined]
    interval = stats.bootstrap_interval(
        values, lambda rows: float(np.median(rows)), seed=study.settings.seed, clusters=clusters
    )
    fewer = f"{len(rhos)} facts, since every neuron is zeroed alone; the claim's test asks for {PAPER_FACTS}"
    return Measurement(
        "rank correlation of attribution and contribution over neurons, median over facts",
        bound(float(np.median(values)), interval, BY_SUBJECT, unit="correlation"),
        asides={
            "smallest": float(values.min()),
            "largest": float(values.max()),
            "P(answer), mean": float(np.exp(facts.log_prob[facts.first[chosen]]).mean()),
            "share of all single effects in the 15 largest attributions, mean": float(np.nanmean(located)),
        },
        n=len(values),
        draws=RESAMPLES,
        basis=[facts],
        unused=OF_EQUATION_8,
        notes=[fewer] if len(rhos) < PAPER_FACTS else [],
    )


@on_scaled
def kn_verification(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-kn-verification``: four effects in nats of log odds, which have no ceiling; the value is the smallest.

    Random sets are anywhere, as the paper's; those matched by layer and by magnitude stand beside.
    """
    scaled = found.known
    compared = {
        name: stats.compare_pairs(first, second, clusters=scaled.clusters, seed=study.settings.seed)
        for name, (first, second) in _arms(scaled, UNIFORM).items()
    }
    beside = {
        f"{arm} sets, {name}": float(np.nanmean(first - second))
        for arm in (LAYER, MAGNITUDE)
        if scaled.has(arm)
        for name, (first, second) in _arms(scaled, arm).items()
        if "random" in name
    }
    least = min(compared.values(), key=lambda one: one.estimate)
    return Measurement(
        "change of the answer's log odds in nats, as KN predicts it; the smallest of four effects",
        difference(least.estimate, least.interval, BY_SUBJECT, unit="nats"),
        effects(compared, unit="nats"),
        effect_size=least.effect_size,
        asides={**beside, "room of log P": scaled.room},
    )


def _arms(scaled: Scaled, arm: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By effect, what is compared with what, so that a positive difference speaks for KN."""
    nothing = np.zeros(len(scaled))
    zeroed, doubled = scaled.log_odds(ZEROED, LOCATED), scaled.log_odds(DOUBLED, LOCATED)
    return {
        "zeroed weakens": (-zeroed, nothing),
        "zeroed weakens more than random": (scaled.log_odds(ZEROED, arm), zeroed),
        "doubled strengthens": (doubled, nothing),
        "doubled strengthens more than random": (doubled, scaled.log_odds(DOUBLED, arm)),
    }


# ------------------------------------------------------------------------------------------------------------------- KC


@on_circuits
def kc_recall_premise(found: KnownAlone, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-kc-recall-premise``: located minus random circuits of as many edges, drawn uniformly and with the same
    degrees; the value is the smaller difference.

    Paired by fact, against the mean over the fact's own random circuits: no circuit is drawn for several facts, so that
    chance in drawing is chance of facts. A ceiling effect, by a rule fixed beforehand: where random circuits recall all
    facts but for less than the rule's equivalence margin, located ones cannot recall more beyond it.
    """
    margin = claim.rule.parameters["equivalence_margin"]
    known, seed = found.known, study.settings.seed
    located = known.recalled(top=FIRST)[:, 0]
    compared = {
        arm: stats.compare_pairs(
            located, known.recalled(arm, FIRST).mean(1), clusters=found.clusters, seed=seed
        )
        for arm in BOTH
    }
    least = min(compared.values(), key=lambda one: one.estimate)
    most = max(stats.defined_mean(known.recalled(arm, FIRST)) for arm in BOTH)
    ceiling = f"ceiling effect: random circuits recall {most:.1%} of the facts"
    return Measurement(
        f"share of facts with the answer among the first {FIRST}, circuit minus random circuit; the smaller of two",
        difference(least.estimate, least.interval, BY_SUBJECT),
        effects(compared),
        effect_size=least.effect_size,
        asides={"recall of the circuit": float(located.mean()), **recall_readings(found, FIRST)},
        controls=recall_controls(found, FIRST),
        floor=ceiling if 1 - most < margin else None,
    )


# ----------------------------------------------------------------------------------------------------------------- ROME


@on_edits
def rome_layer_editing(one: EditedEverywhere, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-rome-layer-editing``: share of facts whose new answer is likelier than the old, with the edit of the
    located layer minus without an edit."""
    edits, seed = one.edits, study.settings.seed
    edited, at_prompt = (edits.success(token)[:, one.layer] for token in (SUBJECT, PROMPT))
    gain = stats.compare_successes(edited, edits.before, edits.clusters, seed)
    elsewhere = stats.compare_successes(at_prompt, edits.before, edits.clusters, seed)
    return Measurement(
        "share of facts whose new answer is likelier than the old one, edited minus not",
        difference(gain.estimate, gain.interval),
        effects({"edited": gain}),
        effect_size=gain.effect_size,
        asides={
            **asides({"last prompt token": elsewhere}),
            "McNemar": Test(p=stats.mcnemar(edited > 0, edits.before > 0).p),
            **finite(
                {
                    "exact, located layer": float(edits.of("exact")[:, 1 + one.layer].mean()),
                    "log odds, not edited": stats.defined_mean(edits.of("log odds")[:, 0]),
                    "log odds, edited": stats.defined_mean(edits.of("log odds")[:, 1 + one.layer]),
                }
            ),
        },
    )


@experiment(lambda study, cell, claim: [FactTraces(cell.dataset)])
def rome_corruption(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-rome-corruption``: share of facts whose answer's first token stays the most probable one with noise on
    the subject, over that without; mean over ten draws of the noise (``rome-noise-draws``).

    As control, the same noise on as many other tokens of the prompt.
    """
    dataset, seed = cell.dataset or "", study.settings.seed
    facts = require_known(study, study.result(Editable(dataset)).facts)
    traces = study.result(FactTraces(dataset))
    right, noised = traces.right.astype(float), traces.right_noised.mean(1)
    ratio = float(noised.sum() / right.sum())
    interval = stats.ratio_interval(np.stack([noised, right], axis=1), facts.clusters, seed)
    return Measurement(
        "accuracy with noise on the subject over accuracy without",
        bound(ratio, interval, BY_SUBJECT),
        asides={
            "accuracy without noise": float(right.mean()),
            "accuracy with noise": float(noised.mean()),
            "one draw": float(traces.right_noised[:, 0].sum() / right.sum()),
            "known facts alone": float(noised[facts.known].sum() / right[facts.known].sum()),
            "wrong under every draw": float((noised[traces.right] == 0).mean()),
            "McNemar, first draw": Test(p=stats.mcnemar(traces.right, traces.right_noised[:, 0]).p),
        },
        controls={"noise on as many other tokens": float(traces.right_elsewhere.mean(1).sum() / right.sum())},
        n=len(facts),
        draws=RESAMPLES,
        basis=[facts],
        settings={"noise": Tracing().noise, "noise_draws": traces.right_noised.shape[1]},
        unused=OF_EQUATION_8,
        notes=["the answer's first token is read, as ROME does, among the whole vocabulary"],
    )


@on_edits
def rome_restoration_locates(one: EditedEverywhere, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-rome-restoration-locates``: for each fact, Spearman's rho over layers of the restored probability with
    the success of the edit; mean over facts.

    A fact whose edits end alike in every layer ties all of them, whatever tracing says: its rho counts as 0. A floor
    effect, by a rule fixed beforehand (the margin ``most-undefined``), where most facts are such. Beside: the mean over
    the others; the log odds of the new answer over the old, which never tie, in the place of success; and edits at the
    prompt's last token.
    """
    restored, success = one.traces.restored[one.found.edited], one.edits.success()
    rhos = stats.row_correlations(restored, success)
    differing = np.isfinite(rhos)
    alike, values = int((~differing).sum()), np.where(differing, rhos, 0.0)
    interval = stats.bootstrap_mean(values, seed=study.settings.seed, clusters=one.edits.clusters)
    tied = f"in {alike} of {len(rhos)} facts edits end alike in all layers"
    odds = {token: one.edits.of("log odds", token)[:, 1:] for token in (SUBJECT, PROMPT)}
    return Measurement(
        "rank correlation over layers of restored probability with success of edits, mean over facts",
        bound(float(values.mean()), interval, BY_SUBJECT, unit="correlation"),
        n=len(values),
        asides={
            "facts whose edits differ between layers": stats.defined_mean(rhos),
            "log odds for success": stats.defined_mean(stats.row_correlations(restored, odds[SUBJECT])),
            "log odds for success, last prompt token": stats.defined_mean(
                stats.row_correlations(restored, odds[PROMPT])
            ),
            "without the last layer": stats.defined_mean(
                stats.row_correlations(restored[:, :-1], success[:, :-1])
            ),
            "of the means over facts": float(
                stats.row_correlations(restored.mean(0)[None], success.mean(0)[None])[0]
            ),
        },
        floor=f"layers cannot be ranked: {tied}"
        if alike > study.settings.margin("most-undefined") * len(rhos)
        else None,
        notes=[f"{tied}; these ties count as a correlation of 0"] if alike else [],
    )
