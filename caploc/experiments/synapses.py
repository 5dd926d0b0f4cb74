"""Knowledge synapses: does attention to a few tokens decide which neurons state a fact, and whether it is stated?

A synapse is a cell (layer, key head, column) of the attention matrices. Those of a prompt are the cells that the
prompt's last token attends to most. The paper's own definition is only recalled; ``BY`` names both forms. They are
cut or doubled (`caploc.interventions.attention`), beside cells of the same layers that add as much to the residual
stream, with the neurons that KN locates for the prompt free, or held at what they were.

The unit is the fact, in its first wording: cells, neurons and random sets are averaged within it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from caploc import statistics as stats
from caploc.experiments.evidence import asides, effect, effects
from caploc.experiments.facts import (
    OF_EQUATION_8,
    Chosen,
    FactSet,
    Fewer,
    facts_of,
    fewest_facts,
    passes_flops,
)
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.scaled_facts import MeasuredFacts
from caploc.experiments.specs import FloorError, Need
from caploc.experiments.study import Study, experiment, family
from caploc.experiments.wordings import query_facts
from caploc.findings import Cell, Measurement
from caploc.interventions.attention import Attention, AttentionScaling
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.locators.magnitude import Magnitude, magnitude
from caploc.neurons import NeuronMask
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES
from caploc.streams import Stream, derived_seeds, stream

By = Literal["last query", "column sum"]
BY: tuple[By, ...] = ("last query", "column sum")
"""By which weight cells are chosen: of the prompt's last token, where neurons are located; or summed over all tokens,
as is recalled of the paper."""
SHARE = 0.1
"""Of all cells of the prompt."""
CUT, DOUBLED = 0, 1
FACTORS = (0.0, 2.0)
FREE, HELD = 0, 1
CELL_SETS, LONG_SETS, NEURON_SETS = 10, 3, 5
"""Random sets for each fact: as many cells, each as near in length as there is another; as many as add up to the same
length; as many neurons. Each fact has its own, so that their sampling error averages out over facts."""
MATCHED = slice(1, 1 + CELL_SETS)
CPU_FACTS, ASKED_FOR_ROOM = 64, 400
LEAST_ROOM, MOST_ROOM = 0.05, 0.8
"""Between them P(answer) leaves room to rise: near 1 nothing can, near 0 the answer is not there to be enhanced."""


def knowledge_synapses(
    attention: Attention, share: float = SHARE, by: By = "last query"
) -> Bool[Tensor, "layers key_heads columns"]:
    """The ``share`` of a prompt's cells with the highest attention, but for those of its first token, where attention
    that has nothing to look for goes, and of its last, which looks at itself. Of equal ones the first."""
    weights = attention.weights[:, :, -1] if by == "last query" else attention.weights.sum(2)
    values = attention.of_key_heads(weights).clone()
    values[:, :, [0, -1]] = -1.0
    count = min(max(1, round(share * values.numel())), int((values >= 0).sum()))
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[values.flatten().argsort(descending=True, stable=True)[:count]] = True
    return chosen.view(values.shape)


@dataclass(frozen=True, eq=False)
class Synapses:
    """F facts whose synapses are cut and doubled, and S sets of cells each: the synapses, ``CELL_SETS`` that match them
    cell by cell in the same layers, and ``LONG_SETS`` of as many others of these layers as add up to their length.

    Attributes:
        odds: ``[F, 2, 2, S]`` rise of the answer's log odds in nats: ``CUT`` and ``DOUBLED``, neurons ``FREE`` or
            ``HELD``.
        gain: ``[F, 2, S]`` of the located neurons: the slope of their new activations on the clean ones, less 1.
        matched_gain: ``[F, 2, S]`` the same of as many neurons of the same layers and magnitude, mean over sets.
        other_ways: ``[F, 2, 3]`` as ``odds``, of synapses alone and free: renormalized, scaled for all tokens, chosen
            by column sum.
        clean: ``[F]`` log P(answer).
        clusters: ``[F]`` numbers of the subjects.
        share: ``[F, S]`` of the length of all cells, in the set.
        size: ``[F]`` magnitude of the neurons matched in it over that of the located ones.
    """

    odds: np.ndarray
    gain: np.ndarray
    matched_gain: np.ndarray
    other_ways: np.ndarray
    clean: np.ndarray
    clusters: np.ndarray
    share: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.clean)

    def fall(self, held: int) -> stats.Effect:
        """Of the log odds where synapses are cut, beyond that of matched cells."""
        return self.beyond(-self.odds[:, CUT, held])

    def beyond(self, values: np.ndarray) -> stats.Effect:
        """Values ``[F, S]`` of the synapses minus those of matched cells, paired by fact."""
        return stats.compare_pairs(values[:, 0], values[:, MATCHED].mean(1), clusters=self.clusters)

    def beyond_length(self, values: np.ndarray) -> stats.Effect:
        """The same minus those of cells that add up to as much."""
        return stats.compare_pairs(values[:, 0], values[:, MATCHED.stop :].mean(1), clusters=self.clusters)

    def fall_of_gain(self) -> stats.Effect:
        """Of the located neurons where synapses are cut, beyond that where matched cells are."""
        return self.beyond(-self.gain[:, CUT])

    def selective_fall(self) -> stats.Effect:
        """Of the located neurons where synapses are cut, beyond that of neurons matched in magnitude."""
        return stats.compare_pairs(
            -self.gain[:, CUT, 0], -self.matched_gain[:, CUT, 0], clusters=self.clusters
        )

    def rises(self) -> dict[str, stats.Effect]:
        """Of gain and log odds where synapses are doubled."""
        nothing = np.zeros(len(self))
        return {
            name: stats.compare_pairs(values, nothing, clusters=self.clusters)
            for name, values in (
                ("located neurons", self.gain[:, DOUBLED, 0]),
                ("answer", self.odds[:, DOUBLED, FREE, 0]),
            )
        }


@dataclass(frozen=True)
class ForSynapses(Fewer):
    """Of 64 facts the falls have intervals of +- a quarter of their spread over facts."""

    on_cpu: ClassVar[int] = CPU_FACTS


@dataclass(frozen=True)
class WithRoom(Chosen):
    """The facts whose answer the model gives a probability between ``LEAST_ROOM`` and ``MOST_ROOM``, ``count`` at most.

    FloorError: too few.
    """

    count: int

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        probability = np.exp(facts.log_prob[facts.first])
        # a log probability of 0 stands for an answer that was not asked for yet
        asked = facts.log_prob[facts.first] < 0
        room = ~asked | ((probability > LEAST_ROOM) & (probability < MOST_ROOM))
        if room.sum() < fewest_facts(study):
            raise FloorError(
                f"no room for enhancement: {study.model} gives {int(room.sum())} of {len(facts)} answers a probability "
                f"between {LEAST_ROOM} and {MOST_ROOM}, fewer than the {fewest_facts(study)} that an interval needs"
            )
        return facts.only(np.flatnonzero(room)[: self.count])


@dataclass(frozen=True)
class ScaledSynapses(MeasuredFacts[Synapses]):
    """The synapses of the first wording of every one of ``facts``, cut and doubled, beside matched cells."""

    title = "synapses of facts"
    what = "scaled synapses"
    kept = Synapses
    choices = MappingProxyType(
        {"threshold": DEFAULT_CUT.threshold, "sets": [SHARE, CELL_SETS, LONG_SETS, NEURON_SETS, FACTORS]}
    )

    @property
    def located(self) -> LocatedFacts:
        return LocatedFacts("kn", FirstWordings(self.facts))

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.located.facts, 20.0)

    def measured(self, study: Study, facts: FactSet) -> Synapses:
        scores = study.settings.store.compute_all(study.tasks(self.located))
        lm = study.weights()
        sizes = magnitude(lm, facts.prompts)
        found: list[tuple[Any, ...]] = []
        with AttentionScaling(lm) as scaling:
            for number, (prompt, entry) in enumerate(zip(facts.prompts, scores, strict=True)):
                located = DEFAULT_CUT.locate(torch.from_numpy(np.array(entry.arrays["values"])))
                attention = scaling.look(prompt)
                chosen = knowledge_synapses(attention)
                if not located.count or _fills(located.values) or _fills(chosen):
                    continue  # nothing to hold, or nothing left to match it with
                seeds = derived_seeds(Stream.SYNAPSES, study.settings.seed, number, count=3)
                lengths = Magnitude(attention.lengths.flatten(1).float())
                cells = lengths.random_like(NeuronMask(chosen.flatten(1)), CELL_SETS, seeds[0])
                long = _as_long(chosen, attention.lengths, seeds[2])
                sets = torch.cat([chosen[None], cells.view(CELL_SETS, *chosen.shape), long])
                others = sizes.random_like(located, NEURON_SETS, seeds[1])
                both, factors = torch.cat([sets, sets]), np.repeat(FACTORS, len(sets)).tolist()
                free = scaling.log_probs(prompt, both, factors)
                held = scaling.log_probs(prompt, both, factors, held=located)
                shape = (len(FACTORS), len(sets))
                odds = torch.stack([one.change_of_odds.view(shape) for one in (free, held)], 1)
                gains = [
                    _gain(free.activations, free.clean_activations, one) for one in (located.values, *others)
                ]
                once = torch.stack([chosen, chosen])
                summed = knowledge_synapses(attention, by="column sum")
                ways = (
                    scaling.log_probs(prompt, once, FACTORS, "renormalized"),
                    scaling.log_probs(prompt, once, FACTORS, queries="all"),
                    scaling.log_probs(prompt, torch.stack([summed, summed]), FACTORS),
                )
                found.append(
                    (
                        odds.numpy(),
                        gains[0].view(shape).numpy(),
                        torch.stack(gains[1:]).mean(0).view(shape).numpy(),
                        torch.stack([one.change_of_odds for one in ways], 1).numpy(),
                        float(free.clean.sum()),
                        facts.clusters[number],
                        ((sets * attention.lengths).sum((1, 2, 3)) / attention.lengths.sum()).numpy(),
                        float(sizes.mean_of(others).mean() / sizes.mean_of(located.values[None])[0]),
                    )
                )
        if not found:
            return Synapses(*(np.zeros((0, 2, 2, 2)[:rank]) for rank in (4, 3, 3, 3, 1, 1, 2, 1)))
        return Synapses(*(np.stack(column) for column in zip(*found, strict=True)))


@dataclass(frozen=True)
class FirstWordings(Chosen):
    """Every fact in its first wording alone."""

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        marked = np.zeros(len(facts.prompts), bool)
        marked[facts.first] = True
        return facts.only(np.arange(len(facts)), marked)


def _as_long(chosen: Tensor, lengths: Tensor, seed: int) -> Bool[Tensor, "sets layers key_heads columns"]:
    """``LONG_SETS`` sets of other cells: as many of each layer as add up to the length of the chosen ones, or all."""
    found = torch.zeros(LONG_SETS, *chosen.shape, dtype=torch.bool)
    for number, one in enumerate(found):
        generator = stream(Stream.LONG_CELLS, seed, number)
        for layer, (own, of_layer) in enumerate(zip(chosen, lengths, strict=True)):
            others = (~own).nonzero().numpy()
            order = others[generator.permutation(len(others))]
            sums = np.cumsum(of_layer.numpy()[order[:, 0], order[:, 1]])
            taken = order[: int(np.searchsorted(sums, float(of_layer[own].sum())))]
            one[layer, taken[:, 0], taken[:, 1]] = True
    return found


def _fills(chosen: Tensor) -> bool:
    """Whether more than half of a layer is chosen, so that others of it cannot match them."""
    by_layer = chosen.flatten(1)
    return bool((2 * by_layer.sum(1) > by_layer.shape[1]).any())


def _gain(activations: Tensor, clean: Tensor, members: Tensor) -> Tensor:
    """``[sets]`` slope, less 1, of the members' activations on their clean ones: 0 where they are as they were, -1
    where they are off."""
    return ((activations * clean) * members).sum((1, 2)) / ((clean * clean) * members).sum() - 1


# ------------------------------------------------------------------------------------------------------------- claims


def _scaled(cell: Cell) -> ScaledSynapses:
    return ScaledSynapses(ForSynapses(query_facts(cell.dataset or "")))


def _of_known(study: Study, cell: Cell, claim: Claim) -> Synapses:
    return _enough(study, study.result(_scaled(cell)))


def _enough(study: Study, found: Synapses) -> Synapses:
    if len(found) < fewest_facts(study):
        raise FloorError(
            f"too few facts: KN locates neurons for {len(found)} of them, fewer than the {fewest_facts(study)} "
            "that an interval is taken over"
        )
    return found


def _completed(found: Synapses, measurement: Measurement) -> Measurement:
    names = ("renormalized", "scaled for all tokens", "chosen by column sum")
    ways = {
        f"log odds, synapses {done}, {name}": float(found.other_ways[:, factor, way].mean())
        for factor, done in ((CUT, "cut"), (DOUBLED, "doubled"))
        for way, name in enumerate(names)
    }
    return replace(
        measurement,
        asides={**measurement.asides, **ways},
        controls={
            "share of attention's length, synapses": float(found.share[:, 0].mean()),
            "share of attention's length, matched cells": float(found.share[:, MATCHED].mean()),
            "share of attention's length, cells as long together": float(
                found.share[:, MATCHED.stop :].mean()
            ),
            **measurement.controls,
        },
        n=len(found),
        draws=RESAMPLES,
        settings={
            "share_of_cells": SHARE,
            "cell_sets": CELL_SETS,
            "long_sets": LONG_SETS,
            "neuron_sets": NEURON_SETS,
            "threshold": DEFAULT_CUT.threshold,
        },
        unused=OF_EQUATION_8,
    )


on_synapses = family(lambda study, cell, claim: [_scaled(cell)], _of_known, _completed)
"""Claims about cutting the synapses of facts that the model knows."""


@on_synapses
def attention_neglected(found: Synapses, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-attention-neglected``: the answer falls where synapses are cut and the located neurons are held."""
    held, free = found.fall(HELD), found.fall(FREE)
    return Measurement(
        "fall of the answer's log odds, synapses cut and located neurons held, minus matched cells",
        effect(held, unit="nats"),
        asides={
            "located neurons free": effect(free, unit="nats"),
            "beyond cells as long together": effect(
                found.beyond_length(-found.odds[:, CUT, HELD]), unit="nats"
            ),
            "share that remains where they are held": held.estimate / free.estimate,
        },
    )


