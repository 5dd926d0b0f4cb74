"""What is trained: the neurons of each arm, and how many runs it gets (section 5.4, list of the methods)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from caploc.errors import OptionError
from caploc.experiments.commonality.splits import whole_mask
from caploc.experiments.endings import FloorError
from caploc.experiments.erasure.arms import stored_magnitude
from caploc.experiments.study import Study
from caploc.locators.magnitude import random_sets
from caploc.neurons import NeuronMask
from caploc.streams import Stream, derived_seeds

LOCATED, RANDOM, OTHERS = "located", "random", "all but located"
"""The paper's three methods, named as in its tables: ``random`` matched by layer, ``all but located`` with the located
neurons set to zero, as printed."""
FROZEN, UNIFORM, NEAREST = "all but located, frozen", "random, uniform", "nearest in magnitude"
"""What stands beside them: the others trained and the located left as they are, which is fair; random over all layers;
those outside the located that are nearest to them in magnitude."""

METHODS = (LOCATED, RANDOM, OTHERS)
SEEDS = 3
RUNS: Mapping[str, int] = MappingProxyType(
    {LOCATED: SEEDS, RANDOM: 5, OTHERS: SEEDS, FROZEN: SEEDS, UNIFORM: 1, NEAREST: 2}
)
"""Runs of each arm. Those of one set of neurons differ in the order of the examples, those of random arms in the set
too: draw j has seed j mod ``SEEDS``."""
KINDS: Mapping[str, str] = MappingProxyType(
    {LOCATED: LOCATED, RANDOM: RANDOM, OTHERS: OTHERS, FROZEN: FROZEN, UNIFORM: RANDOM, NEAREST: RANDOM}
)
"""Arm -> the arm whose learning rate it takes."""


@dataclass(frozen=True)
class Run:
    """One training: an arm, the number of its random set (0 where there is one set only) and the seed of its order."""

    arm: str
    draw: int
    seed: int


@dataclass(frozen=True, eq=False)
class Arm:
    """The sets of neurons that an arm trains, one a draw, and those that are 0 meanwhile and afterwards."""

    sets: tuple[NeuronMask, ...]
    zeroed: NeuronMask | None = None


def runs_of(arm: str, seed: int = 0) -> list[Run]:
    """An arm's runs; ``seed`` is the study's."""
    drawn = KINDS[arm] == RANDOM
    return [
        Run(arm, number if drawn else 0, seed + number % SEEDS if drawn else seed + number)
        for number in range(RUNS[arm])
    ]


def located_mask(study: Study, dataset: str, sigma: float) -> NeuronMask:
    """Eq. (8) on the scores of all of a dataset's locating examples.

    Raises:
        FloorError: no neuron passes, or all do, so that there is nothing to train or nothing else.
    """
    mask = NeuronMask(torch.from_numpy(whole_mask(study.shards(dataset), study.settings.threshold(sigma))))
    if mask.count in (0, mask.values.numel()):
        which = "no neuron passes" if not mask.count else "every neuron passes"
        raise FloorError(f"floor effect: {which} sigma {sigma:g} on {dataset}; take another --sigma")
    return mask


def arms_of(study: Study, dataset: str, mask: NeuronMask) -> dict[str, Arm]:
    """All arms for one located set; without ``NEAREST`` where more than half of a layer is located."""
    seed = derived_seeds(Stream.TRAINED_SETS, study.settings.seed)[0]
    others = NeuronMask(~mask.values)
    arms = {
        LOCATED: Arm((mask,)),
        RANDOM: Arm(tuple(map(NeuronMask, random_sets(mask, RUNS[RANDOM], seed)))),
        OTHERS: Arm((others,), mask),
        FROZEN: Arm((others,)),
        UNIFORM: Arm(tuple(mask.random_like(seed + draw, "count") for draw in range(RUNS[UNIFORM]))),
    }
    sizes = stored_magnitude(study, dataset)
    try:
        nearest = sizes.random_like(mask, RUNS[NEAREST], seed)
    except OptionError:
        return arms
    return {**arms, NEAREST: Arm(tuple(map(NeuronMask, nearest)))}
