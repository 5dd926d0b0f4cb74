"""What doubling and zeroing does to facts: the neurons that KN located, and random sets of as many in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc.errors import OptionError
from caploc.experiments.facts import FactSet, passes_flops
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import Spec, Task, keyed
from caploc.experiments.study import Study
from caploc.interventions.scaling import Scaling
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.locators.magnitude import Magnitude, magnitude, random_sets
from caploc.neurons import NeuronMask
from caploc.store import Entry
from caploc.streams import Stream, derived_seeds

RANDOM_SETS = 10
"""For each fact. It has a located set of its own, so the sampling error of sets averages out over facts."""
RESOLUTION = 1e-6
"""Nats a token. Float32 logits of size 10 resolve no less; a smaller change is none, and counts as a tie."""

DOUBLED, ZEROED = 0, 1
FACTORS = (2.0, 0.0)
LOCATED, LAYER, UNIFORM, MAGNITUDE, LARGEST = "located", "by layer", "uniform", "by magnitude", "largest"
ARMS: Mapping[str, slice] = MappingProxyType(
    {
        LOCATED: slice(0, 1),
        LAYER: slice(1, 1 + RANDOM_SETS),
        UNIFORM: slice(1 + RANDOM_SETS, 1 + 2 * RANDOM_SETS),
        MAGNITUDE: slice(1 + 2 * RANDOM_SETS, 1 + 3 * RANDOM_SETS),
        LARGEST: slice(1 + 3 * RANDOM_SETS, 2 + 3 * RANDOM_SETS),
    }
)
"""Sets of each fact: located; random with its count in every layer; random with its count; nearest to it in magnitude,
layer by layer; the largest in magnitude, as many in every layer."""
RANDOM_ARMS = (LAYER, UNIFORM, MAGNITUDE)


@dataclass(frozen=True, eq=False)
class Scaled:
    """F facts for which something is located, with ``ARMS`` of S sets each.

    Attributes:
        change: ``[F, 2, S]`` rise of log P(answer), in nats, ``DOUBLED`` and ``ZEROED``; nan for a set there is not.
        attribution: ``[F, S]`` the sum of the set's attributions.
        magnitude: ``[F, S]`` the mean magnitude of the set's neurons.
        clean: ``[F]`` log P(answer) without intervention.
        resolution: ``[F]`` changes up to this size are none.
        count: ``[F]`` located neurons.
        clusters: ``[F]`` numbers of the subjects.
        known: ``[F]`` whether the model answers rightly.
    """

    change: np.ndarray
    attribution: np.ndarray
    magnitude: np.ndarray
    clean: np.ndarray
    resolution: np.ndarray
    count: np.ndarray
    clusters: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.clean)

    def only(self, chosen: np.ndarray) -> Scaled:
        """Some of the facts, chosen by a bool for each."""
        return Scaled(*(getattr(self, one.name)[chosen] for one in fields(self)))

    def has(self, arm: str) -> bool:
        """Whether every fact has the arm's sets."""
        return bool(np.isfinite(self.change[:, :, ARMS[arm]]).all())

    def moved(self, done: int, arm: str, sign: int) -> np.ndarray:
        """``[F, sets]`` 1 where the answer gets likelier (``sign`` 1) or less likely (-1), else 0; nan for no set."""
        change = self.change[:, done, ARMS[arm]]
        moved = (sign * change > self.resolution[:, None]).astype(float)
        return np.where(np.isnan(change), np.nan, moved)

    def as_predicted(self, done: int, arm: str) -> np.ndarray:
        """``moved`` in KN's direction: likelier if doubled, less likely if zeroed."""
        return self.moved(done, arm, 1 if done == DOUBLED else -1)

    def nats(self, done: int, arm: str) -> np.ndarray:
        """``[F]`` mean change of log P(answer) over the arm's sets."""
        return np.asarray(self.change[:, done, ARMS[arm]].mean(1))

    @property
    def room(self) -> float:
        """By how many nats log P(answer) could rise on average, at most: a ceiling where it is next to nothing."""
        return float(-self.clean.mean())


