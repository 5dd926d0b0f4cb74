"""Completeness of integrated gradients (section 2.1, eq. 2): do the steps add up to what the neuron does?

``caploc.attribution.integrate.one_neuron_scores`` needs no steps, since what they add up to is known: P(clean) -
P(neuron at zero). Here the steps are taken, to see how well they add up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.engine import Attributor
from caploc.attribution.method import Method, fixed_rule
from caploc.attribution.packed import PackedModel, PackedPass
from caploc.examples import TokenizedExample
from caploc.experiments.facts import (
    OF_EQUATION_8,
    FactPrompts,
    FactSet,
    FirstFacts,
    Known,
    facts_of,
    passes_flops,
)
from caploc.experiments.locating_facts import PASSES, measured_task
from caploc.experiments.specs import Arrays, NotRunError, Spec, Task, keyed
from caploc.experiments.study import Study, experiment
from caploc.findings import Cell, Count, Measurement, Plot
from caploc.locators.knowledge_neurons import KnowledgeNeuronScores
from caploc.locators.method import Asked
from caploc.papers import Claim
from caploc.rows.borrowing import wide_head
from caploc.rows.clean import CleanPass, TargetProbability, run_clean
from caploc.store import Entry
from caploc.streams import Stream, stream

FACTS = 5
NEURONS_OF_A_FACT = 20
FINE, COARSE = 300, 20
RULES = ("paper", "trapezoid")
OF_NEURONS = tuple((rule, steps) for rule in RULES for steps in (FINE, COARSE))
"""The rules and their steps, where one neuron is scaled at a time."""
OF_LAYERS: Mapping[str, Method] = MappingProxyType(
    {
        f"{COARSE} steps": Method(COARSE),
        f"{FINE} steps": Method(FINE),
        "adaptive": Method(quadrature="adaptive"),
    }
)
"""The rules, where a whole layer is."""
ROWS_AT_ONCE = 2048
TOKENS = 10.0
"""Of a fact's prompt, roughly: scaling one neuron costs a pass of one token, not of all."""


def require_exact(study: Study) -> None:
    """Raises NotRunError where the model's numbers are too coarse to tell what one neuron does."""
    dtype = study.named(study.precise()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise NotRunError(
            f"compares runs that differ by one neuron, too alike for {str(dtype)[6:]}; give --dtype float32"
        )


# ----------------------------------------------------------------------------------------------- scores of known facts


@dataclass(frozen=True)
class KnownScores(Spec[Sequence[np.ndarray]]):
    """The attributions of every neuron, ``[layers, neurons]`` float32, to each of the first ``count`` known facts of a
    dataset, in their original wordings.

    They are the study's by eq. (2); ``path`` says otherwise what is scaled: "layer", or one "neuron" at a time.

    NotRunError: the model's dtype is too coarse.
    """

    dataset: str
    count: int
    path: str = ""

    def facts(self, study: Study) -> np.ndarray:
        """Numbers of the facts."""
        known = study.result(_known(self.dataset)).known
        return np.flatnonzero(known)[: self.count]

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield _known(self.dataset)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, attribution = study.result(_known(self.dataset)), study.settings.attribution
        require_exact(study)
        if self.path == "layer":
            attribution = replace(attribution, path="layer")
        elif self.path:
            attribution = Method(path="neuron", value=attribution.value)
        measure = KnowledgeNeuronScores(attribution)
        for number in facts.first[self.facts(study)]:
            yield measured_task(study, measure, Asked(facts.prompts[number]), study.precise())

    def read(self, study: Study, entries: Iterator[Entry]) -> Sequence[np.ndarray]:
        return [entry.arrays["values"] for entry in entries]

    def flops(self, study: Study) -> float:
        facts = FirstFacts(FactPrompts(self.dataset, 1), self.count)
        neurons = study.lm.num_layers * study.lm.num_neurons
        return passes_flops(study, facts, neurons / TOKENS if self.path == "neuron" else PASSES["kn"])


def _known(dataset: str) -> Known:
    return Known(facts_of(dataset, wordings=1))


# --------------------------------------------------------------------------------------------------- steps, added up


@dataclass(frozen=True)
class AddedUp(Spec[Mapping[str, np.ndarray]]):
    """By rule and steps (`name_of`) ``[neurons]`` attributions by eq. (2), and ``effects [neurons]`` what zeroing each
    takes from P; ``layers, RULE`` and ``layers, gap [layers]`` the mean completeness errors where a layer is scaled at
    once, and the mean gap that they are errors of.

    Of the first known facts; half of each one's neurons are those with the largest attributions, half are drawn.

    NotRunError: the model's dtype is too coarse.
    """

    dataset: str

    @property
    def _scores(self) -> KnownScores:
        return KnownScores(self.dataset, FACTS)

    def prompts(self, study: Study) -> list[TokenizedExample]:
        """The facts, as asked."""
        facts = study.result(_known(self.dataset))
        return [facts.prompts[number] for number in facts.first[self._scores.facts(study)]]

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (_known(self.dataset), self._scores)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts: FactSet = study.result(_known(self.dataset))
        require_exact(study)
        depends_on = {
            "facts": facts.data_fingerprint,
            "method": study.settings.attribution.settings,
            "seed": study.settings.seed,
            "neurons": [FACTS, NEURONS_OF_A_FACT],
            "rules": [*RULES, FINE, COARSE, *OF_LAYERS],
        }
        yield keyed(study, "completeness", depends_on, partial(self._made, study))

    def _made(self, study: Study) -> Arrays:
        prompts = self.prompts(study)
        return {**_of_neurons(study, prompts, study.result(self._scores)), **_of_layers(study, prompts)}

    def read(self, study: Study, entries: Iterator[Entry]) -> Mapping[str, np.ndarray]:
        (entry,) = entries
        return entry.arrays

    def flops(self, study: Study) -> float:
        facts = FirstFacts(FactPrompts(self.dataset, 1), FACTS)
        return passes_flops(study, facts, NEURONS_OF_A_FACT * (FINE + COARSE) / TOKENS)


def name_of(rule: str, steps: int) -> str:
    """What a rule is called."""
    return f"{rule}, {steps} steps"


def _of_neurons(
    study: Study, prompts: Sequence[TokenizedExample], scores: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    lm, seed = study.weights(study.precise()), study.settings.seed
    rules = {name_of(rule, steps): fixed_rule(rule, steps) for rule, steps in OF_NEURONS}
    alphas = np.unique(np.concatenate([nodes for nodes, _ in rules.values()]))  # 0 and 1 are among them
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*rules, "effects")}
    with wide_head(lm.model), NeuronPathModel(lm.model, lm.architecture) as paths:
        for index, (prompt, values) in enumerate(zip(prompts, scores, strict=True)):
            clean = run_clean(lm.model, lm.architecture, prompt.input_ids.to(lm.device), prompt.answer_start)
            for layer, neurons in _neurons(torch.from_numpy(np.array(values)), seed, index):
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
    found = {}
    for name, method in OF_LAYERS.items():
        with Attributor(study.weights(study.precise()), method) as attributor:
            sums = attributor.sums(prompts)
        found[f"layers, {name}"] = sums.completeness / sums.count
        found["layers, gap"] = sums.gap / sums.count
    return found


