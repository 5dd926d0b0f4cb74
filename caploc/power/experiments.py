"""The design of each experiment, from the settings of a run alone: one line an experiment.

A family plugs in here: the name of the experiment, as its module and function, and the design that its numbers arise
by, at the sizes that the run will have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from caploc.power.designs import Arms, Counted, Design, Doses, Halves, Level, Paired, Proportion, SetsDrawn


@dataclass(frozen=True)
class Sizes:
    """How much a cell will rest on.

    Attributes:
        examples: that a dataset is located with; ``facts``: of the methods that are cheap a fact; ``fewer``: of causal
            tracing and circuits; ``edited``: that are edited; ``pairs``: of decoupling.
        items: that a dataset is evaluated on.
        draws: random sets and splits; ``datasets``: how many are in the run; ``runs``: of training.
    """

    examples: int
    facts: int
    fewer: int
    edited: int
    items: int
    draws: int
    datasets: int
    runs: int

    @classmethod
    def of(cls, samples: int | None, draws: int, datasets: int, gpu: bool) -> Sizes:
        """Those of a run with these options, in which what has a default takes it."""
        from caploc.experiments import edited_facts, enhancement_arms, evaluating, facts, study

        paper = facts.PAPER_FACTS
        return cls(
            examples=samples or (500 if gpu else study.CPU_SAMPLES),
            facts=samples or (paper if gpu else facts.CPU_FACTS),
            fewer=samples or (paper if gpu else facts.CPU_FEWER_FACTS),
            edited=samples or (edited_facts.GPU_EDITED if gpu else edited_facts.CPU_EDITED),
            items=200 if gpu else evaluating.CPU_LABELLED_ITEMS,
            draws=draws,
            datasets=datasets,
            runs=enhancement_arms.SEEDS,
        )


Make = Callable[[Sizes], Design]


def _by_examples(sizes: Sizes) -> Design:
    return Halves(sizes.examples, draws=sizes.draws)


def _gap_of_halves(sizes: Sizes) -> Design:
    """A difference of overlaps: what overlaps of so many examples spread by."""
    return Paired(sizes.examples, spread=0.6)


def _facts(sizes: Sizes) -> Design:
    return Level(sizes.facts)


def _fewer(sizes: Sizes) -> Design:
    return Level(sizes.fewer)


def _paired_facts(sizes: Sizes) -> Design:
    return Paired(sizes.facts)


def _paired_fewer(sizes: Sizes) -> Design:
    return Paired(sizes.fewer)


def _score(sizes: Sizes) -> Design:
    return Proportion(sizes.items, by_samples=False)


def _arms(drawn: bool, parts: int = 1) -> Make:
    return lambda sizes: Arms(sizes.items, comparisons=parts, by_samples=False, runs=sizes.runs, drawn=drawn)


def _erased(sizes: Sizes) -> Design:
    return SetsDrawn(sizes.items, comparisons=sizes.datasets, by_samples=False, draws=sizes.draws)


def _count(why: str) -> Make:
    return lambda sizes: Counted(why=why)


DESIGNS: Mapping[str, Make] = {
    "commonality.overlap": _by_examples,
    "commonality.iou": _by_examples,
    "commonality.both_high": _by_examples,
    "commonality.subset_suffices": _by_examples,
    "commonality.commonality": _gap_of_halves,
    "commonality.trained_minus_untrained": _gap_of_halves,
    "commonality.independence": _by_examples,
    "commonality.convergence": _by_examples,
    "commonality.dataset_overlap": _by_examples,
    "commonality.neuron_ratio": _count("a share of neurons, without sampling error"),
    "commonality.default_sigma": _count("shares of neurons, without sampling error"),
    "cross_dataset.gsm8k_emotion_overlap": _gap_of_halves,
    "cross_dataset.enhance_cross": _arms(False, 2),
    "cross_dataset.erase_cross": _erased,
    "cross_dataset.same_type_specificity": lambda sizes: SetsDrawn(
        2 * sizes.items, by_samples=False, draws=sizes.draws, between=0.02, own=0.1
    ),
    "cross_dataset.significant_improvement": _arms(True, 2),
    "cross_dataset.other_models": lambda sizes: Level(sizes.datasets**2, by_samples=False, low=-1.0),
    "decoupling.rate_of_two_tasks": _facts,
    "decoupling.rate_of_a_task": _facts,
    "decoupling.individual_low": _facts,
    "decoupling.commonality": _paired_facts,
    "enhancement.table2_numbers": _score,
    "enhancement.located_beats_random": _arms(True),
    "enhancement.located_beats_others": _arms(False),
    "enhancement.located_best_average": _arms(True, 3),
    "enhancement.small_portion_suffices": _arms(False),
    "enhancement.param_share": _count("a share of neurons, without sampling error"),
    "enhancement_elsewhere.enhancement_loss": _arms(True),
    "enhancement_elsewhere.table4_numbers": _score,
    "enhancement_elsewhere.table4_located_best": _arms(True),
    "enhancement_elsewhere.harmless_updating": _arms(False),
    "erasure.base": _score,
    "erasure.erase": _score,
    "erasure.random": lambda sizes: Paired(
        sizes.items, comparisons=sizes.datasets, by_samples=False, binary=True, discordant=0.02
    ),
    "erasure.located_hurts_more": _erased,
    "erasure.sigma_trend": lambda sizes: Doses(sizes.items, by_samples=False),
    "fidelity.overlap": _fewer,
    "fidelity.kn_mean_located": lambda sizes: Level(sizes.facts, high=100.0),
    "fidelity.ordering": lambda sizes: Paired(sizes.fewer, comparisons=2),
    "fidelity.rome_granularity": _count("a share of layers, without sampling error"),
    "fidelity.kc_granularity": lambda sizes: Level(sizes.fewer, high=100.0),
    "fidelity.kc_param_share": _fewer,
    "rivals.outperforms": _paired_facts,
    "completeness.ig_completeness": _count("a numerical error, without sampling error"),
    "premises.attribution_measures_contribution": lambda sizes: Level(sizes.facts, low=-1.0),
    "premises.kn_verification": _paired_facts,
    "premises.kc_recall_premise": _paired_fewer,
    "premises.rome_layer_editing": lambda sizes: Paired(sizes.edited, binary=True, discordant=0.2),
    "premises.rome_corruption": _fewer,
    "premises.rome_restoration_locates": lambda sizes: Level(sizes.fewer, low=-1.0),
    "reliability_kn.kn_double": lambda sizes: Proportion(sizes.facts),
    "reliability_kn.kn_zero": lambda sizes: Proportion(sizes.facts),
    "reliability_kn.kn_similar_to_random": lambda sizes: Paired(sizes.facts, comparisons=2),
    "reliability_kn.kn_not_necessarily": _facts,
    "reliability_kn.kn_no_strong_correlation": lambda sizes: Level(sizes.facts, low=-1.0),
    "reliability_kn.kn_ipp": _facts,
    "reliability_kc.kc_recall": lambda sizes: Proportion(sizes.fewer),
    "reliability_kc.kc_recalled_param_share": _fewer,
    "reliability_kc.kc_ipp": _fewer,
    "reliability_rome.rome_layers_equal": lambda sizes: Paired(
        sizes.edited, comparisons=5, binary=True, discordant=0.2
    ),
    "reliability_rome.rome_ipp": lambda sizes: Level(sizes.edited),
}
"""Experiment -> design; an experiment that is missing here has none, and a plan says so."""


def design_of(experiment: str, sizes: Sizes) -> Design | None:
    """The design of an experiment by its name; None where none is stated."""
    make = DESIGNS.get(experiment)
    return None if make is None else make(sizes)
