"""From what a method located for the wordings of many facts to the finding of how much they overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caploc.experiments.facts import FEWEST_FACTS, FactSet
from caploc.experiments.facts.report import finding_of, interval_parts, number_is_printed
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.papers import load_paper
from caploc.statistics import (
    Within,
    across_facts,
    bootstrap_mean,
    cluster_weights,
    defined_interval,
    defined_mean,
    facts_permuted_p,
    weighted_mean,
    weighted_pair_mean,
    within_facts,
)

FAITHFUL = 0.8
"""The mark of a faithful method, shown beside the 40 % that decide (ambiguity ``faithful-line``)."""


@dataclass(frozen=True, eq=False)
class Located:
    """What a method located, one set for each prompt of the facts.

    ``variants``: the same under other settings of the method. ``untrained``: for the first facts, in the model's
    untrained twin. ``controls``, ``settings``: further numbers for the finding, ready made.
    """

    sets: LocatedSets
    variants: Mapping[str, LocatedSets] = field(default_factory=dict)
    untrained: LocatedSets | None = None
    controls: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def overlap_finding(
    study: Study, facts: FactSet, located: Located, cell: Cell, claim: str, what: str
) -> Finding:
    """The overlap of two wordings of a fact: mean over its pairs, then over facts; BCa over facts, drawn by subject.

    The verdict rests on known facts and on those wordings that leave the model's answer as it was. Unrelated facts, the
    baseline, have another subject and another answer. ``what`` names the places, such as "neurons".
    """
    known = Agreements(facts, located.sets, facts.kept)
    within = known.within
    usable = within.defined
    if usable.sum() < FEWEST_FACTS:
        raise FloorError(
            f"no two wordings of {(~usable).sum()} of {len(facts)} facts can be compared: nothing is located for them, "
            "or the model answers one at most"
        )
    spread = bootstrap_mean(within.values[usable], seed=study.settings.seed, clusters=facts.clusters[usable])
    quantities = {
        **known.gaps(study.settings.seed),
        **interval_parts(claim, cell, {"overlap": (known.mean, spread)}),
        "pairs": within.pairs,
        "pairs of two empty sets, left out": within.undefined,
        "empty sets": int((known.sets.counts == 0).sum()),
        "places in a set, mean": float(known.sets.counts.mean()),
        "chance, uniform": known.mean_chance(known.sets.uniform_chance()),
        "above chance": known.mean - known.chance,
        "equal sets, share of pairs": known.equal_share(),
        f"facts at {FAITHFUL:.0%} or above": float((within.values[usable] >= FAITHFUL).mean()),
        **_beside(facts, located),
    }
    return finding_of(
        study,
        facts,
        cell,
        claim,
        f"overlap of the {what} of two wordings of a fact",
        n=int(usable.sum()),
        estimate=known.mean,
        interval=(spread.low, spread.high),
        interval_kind=f"95 %, {spread.kind} over facts, those of one subject together",
        chance=known.chance,
        effect_size=known.effect_size,
        p_values={"permutation of facts": facts_permuted_p(known.matrix, known.fact, study.settings.seed)},
        quantities=quantities,
        controls={**known.controls, **_untrained(facts, located), **located.controls},
        settings={"wordings": int(np.bincount(facts.fact).max()), **located.settings},
        plots=_plots(study, facts, known, located, claim, cell, what),
    )


class Agreements:
    """Overlaps of the sets of chosen prompts, within facts and across them; F counts all facts, chosen or not."""

    def __init__(self, facts: FactSet, sets: LocatedSets, chosen: np.ndarray) -> None:
        self.facts, self.sets, self.fact = facts, sets[chosen], facts.fact[chosen]
        self.matrix = self.sets.overlap()
        self.within: Within = within_facts(self.matrix, self.fact, len(facts))
        across = across_facts(self.matrix, self.fact, len(facts))
        subject = np.equal.outer(facts.clusters, facts.clusters)
        answer = np.equal.outer(facts.answers, facts.answers)
        self._unrelated = np.where(subject | answer, np.nan, across)
        self._same_answer = np.where(answer & ~subject, across, np.nan)
        self.mean, self.unrelated = defined_mean(self.within.values), defined_mean(self._unrelated)
        self.controls = {
            "unrelated facts": self.unrelated,
            "same answer, another subject": defined_mean(self._same_answer),
            "same subject, another answer": defined_mean(across[subject & ~answer]),
        }

    @property
    def chance(self) -> float:
        """The mean overlap of random sets in the place of two wordings', matched in every stratum."""
        return self.mean_chance(self.sets.chance())

    def mean_chance(self, matrix: np.ndarray) -> float:
        """As ``mean``, of the chance levels ``matrix [P, P]`` of every two sets."""
        return defined_mean(within_facts(matrix, self.fact, len(self.facts)).values)

    @property
    def baselines(self) -> np.ndarray:
        """``[F]`` each fact's mean overlap with unrelated ones."""
        return np.array([defined_mean(row) for row in self._unrelated])

    @property
    def of_same_answer(self) -> np.ndarray:
        """``[F]`` each fact's mean overlap with those of other subjects that have its answer."""
        return np.array([defined_mean(row) for row in self._same_answer])

    @property
    def effect_size(self) -> float | None:
        """Within a fact minus its own baseline, in standard deviations over facts."""
        gaps = self.within.values - self.baselines
        gaps = gaps[np.isfinite(gaps)]
        return float(gaps.mean() / gaps.std(ddof=1)) if len(gaps) > 1 and np.ptp(gaps) > 0 else None

    def gaps(self, seed: int) -> dict[str, float]:
        """How far wordings of one fact lie above unrelated facts, and above other facts with the same answer."""
        weights = cluster_weights(self.facts.clusters, seed)
        within = weighted_mean(self.within.values, weights)
        found: dict[str, float] = {}
        for name, across in (("baseline_gap", self._unrelated), ("same_answer_gap", self._same_answer)):
            interval = defined_interval(within - weighted_pair_mean(across, weights))
            found |= {f"{name}:estimate": self.mean - defined_mean(across)}
            found |= {f"{name}:low": interval.low, f"{name}:high": interval.high}
        return found

    def equal_share(self) -> float:
        """Mean over facts of the share of pairs whose sets are the same and not empty."""
        counts = self.sets.counts
        common = self.sets.common()
        equal = (common == counts[:, None]) & (common == counts[None]) & (counts > 0)
        return defined_mean(within_facts(equal.astype(float), self.fact, len(self.facts)).values)