class NeuronPathModel(PackedModel):
    """A model prepared for paths of single neurons, each scaled from 0 to its value while the others of its layer are
    left alone; use inside ``with``, which restores it."""

    def path(
        self, layer: int, clean: CleanPass, neurons: Tensor, alphas: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """P(answer) and its slope along alpha, both ``[neurons, alphas]``, float64.

        Of an answer of several tokens, teacher forced, the mean over them, each with the neuron scaled at the position
        that predicts it (eq. 7).

        Args:
            neurons: ``[neurons]`` numbers of neurons of ``layer``.
            alphas: ``[alphas]`` by which their activations are multiplied.
        """
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        output = clean.mlp_outputs[layer]
        which = neurons.to(output.device).repeat_interleave(len(alphas))
        scales = torch.from_numpy(np.tile(alphas, len(neurons))).to(output)
        probabilities, slopes = [], []
        rows = max(1, ROWS_AT_ONCE // len(columns))
        for chosen, scale in zip(which.split(rows), scales.split(rows), strict=True):
            alpha = scale.clone().requires_grad_()
            weights = self.output_weights(layer, slice(None))[chosen]  # [rows, width]
            fall = self.fall(layer, clean)[:, chosen].T  # [rows, columns]
            with torch.enable_grad():
                change = ((1 - alpha)[:, None] * fall)[..., None] * weights[:, None]
                logits = self.logits(PackedPass(clean, columns, {layer: output + change}))
                found = TargetProbability.apply(logits, clean.targets[columns]).mean(1)
                (slope,) = torch.autograd.grad(found.sum(), alpha)
            probabilities.append(found.detach().double())
            slopes.append(slope.double())
        shape = (len(neurons), len(alphas))
        return tuple(torch.cat(parts).reshape(shape).numpy(force=True) for parts in (probabilities, slopes))  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------------ the experiment


@experiment(lambda study, cell, claim: [AddedUp(cell.dataset)])
def ig_completeness(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``bg-ig-completeness``: |Attr(w) - D| / max(|D|, 0.01), D = P - P(w = 0), the largest over 100 neurons.

    One neuron is scaled at a time. A smaller effect than the claim's margin ``least-effect``, of a probability, counts
    as so large. Beside: the errors of the trapezoid rule, and where a whole layer is scaled, the adaptive rule's too.
    """
    needed = AddedUp(cell.dataset or "")
    facts, found = study.result(_known(needed.dataset)), study.result(needed)
    least, effects = claim.margins["least-effect"], found["effects"]
    scale = np.maximum(np.abs(effects), least)
    errors = {name: np.abs(found[name] - effects) / scale for name in (name_of(*one) for one in OF_NEURONS)}
    fine, coarse = (float(errors[name_of("paper", steps)].max()) for steps in (FINE, COARSE))
    layers = {name: found[f"layers, {name}"] for name in OF_LAYERS}
    gap = np.maximum(found["layers, gap"], least)
    return Measurement(
        f"completeness error of eq. (2) with {FINE} steps, the largest over {len(effects)} neurons",
        Count(fine),
        {"coarse": Count(coarse)},
        asides={
            **{f"{name}, largest": float(error.max()) for name, error in errors.items()},
            **{f"{name}, median": float(np.median(error)) for name, error in errors.items()},
            **{
                f"whole layer, {name}, largest layer": float((error / gap).max())
                for name, error in layers.items()
            },
            "effect of a neuron, largest": float(np.abs(effects).max()),
        },
        n=len(effects),
        basis=[facts],
        settings={"facts measured": len(needed.prompts(study)), "neurons of a fact": NEURONS_OF_A_FACT},
        unused=OF_EQUATION_8,
        plots=[
            Plot(
                "completeness",
                "Completeness error of eq. (2) where a whole layer is scaled, mean over facts",
                {"errors": {name: error.tolist() for name, error in layers.items()}},
            )
        ],
    )