@dataclass(frozen=True)
class ScaledFacts(Spec[Scaled]):
    """The located and the random neurons of every one of ``facts``, in its original wording, doubled and zeroed."""

    facts: Spec[FactSet]

    @property
    def title(self) -> str:
        return "scaled neurons of facts"

    @property
    def _located(self) -> LocatedFacts:
        return LocatedFacts("kn", self.facts)

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self.facts, self._located)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, settings = study.result(self.facts), study.settings
        depends_on = {
            "facts": facts.data_fingerprint,
            "method": settings.attribution.settings,
            "seed": settings.seed,
            "random sets": RANDOM_SETS,
            "threshold": DEFAULT_CUT.threshold,
        }
        yield keyed(study, "scaled activations", depends_on, lambda: vars(self._scaled(study, facts)))

    def read(self, study: Study, entries: Iterator[Entry]) -> Scaled:
        (entry,) = entries
        return Scaled(**{one.name: entry.arrays[one.name] for one in fields(Scaled)})

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, 2.0 * ARMS[LARGEST].stop)

    def _scaled(self, study: Study, facts: FactSet) -> Scaled:
        prompts = [facts.prompts[index] for index in facts.first]
        tasks = study.tasks(self._located)
        scores = study.settings.store.compute_all([tasks[index] for index in facts.first])
        lm = study.weights()
        sizes = magnitude(lm, prompts)
        found: list[tuple[np.ndarray | float, ...]] = []
        with Scaling(lm) as scaling:
            for index, (prompt, entry) in enumerate(zip(prompts, scores, strict=True)):
                values = torch.from_numpy(np.array(entry.arrays["values"]))
                located = DEFAULT_CUT.locate(values)
                if not located.count:
                    continue
                sets, is_there = _sets(located, sizes, study.settings.seed, index)
                result = scaling.log_probs(
                    prompt, torch.cat([sets, sets]), np.repeat(FACTORS, len(sets)).tolist()
                )
                change = (result.log_probs - result.clean).sum(1).reshape(2, -1).numpy()
                found.append(
                    (
                        np.where(is_there, change, np.nan),
                        (sets * values).sum((1, 2)).numpy(),
                        sizes.mean_of(sets).numpy(),
                        float(result.clean.sum()),
                        max(result.rounding, RESOLUTION) * prompt.num_answer_tokens,
                        located.count,
                        facts.clusters[index],
                        facts.known[index],
                    )
                )
        if not found:
            return _of_no_fact()
        return Scaled(*(np.stack(column) for column in zip(*found, strict=True)))


def _of_no_fact() -> Scaled:
    none, no_sets = np.zeros(0), np.zeros((0, ARMS[LARGEST].stop))
    change = np.zeros((0, 2, ARMS[LARGEST].stop))
    return Scaled(change, no_sets, no_sets, none, none, none, none.astype(int), none.astype(bool))


def _sets(located: NeuronMask, sizes: Magnitude, seed: int, fact: int) -> tuple[Tensor, np.ndarray]:
    """``[S, layers, neurons]`` the sets of all arms, and ``[S]`` which of them are there.

    Where more than half of a layer is located, none of it can be matched in magnitude.
    """
    drawn = derived_seeds(Stream.FACT_SETS, seed, fact)[0]
    uniform = [located.random_like(drawn + number, "count").values for number in range(RANDOM_SETS)]
    by_layer = random_sets(located, RANDOM_SETS, drawn)
    is_there = np.ones(ARMS[LARGEST].stop, bool)
    try:
        by_magnitude = sizes.random_like(located, RANDOM_SETS, drawn)
    except OptionError:
        by_magnitude, is_there[ARMS[MAGNITUDE]] = by_layer, False
    parts = [
        located.values[None],
        by_layer,
        torch.stack(uniform),
        by_magnitude,
        sizes.top_like(located).values[None],
    ]
    return torch.cat(parts), is_there
