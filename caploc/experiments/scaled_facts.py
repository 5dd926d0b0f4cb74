"""Located neurons of facts and random ones, doubled and zeroed: what is kept of such interventions, fact by fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from caploc.experiments.facts import FactSet, passes_flops
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import Result, Spec, Task, keyed
from caploc.experiments.study import Study
from caploc.interventions.scaling import Scaling
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.locators.magnitude import Magnitude, magnitude
from caploc.neurons import NeuronMask
from caploc.store import Entry
from caploc.streams import Stream, derived_seeds

RANDOM_SETS = 10
"""For each fact. It has a located set of its own, so the sampling error of sets averages out over facts."""
RESOLUTION = 1e-6
"""Nats a token. Float32 logits of size 10 resolve no less; a smaller change is none, and counts as a tie."""

DOUBLED, ZEROED = BOTH = 0, 1
FACTORS = (2.0, 0.0)
DONE = {DOUBLED: "doubled", ZEROED: "zeroed"}
SIGNS = {"increase": 1, "decrease": -1}
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
layer by layer; the largest in magnitude, as many in every layer. Random sets hold nothing that is located."""
RANDOM_ARMS = (UNIFORM, LAYER, MAGNITUDE)
"""The first is the paper's, "random activation values" anywhere, and decides; the others stand beside."""
SURE = 1e-7
"""The least 1 - P that float32 logits resolve."""


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

    def log_odds(self, done: int, arm: str) -> np.ndarray:
        """``[F]`` mean change over the arm's sets of the log odds of the answer, log P - log (1 - P), in nats: as log P
        where P is small, and without a ceiling where it is large."""
        clean = self.clean[:, None]
        return np.asarray((odds_of(clean + self.change[:, done, ARMS[arm]]) - odds_of(clean)).mean(1))

    @property
    def room(self) -> float:
        """By how many nats log P(answer) could rise on average, at most."""
        return float(-self.clean.mean())


def odds_of(log_p: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, of which none counts as closer to 1 than can be told."""
    capped = np.minimum(log_p, -SURE)
    return np.asarray(capped - np.log(-np.expm1(capped)))


@dataclass(frozen=True)
class MeasuredFacts(Spec[Result]):
    """What an intervention on what KN locates does to every one of ``facts``: one entry, the arrays of ``kept``.

    A subclass gives ``measured``, what it is called in the store (``what``), and what it depends on beside the facts,
    how they are located and the seed (``choices``).
    """

    facts: Spec[FactSet]
    what: ClassVar[str]
    kept: ClassVar[type[Any]]
    choices: ClassVar[Mapping[str, Any]]

    @property
    def located(self) -> LocatedFacts:
        """What KN locates for them."""
        return LocatedFacts("kn", self.facts)

    def measured(self, study: Study, facts: FactSet) -> Result:
        """What is to be kept."""
        raise NotImplementedError

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self.facts, self.located)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, settings = study.result(self.located.facts), study.settings
        depends_on = {
            "facts": facts.data_fingerprint,
            "method": settings.attribution.settings,
            "seed": settings.seed,
            **self.choices,
        }
        yield keyed(study, self.what, depends_on, lambda: vars(self.measured(study, facts)))

    def read(self, study: Study, entries: Iterator[Entry]) -> Result:
        (entry,) = entries
        found: Result = self.kept(**{one.name: entry.arrays[one.name] for one in fields(self.kept)})
        return found


@dataclass(frozen=True)
class ScaledFacts(MeasuredFacts[Scaled]):
    """The located and the random neurons of every one of ``facts``, in its original wording, doubled and zeroed."""

    title = "scaled neurons of facts"
    what = "scaled activations"
    kept = Scaled
    choices = MappingProxyType(
        {"random sets": [RANDOM_SETS, "disjoint from the located"], "threshold": DEFAULT_CUT.threshold}
    )

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, 2.0 * ARMS[LARGEST].stop)

    def measured(self, study: Study, facts: FactSet) -> Scaled:
        prompts = [facts.prompts[index] for index in facts.first]
        tasks = study.tasks(self.located)
        scores = study.settings.store.compute_all([tasks[index] for index in facts.first])
        lm = study.weights()
        sizes = magnitude(lm, prompts)
        found: list[tuple[np.ndarray | float, ...]] = []
        with Scaling(lm) as scaling:
            for index, (prompt, entry) in enumerate(zip(prompts, scores, strict=True)):
                values = torch.from_numpy(np.array(entry.arrays["values"]))
                located = DEFAULT_CUT.locate(values)
                if not 0 < 2 * located.count <= located.values.numel():
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

    Where more than half of a layer is located, no others of it can match them.
    """
    drawn = derived_seeds(Stream.FACT_SETS, seed, fact)[0]
    generator, free = np.random.default_rng(drawn), ~located.values.numpy(force=True)
    sets = np.zeros((ARMS[LARGEST].stop, *free.shape), bool)
    is_there = np.ones(len(sets), bool)
    for one in sets[ARMS[UNIFORM]]:
        one.ravel()[generator.choice(np.flatnonzero(free), located.count, replace=False)] = True
    sets[ARMS[LOCATED]], sets[ARMS[LARGEST]] = ~free, sizes.top_like(located).values.numpy(force=True)
    if (free.sum(1) < located.per_layer).any():
        is_there[ARMS[LAYER]] = is_there[ARMS[MAGNITUDE]] = False
        return torch.from_numpy(sets), is_there
    for one in sets[ARMS[LAYER]]:
        for layer, count in enumerate(located.per_layer):
            one[layer, generator.choice(np.flatnonzero(free[layer]), count, replace=False)] = True
    sets[ARMS[MAGNITUDE]] = sizes.random_like(located, RANDOM_SETS, drawn).numpy(force=True)
    return torch.from_numpy(sets), is_there