def _beside(facts: FactSet, located: Located) -> dict[str, float]:
    """The overlap under other choices: of facts and wordings, then of the method's settings."""
    everything = np.ones(len(facts.prompts), bool)
    choices = {"all wordings of known facts": facts.known[facts.fact], "all facts, known or not": everything}
    found: dict[str, float] = {
        name: Agreements(facts, located.sets, chosen).mean for name, chosen in choices.items()
    }
    for name, sets in located.variants.items():
        other = Agreements(facts, sets, facts.kept)
        found |= {name: other.mean, f"{name}, unrelated facts": other.unrelated}
    return found


def _untrained(facts: FactSet, located: Located) -> dict[str, float]:
    if located.untrained is None:
        return {}
    few = facts.head(int(facts.fact[len(located.untrained) - 1]) + 1)
    twin = Agreements(few, located.untrained, few.kept)
    return {"untrained twin": twin.mean, "untrained twin, unrelated facts": twin.unrelated}


def _plots(
    study: Study, facts: FactSet, known: Agreements, located: Located, claim: str, cell: Cell, what: str
) -> list[Plot]:
    groups = {
        "same fact": known.within.values,
        "same answer, another subject": known.of_same_answer,
        "unrelated facts": known.baselines,
    }
    if located.untrained is not None:
        few = facts.head(int(facts.fact[len(located.untrained) - 1]) + 1)
        groups["same fact, untrained"] = Agreements(few, located.untrained, few.kept).within.values
    shown = {name: values[np.isfinite(values)].tolist() for name, values in groups.items()}
    shown = {name: values for name, values in shown.items() if values}
    data: dict[str, object] = {"groups": shown, "chance": known.chance, "axis": "overlap, one dot a fact"}
    if number_is_printed(claim, cell):
        data["published"] = {
            "same fact": float(load_paper("capability_localization").claim(claim).numbers[0].printed) / 100
        }
    return [Plot("splits", f"Overlap of the {what} of two wordings, {facts.dataset}", data)]
