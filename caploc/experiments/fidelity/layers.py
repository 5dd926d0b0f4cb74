"""ROME's claims of section 3.1: overlap of the three layers that tracing finds (32.7 %), and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from caploc.examples import subject_tokens
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import OF_EQUATION_8, FactSet, facts_of
from caploc.experiments.facts.report import require_known
from caploc.experiments.fidelity.overlap import Located, overlap_finding
from caploc.experiments.fidelity.prompts import fewer, for_each_prompt, with_subjects, wordings
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.locators.causal_tracing.trace import Tracing
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.layers import LayerSet
from caploc.papers import load_paper
from caploc.statistics import defined_mean

TOP_K = 3
"""Section 3.1's number of layers."""

UNTRAINED_FACTS = 3


@dataclass(frozen=True, eq=False)
class TracedLayers:
    """Causal tracing of P prompts: ``restored [P, layers]`` the answer's probability with the MLP's output restored at
    the subject's last token, ``clean [P]`` and ``corrupted [P]`` without noise and with it; means over draws."""

    restored: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray

    @property
    def num_layers(self) -> int:
        return self.restored.shape[1]

    def best(self, count: int) -> LocatedSets:
        """Each prompt's ``count`` best layers."""
        found = (LayerSet.best(scores.tolist(), count).layers for scores in self.restored)
        return LocatedSets.of_places(found, self.num_layers)


def traced_facts(study: Study, cell: Cell) -> FactSet:
    """The facts of the cell's dataset that are traced. Raises NotRunError, FloorError."""
    dataset = cell.dataset or ""
    facts = study.once(
        ("traced facts", dataset), lambda: with_subjects(study, fewer(study, facts_of(study, dataset)))
    )
    return require_known(facts)


def traced(study: Study, facts: FactSet, control: str = "") -> TracedLayers:
    """Traces of every prompt of ``facts``, made once; ``control`` "" or "untrained", as in ``Study``.

    Raises:
        NotRunError: the model has too few layers to choose three.
    """
    return study.once(("traced", facts.data_fingerprint, control), lambda: _traced(study, facts, control))


def _traced(study: Study, facts: FactSet, control: str) -> TracedLayers:
    lm, tracing = study.model_for(control), Tracing(seed=study.settings.seed)
    if lm.num_layers <= TOP_K:
        raise NotRunError(f"{lm.name} has {lm.num_layers} layers, and {TOP_K} are to be chosen of more")
    examples, prompts = wordings(facts), facts.prompts
    subjects = [subject_tokens(lm, example) for example in examples]
    with ExitStack() as stack:
        entered: list[Tracer] = []

        def make(number: int) -> Mapping[str, np.ndarray]:
            if not entered:  # at the first missing prompt: a warm run touches no weight
                entered.append(stack.enter_context(Tracer(lm, tracing)))
            trace = entered[0].one(prompts[number], subjects[number])
            return {
                "restored": trace.by_layer().numpy(),
                "clean": np.array(trace.clean),
                "corrupted": np.array(float(trace.corrupted.mean())),
            }

        # the noise is drawn from the example's id
        keys = [
            {
                "tracing": tracing.settings,
                "tokens": prompt.content,
                "subject": [subject.start, subject.stop],
                "id": prompt.id,
            }
            for prompt, subject in zip(prompts, subjects, strict=True)
        ]
        found = list(for_each_prompt(study, lm, "layers by causal tracing", keys, make))
    restored, clean, corrupted = (
        np.stack([one[name] for one in found]) for name in ("restored", "clean", "corrupted")
    )
    return TracedLayers(restored, clean, corrupted)


@ends_in_a_finding
def rome_overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-rome-overlap``: the three best of L layers, for which two wordings agree by chance in 3 / L.

    A model of so few layers that chance alone lies above the line that decides says nothing: the rule looks at the
    number of layers alone, not at what was located.
    """
    facts = traced_facts(study, cell)
    found = traced(study, facts)
    twin = traced(study, facts.head(UNTRAINED_FACTS), "untrained")
    variants = {f"top {count}": found.best(count) for count in (1, 2)}
    located = Located(
        found.best(TOP_K),
        variants,
        twin.best(TOP_K),
        settings={"top_k": TOP_K, **Tracing(seed=study.settings.seed).settings},
    )
    finding = overlap_finding(study, facts, located, cell, claim, "layers")
    chance, line = (
        TOP_K / found.num_layers,
        load_paper("capability_localization").claim(claim).rule.parameters,
    )
    by_chance = f"two random sets of {TOP_K} of {found.num_layers} layers overlap {chance:.1%}"
    quantities = {
        "answer's probability, clean": defined_mean(found.clean[facts.kept]),
        "answer's probability, subject noised": defined_mean(found.corrupted[facts.kept]),
        **{f"top {count}, chance": count / found.num_layers for count in (1, 2)},
    }
    decides = line["supported_below"]
    too_few = f"floor effect: {by_chance}, not less than the {decides:.0%} that decide"
    return replace(
        finding,
        quantities={**finding.quantities, **quantities},
        notes=[f"by chance {by_chance}; of 28 layers, GPT-J's, 10.7%", *finding.notes],
        floor=too_few if chance >= decides else None,
    )


@ends_in_a_finding
def rome_granularity(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-rome-granularity``: the share of the parameters in three layers' MLPs, and in whole layers.

    A model's layers are all of one size, so that it does not matter which three are taken.
    """
    lm = study.lm
    if lm.num_layers < TOP_K:
        raise NotRunError(f"{lm.name} has {lm.num_layers} layers, fewer than {TOP_K}")
    one, three = (LayerSet(tuple(range(count)), lm.num_layers) for count in (1, TOP_K))
    share = three.parameter_share(lm)
    return Finding(
        claim=claim,
        cell=cell,
        quantity="share of the parameters in three layers' MLPs",
        unit="share",
        n=1,
        estimate=share,
        interval=(share, share),
        interval_kind="exact count",
        quantities={
            "three whole layers": three.parameter_share(lm, "block"),
            "one layer's MLP": one.parameter_share(lm),
            "one whole layer": one.parameter_share(lm, "block"),
            "layers": lm.num_layers,
            "parameters": lm.num_parameters,
        },
        settings={name: value for name, value in study.record().items() if name not in OF_EQUATION_8},
    )