@on_synapses
def suppress_answer(found: Synapses, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-ks-suppress-answer``."""
    cut = found.odds[:, CUT, FREE]
    return Measurement(
        "fall of the answer's log odds, synapses cut, minus matched cells",
        effect(found.fall(FREE), unit="nats"),
        asides={"beyond cells as long together": effect(found.beyond_length(-cut), unit="nats")},
        controls={
            "fall, synapses": float(-cut[:, 0].mean()),
            "fall, matched cells": float(-cut[:, MATCHED].mean()),
            "fall, cells as long together": float(-cut[:, MATCHED.stop :].mean()),
        },
    )


@on_synapses
def suppress_neurons(found: Synapses, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-ks-suppress-kn``."""
    return Measurement(
        "fall of the located neurons' activations, synapses cut, minus matched cells",
        effect(found.fall_of_gain()),
        asides={"beyond cells as long together": effect(found.beyond_length(-found.gain[:, CUT]))},
        controls=_gains(found),
    )


@on_synapses
def selects(found: Synapses, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-ks-selects``."""
    return Measurement(
        "fall of activations where synapses are cut: located neurons minus others as large, in the same layers",
        effect(found.selective_fall()),
        controls=_gains(found),
    )


def _gains(found: Synapses) -> dict[str, float]:
    sizes = {"magnitude over that of the located, neurons as large": float(found.size.mean())}
    return sizes | {
        f"gain, {whose}, {what} cut": float(values[:, CUT, which].mean())
        for whose, values in (("located", found.gain), ("as large", found.matched_gain))
        for what, which in (("synapses", 0), ("matched cells", MATCHED))
    }


def _with_room(dataset: str) -> ScaledSynapses:
    asked = facts_of(dataset, wordings=1, at_least=ASKED_FOR_ROOM)
    return ScaledSynapses(WithRoom(asked, CPU_FACTS))


def _needs_of_room(study: Study, cell: Cell, claim: Claim) -> Iterator[Need]:
    yield Need(study, _with_room(cell.dataset or ""))
    yield Need(study.early, _with_room(cell.dataset or ""))


@experiment(_needs_of_room)
def enhance(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-ks-enhance``: on facts whose answers have room to rise, of the model or, where it has too few, of its
    early checkpoint."""
    spec, of = _with_room(cell.dataset or ""), study
    try:
        found = _enough(of, of.result(spec))
    except FloorError:
        of = study.early
        if of is study:
            raise
        found = _enough(of, of.result(spec))
    rises = found.rises()
    smallest = min(rises.values(), key=lambda one: one.interval.low)
    nats = found.odds[:, DOUBLED, FREE]
    measured = Measurement(
        "rise where synapses are doubled, of located neurons' activations and of the answer's log odds: the smaller",
        effect(smallest),
        effects(rises),
        asides=asides(
            {
                "answer, beyond matched cells": found.beyond(nats),
                "located neurons, beyond matched cells": found.beyond(found.gain[:, DOUBLED]),
                "answer, located neurons held": stats.compare_pairs(
                    found.odds[:, DOUBLED, HELD, 0], np.zeros(len(found)), clusters=found.clusters
                ),
            }
        ),
        controls={"P(answer), mean": float(np.exp(found.clean).mean())},
        notes=[f"measured on {of.model}, {len(found)} facts with {LEAST_ROOM} < P(answer) < {MOST_ROOM}"],
    )
    return _completed(found, measured)
