"""ROME's premises (section 2.2, appendix C): an edited layer changes the fact, noise on the subject loses it, and where
a restored layer brings it back, it is kept."""

from __future__ import annotations

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import FEWEST_FACTS
from caploc.experiments.facts.report import finding_of, require_known
from caploc.experiments.reliability.rome_edits import PROMPT, SUBJECT
from caploc.experiments.reliability.rome_facts import rome_facts
from caploc.experiments.reliability.rome_report import edits_finding, measured
from caploc.experiments.reliability.rome_traces import traced_facts
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.locators.causal_tracing.trace import Tracing
from caploc.statistics import (
    bootstrap_mean,
    compare_successes,
    defined_mean,
    holm_parts,
    mcnemar,
    part_quantities,
    ratio_interval,
    row_correlations,
)
from caploc.statistics import permutation as mcnemar


@ends_in_a_finding
def rome_layer_editing(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-rome-layer-editing``: share of facts whose new answer is likelier than the old, with the edit of the
    located layer minus without an edit."""
    one = measured(study, cell)
    edits, seed = one.edits, study.settings.seed

    def gain(layer: int) -> np.ndarray:
        return edits.success()[:, layer]

    effect = compare_successes(gain(one.layer), edits.before, edits.clusters, seed)
    at_prompt = compare_successes(edits.success(PROMPT)[:, one.layer], edits.before, edits.clusters, seed)
    parts = {"effect:edited": effect}
    return edits_finding(
        study,
        one,
        cell,
        claim,
        "share of facts whose new answer is likelier than the old one, edited minus not",
        estimate=effect.estimate,
        interval=(effect.interval.low, effect.interval.high),
        interval_kind=f"95 %, {effect.interval.kind}",
        effect_size=effect.effect_size,
        p_values={**holm_parts(parts), "McNemar": mcnemar(gain(one.layer) > 0, edits.before > 0).p},
        quantities={
            **part_quantities(parts),
            **{
                f"last prompt token, {name}": value
                for name, value in (
                    ("estimate", at_prompt.estimate),
                    ("low", at_prompt.interval.low),
                    ("high", at_prompt.interval.high),
                )
            },
            "exact, located layer": float(edits.of("exact")[:, 1 + one.layer].mean()),
            "log odds, not edited": defined_mean(edits.of("log odds")[:, 0]),
            "log odds, edited": defined_mean(edits.of("log odds")[:, 1 + one.layer]),
        },
    )


@ends_in_a_finding
def rome_corruption(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-rome-corruption``: share of facts whose answer's first token stays the most probable one with noise on
    the subject, over that without; mean over ten draws of the noise (``rome-noise-draws``).

    As control, the same noise on as many other tokens of the prompt.
    """
    found = rome_facts(study, cell.dataset or "")
    facts, seed = require_known(found.facts), study.settings.seed
    traces = traced_facts(study, found)
    right, noised = traces.right.astype(float), traces.right_noised.mean(1)
    ratio = float(noised.sum() / right.sum())
    interval = ratio_interval(np.stack([noised, right], axis=1), facts.clusters, seed)
    pair = mcnemar(traces.right, traces.right_noised[:, 0])
    return finding_of(
        study,
        facts,
        cell,
        claim,
        "accuracy with noise on the subject over accuracy without",
        estimate=ratio,
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over facts, those of one subject together",
        p_values={"McNemar, first draw": pair.p},
        quantities={
            "accuracy without noise": float(right.mean()),
            "accuracy with noise": float(noised.mean()),
            "one draw": float(traces.right_noised[:, 0].sum() / right.sum()),
            "known facts alone": float(noised[facts.known].sum() / right[facts.known].sum()),
            "wrong under every draw": float((noised[traces.right] == 0).mean()),
        },
        controls={"noise on as many other tokens": float(traces.right_elsewhere.mean(1).sum() / right.sum())},
        settings={"noise": Tracing().noise, "noise_draws": traces.right_noised.shape[1]},
        notes=["the answer's first token is read, as ROME does, among the whole vocabulary"],
    )


@ends_in_a_finding
def rome_restoration_locates(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-rome-restoration-locates``: for each fact, Spearman's rho over layers of the restored probability with
    the success of the edit; mean over facts.

    A fact whose edits end alike in every layer has no rho; it is left out and counted. Beside: the log odds of the new
    answer over the old, which are never alike, in the place of success, and edits at the prompt's last token.
    """
    one = measured(study, cell)
    restored = one.traces.restored[one.found.edited]
    success = one.edits.success()
    rhos = row_correlations(restored, success)
    defined, clusters = np.isfinite(rhos), one.edits.clusters
    alike, enough = int((~defined).sum()), int(defined.sum()) >= FEWEST_FACTS
    interval = (
        bootstrap_mean(rhos[defined], seed=study.settings.seed, clusters=clusters[defined])
        if enough
        else None
    )
    too_few = (
        f"floor effect: in {alike} of {len(rhos)} facts edits end alike in all layers, and {FEWEST_FACTS} others are "
        "the fewest an interval can be taken over"
    )
    odds = {token: one.edits.of("log odds", token)[:, 1:] for token in (SUBJECT, PROMPT)}
    return edits_finding(
        study,
        one,
        cell,
        claim,
        "rank correlation over layers of restored probability with success of edits, mean over facts",
        unit="correlation",
        n=int(defined.sum()),
        estimate=defined_mean(rhos),
        interval=(interval.low, interval.high) if interval else None,
        interval_kind=f"95 %, {interval.kind} over facts, those of one subject together" if interval else "",
        floor=None if enough else too_few,
        quantities={
            "log odds for success": defined_mean(row_correlations(restored, odds[SUBJECT])),
            "log odds for success, last prompt token": defined_mean(row_correlations(restored, odds[PROMPT])),
            "without the last layer": defined_mean(row_correlations(restored[:, :-1], success[:, :-1])),
            "of the means over facts": float(
                row_correlations(restored.mean(0)[None], success.mean(0)[None])[0]
            ),
        },
        notes=[f"{alike} of {len(rhos)} facts left out: their edits end alike in all layers"]
        if alike
        else [],
    )
