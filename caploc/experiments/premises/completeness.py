"""Completeness of integrated gradients (section 2.1, eq. 2): do the steps add up to what the neuron does?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.engine import Attributor, Method
from caploc.attribution.method import fixed_rule
from caploc.examples import TokenizedExample
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import facts_of
from caploc.experiments.facts.report import finding_of, require_known
from caploc.experiments.facts.stored import stored
from caploc.experiments.premises.neuron_path import NeuronPathModel
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding, Plot
from caploc.locators.knowledge_neurons import example_scores
from caploc.rows.borrowing import wide_head
from caploc.rows.clean import run_clean
from caploc.streams import Stream, stream

FACTS = 5
NEURONS_OF_A_FACT = 20
FINE, COARSE = 300, 20
RULES = ("paper", "trapezoid")
LEAST_EFFECT = 0.01
"""Of a probability; where a neuron does less, its error is measured in units of this."""
OF_LAYERS = {
    f"{COARSE} steps": Method(COARSE),
    f"{FINE} steps": Method(FINE),
    "adaptive": Method(quadrature="adaptive"),
}


@ends_in_a_finding
def ig_completeness(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-ig-completeness``: |Attr(w) - D| / max(|D|, 0.01), D = P - P(w = 0), the largest over 100 neurons.

    One neuron is scaled at a time. Of each fact half of the neurons are those with the largest attributions, half are
    drawn. Beside it the errors of the trapezoid rule, and where a whole layer is scaled, the adaptive rule's too.
    """
    facts = require_known(facts_of(study, cell.dataset or "", wordings=1))
    require_exact(study)
    prompts = [facts.prompts[index] for index in facts.first[facts.known][:FACTS]]
    what = {
        "facts": facts.data_fingerprint,
        "method": study.settings.attribution.settings,
        "seed": study.settings.seed,
        "neurons": [FACTS, NEURONS_OF_A_FACT],
        "rules": [*RULES, FINE, COARSE, *OF_LAYERS],
    }
    found = stored(
        study, "completeness", what, lambda: {**_of_neurons(study, prompts), **_of_layers(study, prompts)}
    )
    effects = found["effects"]
    scale = np.maximum(np.abs(effects), LEAST_EFFECT)
    errors = {name: np.abs(found[name] - effects) / scale for name in map(_name, *_rules())}
    fine, coarse = (float(errors[_name("paper", steps)].max()) for steps in (FINE, COARSE))
    layers = {name: found[f"layers, {name}"] for name in OF_LAYERS}
    gap = np.maximum(found["layers, gap"], LEAST_EFFECT)
    return finding_of(
        study,
        facts,
        cell,
        claim,
        f"completeness error of eq. (2) with {FINE} steps, the largest over {len(effects)} neurons",
        n=len(effects),
        draws=0,
        estimate=fine,
        quantities={
            "coarse": coarse,
            **{f"{name}, largest": float(error.max()) for name, error in errors.items()},
            **{f"{name}, median": float(np.median(error)) for name, error in errors.items()},
            **{
                f"whole layer, {name}, largest layer": float((error / gap).max())
                for name, error in layers.items()
            },
            "effect of a neuron, largest": float(np.abs(effects).max()),
        },
        settings={"facts measured": len(prompts), "neurons of a fact": NEURONS_OF_A_FACT},
        plots=[
            Plot(
                "completeness",
                "Completeness error of eq. (2) where a whole layer is scaled, mean over facts",
                {"errors": {name: error.tolist() for name, error in layers.items()}},
            )
        ],
    )


def require_exact(study: Study) -> None:
    """Raises NotRunError where the model's numbers are too coarse to tell what one neuron does."""
    lm = study.model_for()
    if lm.dtype not in (torch.float32, torch.float64):
        raise NotRunError(
            f"compares runs that differ by one neuron, too alike for {str(lm.dtype)[6:]}; give --dtype float32"
        )


def _rules() -> tuple[list[str], list[int]]:
    """The rules and their steps, side by side."""
    pairs = [(rule, steps) for rule in RULES for steps in (FINE, COARSE)]
    return [rule for rule, _ in pairs], [steps for _, steps in pairs]


def _name(rule: str, steps: int) -> str:
    return f"{rule}, {steps} steps"


def _of_neurons(study: Study, prompts: Sequence[TokenizedExample]) -> dict[str, np.ndarray]:
    """By rule and steps ``[neurons]`` attributions by eq. (2); ``effects [neurons]`` what zeroing each takes from P."""
    lm, settings = study.model_for(), study.settings
    rules = {_name(rule, steps): fixed_rule(rule, steps) for rule, steps in zip(*_rules(), strict=True)}
    alphas = np.unique(np.concatenate([nodes for nodes, _ in rules.values()]))  # 0 and 1 are among them
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*rules, "effects")}
    scores = example_scores(lm, prompts, settings.attribution, settings.store)
    with wide_head(lm.model), NeuronPathModel(lm.model, lm.architecture) as paths:
        for index, (prompt, one) in enumerate(zip(prompts, scores, strict=True)):
            clean = run_clean(lm.model, lm.architecture, prompt.input_ids.to(lm.device), prompt.answer_start)
            for layer, neurons in _neurons(one.values, settings.seed, index):
                probabilities, slopes = paths.path(layer, clean, neurons, alphas)
                found["effects"].append(probabilities[:, -1] - probabilities[:, 0])
                for name, (nodes, weights) in rules.items():
                    found[name].append(slopes[:, np.searchsorted(alphas, nodes)] @ weights)
    return {name: np.concatenate(values) for name, values in found.items()}


def _neurons(scores: Tensor, seed: int, fact: int) -> Iterator[tuple[int, Tensor]]:
    """Layer by layer the neurons that are looked at."""
    half = NEURONS_OF_A_FACT // 2
    largest = scores.flatten().abs().topk(half).indices.numpy(force=True)
    others = np.setdiff1d(np.arange(scores.numel()), largest)
    drawn = stream(Stream.UNATTRIBUTED_NEURONS, seed, fact).choice(
        others, NEURONS_OF_A_FACT - half, replace=False
    )
    layer, neuron = np.divmod(np.concatenate([largest, drawn]), scores.shape[1])
    for one in np.unique(layer).tolist():
        yield one, torch.from_numpy(neuron[layer == one])


def _of_layers(study: Study, prompts: Sequence[TokenizedExample]) -> dict[str, np.ndarray]:
    """``[layers]`` mean completeness errors where a layer is scaled at once, and the mean gap they are errors of."""
    found = {}
    for name, method in OF_LAYERS.items():
        with Attributor(study.model_for(), method) as attributor:
            sums = attributor.sums(prompts)
        found[f"layers, {name}"] = sums.completeness / sums.count
        found["layers, gap"] = sums.gap / sums.count
    return found
