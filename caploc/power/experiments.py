"""The design of each experiment, from the settings of a run alone: one line an experiment.

A family plugs in here: the name of the experiment, as its module and function, and the design that its numbers arise
by, at the sizes that the run will have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from caploc.experiments.enhancement_arms import OTHERS, RUNS
from caploc.power.designs import (
    Choices,
    Correlation,
    Counted,
    Design,
    Layers,
    Level,
    Paired,
    Proportion,
    SharedNeurons,
)
from caploc.power.halves import DatasetPairs, Halves, Partitions
from caploc.power.items import Arms, Doses, Others, RandomChange, SetsDrawn, TextLoss
from caploc.statistics import draws_for

LEVEL = 0.05
PAPER_SAMPLES = 700
"""The fewest that the paper locates a dataset with, those of Meta_Math (section 5.3); on a GPU a run takes as many."""
OTHER_LAYERS = 7
"""That edits of one layer are compared with: the embedded models', and more in others."""
LOCATED = 27
"""Neurons located on a dataset: fewer in few models, sigma 6 passes about as many of the embedded ones."""
RIVALS = 3
"""Locators of facts that CNL is held against, each by overlap and by erasure."""


@dataclass(frozen=True)
class Sizes:
    """How much a cell will rest on.

    Attributes:
        examples: that a dataset is located with; ``rivals``: that every method locates with.
        facts: of the methods that are cheap a fact; ``traced``, ``fewer``: of causal tracing and of circuits;
            ``single``: of which every neuron is tried alone; ``queries``: located in many wordings, ``mapped``: whose
            sets are scaled; ``synapses``: of which attention is scaled; ``changed``: of the queries, beside those that
            the size of the change is chosen on; ``edited``: that are edited, of the ``editable``.
        items: that a dataset is evaluated on; ``texts``: of general text.
        draws: random sets and splits; ``datasets``: how many are in the run; ``trained``: that are trained on;
            ``runs``: of training.
    """

    examples: int
    rivals: int
    facts: int
    traced: int
    fewer: int
    single: int
    queries: int
    mapped: int
    synapses: int
    changed: int
    edited: int
    editable: int
    items: int
    texts: int
    draws: int
    datasets: int
    trained: int
    runs: int

    @classmethod
    def of(cls, samples: int | None, draws: int, datasets: int, gpu: bool) -> Sizes:
        """Those of a run with these options, in which what has a default takes it."""
        from caploc.experiments import (
            consistent_edits,
            edited_facts,
            enhancement_arms,
            enhancement_runs,
            evaluating,
            facts,
            query_mapping,
            rival_sets,
            study,
            synapses,
            wordings,
        )

        every = facts.PAPER_FACTS
        queries = samples or (every if gpu else wordings.CPU_QUERY_FACTS)
        edited = samples or (edited_facts.GPU_EDITED if gpu else edited_facts.CPU_EDITED)
        taken = samples or (every if gpu else facts.CPU_FACTS)
        return cls(
            examples=samples or (PAPER_SAMPLES if gpu else study.CPU_SAMPLES),
            rivals=samples or (PAPER_SAMPLES if gpu else rival_sets.CPU_SAMPLES),
            facts=taken,
            traced=samples or (every if gpu else facts.ForTracing.on_cpu),
            fewer=samples or (every if gpu else facts.CPU_FEWER_FACTS),
            single=min(taken, study.StudySettings.neuron_path_samples or taken),
            queries=queries,
            mapped=samples or (every if gpu else query_mapping.ForMapping.on_cpu),
            changed=queries - min(consistent_edits.CALIBRATING, queries // 4),
            synapses=samples or (every if gpu else synapses.CPU_FACTS),
            edited=edited,
            editable=samples or (every if gpu else math.ceil(edited / edited_facts.EDITED_SHARE)),
            items=samples or (PAPER_SAMPLES if gpu else evaluating.CPU_ITEMS),
            texts=evaluating.GENERAL_TEXTS,
            draws=draws,
            datasets=max(1, datasets),
            trained=max(1, min(datasets, len(enhancement_runs.PAPER_DATASETS))),
            runs=enhancement_arms.SEEDS,
        )


Make = Callable[[Sizes], Design]


def _halves(sizes: Sizes) -> Design:
    return Halves(sizes.examples, draws=sizes.draws, datasets=sizes.datasets)


def _facts(sizes: Sizes) -> Design:
    return Level(sizes.facts)


def _shares_of_parameters(sizes: Sizes) -> Design:
    """Circuits of one model are about equally large."""
    return Level(sizes.fewer, high=0.5, concentration=50.0)


def _wordings(facts: str) -> Make:
    """Overlap corrected for a chance of .3: below 0 where it is below chance."""
    return lambda sizes: Level(getattr(sizes, facts), low=-0.43, bounded=True)


def _arms(drawn: bool, parts: int = 1, average: bool = False, **more: Any) -> Make:
    def make(sizes: Sizes) -> Design:
        trained = sizes.trained if average else 1
        family = 1 if average or not drawn else sizes.trained
        return Arms(sizes.items, parts, family, runs=sizes.runs, trained=trained, drawn=drawn, **more)

    return make


def _elsewhere(drawn: bool, parts: int = 1, ranked: bool = False, **more: Any) -> Make:
    """Trained on some datasets, tested on the others."""
    return lambda sizes: Arms(
        sizes.items, parts, runs=sizes.runs, trained=sizes.trained,
        elsewhere=max(1, sizes.datasets - 1), drawn=drawn, ranked=ranked, **more,
    )  # fmt: skip


def _erased(average: bool) -> Make:
    def make(sizes: Sizes) -> Design:
        draws = draws_for(sizes.draws, LEVEL, sizes.datasets)
        family, pooled = (1, sizes.datasets) if average else (sizes.datasets, 1)
        return SetsDrawn(sizes.items, family=family, draws=draws, pooled=pooled)

    return make


def _score(sizes: Sizes) -> Design:
    return Proportion(sizes.items)


def _queries(sizes: Sizes) -> Design:
    """The share of facts without a set of their own."""
    return Proportion(sizes.queries, method="wilson")


def _over_wordings(comparisons: int = 1, spread: float = 0.3) -> Make:
    """Facts edited by what is located in other wordings of them."""
    return lambda sizes: Paired(sizes.changed, comparisons=comparisons, spread=spread)


def _synapses_cut(sizes: Sizes) -> Design:
    """Nats of log odds, of which 4 take an answer of P = .5 to .02, or as far up."""
    return Paired(sizes.synapses, spread=3.0, low=-4.0, high=4.0)


def _count(why: str) -> Make:
    return lambda sizes: Counted(why=why)


DESIGNS: Mapping[str, Make] = {
    "commonality.overlap": _halves,
    "commonality.iou": _halves,
    "commonality.both_high": _halves,
    "commonality.subset_suffices": _halves,
    "commonality.commonality": _halves,
    "commonality.trained_minus_untrained": _halves,
    "commonality.convergence": _halves,
    "commonality.independence": lambda sizes: Partitions(sizes.examples, draws=sizes.draws),
    "commonality.dataset_overlap": lambda sizes: SharedNeurons(LOCATED, math.comb(max(2, sizes.datasets), 2)),
    "commonality.neuron_ratio": _count("a share of neurons, without sampling error"),
    "commonality.default_sigma": _count("shares of neurons, without sampling error"),
    "cross_dataset.gsm8k_emotion_overlap": lambda sizes: DatasetPairs(sizes.examples),
    "cross_dataset.enhance_cross": _elsewhere(True, ranked=True),
    "cross_dataset.erase_cross": lambda sizes: Arms(
        sizes.items,
        runs=1,
        others=6,
        trained=sizes.datasets,
        elsewhere=max(1, sizes.datasets - 1),
        drawn=True,
        ranked=True,
    ),
    "cross_dataset.same_type_specificity": lambda sizes: Paired(
        sizes.datasets * sizes.items, spread=0.4, other_spread=0.15
    ),
    "cross_dataset.significant_improvement": _elsewhere(True, 2),
    "cross_dataset.other_models": lambda sizes: Level(sizes.datasets**2, by_samples=False, low=-1.0),
    "decoupling.rate_of_two_tasks": _facts,
    "decoupling.rate_of_a_task": _facts,
    "decoupling.individual_low": lambda sizes: Paired(sizes.facts, bounded=True),
    "decoupling.commonality": lambda sizes: Paired(sizes.facts, comparisons=4, spread=0.2),
    "enhancement.table2_numbers": _score,
    "enhancement.located_beats_random": _arms(True),
    "enhancement.located_beats_others": _arms(False, 3, average=True, others=RUNS[OTHERS]),
    "enhancement.located_best_average": _arms(True, 3, average=True),
    "enhancement.small_portion_suffices": _arms(False, 2, others=0),
    "enhancement.param_share": _count("a share of neurons, without sampling error"),
    "enhancement_elsewhere.enhancement_loss": _arms(True, average=True),
    "enhancement_elsewhere.table4_numbers": _score,
    "enhancement_elsewhere.table4_located_best": _elsewhere(True, 3),
    "enhancement_elsewhere.harmless_updating": lambda sizes: Others(
        sizes.items,
        runs=sizes.runs,
        trained=sizes.trained,
        elsewhere=max(1, sizes.datasets - 1),
        texts=sizes.texts,
    ),
    "erasure.base": _score,
    "erasure.erase": _score,
    "erasure.random": lambda sizes: RandomChange(sizes.items, by_samples=False),
    "erasure.located_hurts_more": _erased(False),
    "erasure.spares_text": lambda sizes: TextLoss(sizes.items, texts=sizes.texts),
    "erasure.sigma_trend": lambda sizes: Doses(sizes.items),
    "fidelity.overlap": _wordings("facts"),
    "fidelity.circuits_identical": _wordings("fewer"),
    "fidelity.kn_mean_located": lambda sizes: Level(sizes.facts, high=100.0, concentration=19.0),
    "fidelity.ordering": lambda sizes: Paired(sizes.fewer, comparisons=2),
    "fidelity.rome_granularity": _count("a share of layers, without sampling error"),
    "fidelity.kc_granularity": lambda sizes: Level(sizes.fewer, high=100.0, concentration=19.0),
    "fidelity.kc_param_share": _shares_of_parameters,
    "query_consistency.classes_differ": _count("a split of the variable that is tested"),
    "query_consistency.inconsistent_exists": _queries,
    "query_consistency.inconsistent_otsu": lambda sizes: Paired(sizes.queries, spread=0.3, by_samples=True),
    "query_consistency.inconsistent_size": lambda sizes: Paired(sizes.queries, binary=True, discordant=0.3),
    "query_consistency.relation_spread": lambda sizes: Level(sizes.queries, high=0.5),
    "query_consistency.three_locators": _queries,
    "query_mapping.exclusive_neurons": lambda sizes: Level(
        sizes.mapped, low=-2.0, high=2.0, concentration=50.0
    ),
    "query_mapping.gap_by_class": lambda sizes: Correlation(sizes.mapped),
    "query_mapping.query_kn_mapping": lambda sizes: Level(sizes.mapped, high=2.0, concentration=19.0),
    "query_overlap.kl_is_simplification": lambda sizes: Paired(sizes.queries, spread=0.1),
    "query_overlap.last_token": lambda sizes: Paired(sizes.queries, spread=0.2),
    "query_overlap.wording_effect": lambda sizes: Paired(sizes.queries, spread=0.1),
    "rivals.outperforms": lambda sizes: Paired(sizes.rivals, comparisons=2 * RIVALS),
    "selection.erase": _over_wordings(4),
    "selection.update": _over_wordings(4),
    "selection.locality": _over_wordings(2, 0.2),
    "selection.average_gain": _over_wordings(2, 0.2),
    "selection.on_consistent": _over_wordings(1, 0.6),
    "selection.generalizes_less": _over_wordings(2, 0.6),
    "selection.union_costs": _over_wordings(3),
    "synapses.attention_neglected": _synapses_cut,
    "synapses.suppress_answer": _synapses_cut,
    "synapses.suppress_neurons": lambda sizes: Paired(sizes.synapses, spread=0.15),
    "synapses.selects": lambda sizes: Paired(sizes.synapses, spread=0.25),
    "synapses.enhance": lambda sizes: Paired(sizes.synapses, comparisons=2, spread=0.5),
    "completeness.ig_completeness": _count("a numerical error, without sampling error"),
    "premises.attribution_measures_contribution": lambda sizes: Level(
        sizes.single, by_samples=False, low=-1.0, concentration=10.0
    ),
    "premises.kn_verification": lambda sizes: Paired(sizes.facts, comparisons=4, spread=0.65),
    "premises.kc_recall_premise": lambda sizes: Paired(sizes.facts, comparisons=2, spread=0.4),
    "premises.rome_layer_editing": lambda sizes: Paired(sizes.edited, binary=True, discordant=0.2),
    "premises.rome_corruption": lambda sizes: Level(sizes.editable),
    "premises.rome_restoration_locates": lambda sizes: Level(sizes.edited, low=-1.0),
    "reliability_kn.kn_double": lambda sizes: Paired(sizes.facts, comparisons=2, spread=0.45, bounded=True),
    "reliability_kn.kn_zero": lambda sizes: Paired(sizes.facts, comparisons=2, spread=0.45, bounded=True),
    "reliability_kn.kn_similar_to_random": lambda sizes: Paired(
        sizes.facts, comparisons=2, spread=0.45, bounded=True
    ),
    "reliability_kn.kn_not_necessarily": lambda sizes: Proportion(sizes.facts, method="wilson"),
    "reliability_kn.kn_no_strong_correlation": lambda sizes: Correlation(sizes.facts),
    "reliability_kn.kn_ipp": lambda sizes: Choices(sizes.facts),
    "reliability_kc.kc_recall": lambda sizes: Proportion(sizes.facts, method="wilson"),
    "reliability_kc.kc_recalled_param_share": _shares_of_parameters,
    "reliability_kc.kc_ipp": lambda sizes: Choices(sizes.facts),
    "reliability_rome.rome_layers_equal": lambda sizes: Layers(sizes.edited, OTHER_LAYERS),
    "reliability_rome.rome_ipp": lambda sizes: Choices(sizes.edited, choices=OTHER_LAYERS, discordant=0.1),
}
"""Experiment -> design; an experiment that is missing here has none, and a plan says so."""
ON_AVERAGE: Mapping[str, Make] = {
    "erasure.located_hurts_more": _erased(True),
    "erasure.random": lambda sizes: RandomChange(sizes.items, pooled=sizes.datasets),
    "enhancement.located_beats_random": _arms(True, average=True),
    "enhancement.small_portion_suffices": _arms(False, 2, average=True, others=0),
}
"""The same for cells without a dataset of their own, where those rest on all datasets."""
BY_CLAIM: Mapping[str, Make] = {"fidelity-rome-overlap": _wordings("traced")}
"""The same for a claim whose experiment has options that change its sizes."""


def design_of(experiment: str, sizes: Sizes, claim: str = "", average: bool = False) -> Design | None:
    """The design of an experiment by its name, in a claim's cells with a dataset or on ``average`` over all; None where
    none is stated."""
    make = BY_CLAIM.get(claim) or (ON_AVERAGE.get(experiment) if average else None) or DESIGNS.get(experiment)
    return None if make is None else make(sizes)
