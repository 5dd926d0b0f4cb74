"""Which neurons are erased: those that a dataset's examples locate, and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from caploc.errors import OptionError
from caploc.experiments.commonality.splits import whole_mask
from caploc.experiments.facts.stored import stored
from caploc.experiments.study import Study
from caploc.locators.magnitude import Magnitude, magnitude, random_sets
from caploc.neurons import NeuronMask

LOCATED, LAYER, UNIFORM, MAGNITUDE, LARGEST, TWIN = (
    "located",
    "by layer",
    "uniform",
    "by magnitude",
    "largest",
    "located in the untrained twin",
)
RANDOM_ARMS = (LAYER, UNIFORM, MAGNITUDE)
FEW_SETS = 20
"""Random sets of the arms that stand beside a verdict, and of every arm on other datasets than the located one."""
_COUNT = 5  # tag of a random stream


@dataclass(frozen=True, eq=False)
class Arms:
    """The sets of neurons erased for one dataset and sigma.

    ``sets``: arm -> bool ``[sets, layers, neurons]``:

    ================================= =============================================================================
    ``located``                       one set: eq. (8) on all of the dataset's locating examples
    ``by layer``                      as many random sets as the study has draws, each with its count in every layer
    ``uniform``                       random sets of its count, over all layers
    ``by magnitude``                  its nearest neurons in magnitude, layer by layer, none of them located; absent
                                      where more than half of a layer is located
    ``largest``                       one set: the largest in magnitude, as many in every layer
    ``located in the untrained twin`` one set: location without an ability; absent where nothing passes
    ================================= =============================================================================

    ``magnitude``: arm -> ``[sets]`` the mean magnitude of each set's neurons (`caploc.locators.magnitude.Magnitude`).
    """

    sets: Mapping[str, Bool[Tensor, "sets layers neurons"]]
    magnitude: Mapping[str, np.ndarray]

    @property
    def located(self) -> NeuronMask:
        return NeuronMask(self.sets[LOCATED][0])


def located_mask(study: Study, dataset: str, sigma: float) -> NeuronMask:
    """Eq. (8) at ``sigma`` on all of the dataset's locating examples. Raises NotRunError."""
    return NeuronMask(_whole(study, dataset, sigma))


def arms_of(study: Study, dataset: str, sigma: float) -> Arms:
    """The sets for ``dataset``; the located one must not be empty.

    Raises:
        NotRunError: the dataset cannot be had here.
    """
    seed, draws = study.settings.seed, study.settings.draws
    mask = located_mask(study, dataset, sigma)
    sizes = stored_magnitude(study, dataset)
    counts = np.random.default_rng([seed, _COUNT]).integers(2**63, size=FEW_SETS)
    sets = {
        LOCATED: mask.values[None],
        LAYER: random_sets(mask, draws, seed),
        UNIFORM: torch.stack([mask.random_like(int(one), "count").values for one in counts]),
        LARGEST: sizes.top_like(mask).values[None],
    }
    with suppress(OptionError):  # so many may be located that the others cannot match them
        sets[MAGNITUDE] = sizes.random_like(mask, FEW_SETS, seed)
    twin = _whole(study, dataset, sigma, "untrained")
    if twin.any():
        sets[TWIN] = twin[None]
    return Arms(sets, {arm: sizes.mean_of(members).numpy() for arm, members in sets.items()})


def _whole(study: Study, dataset: str, sigma: float, control: str = "") -> Tensor:
    return torch.from_numpy(whole_mask(study.shards(dataset, control), study.settings.threshold(sigma)))


def stored_magnitude(study: Study, dataset: str) -> Magnitude:
    """Magnitudes on all of the dataset's locating examples, kept in the store. Raises NotRunError."""
    tokenized = study.located(dataset).tokenized
    tokens = [one.content for one in tokenized]

    def make() -> dict[str, np.ndarray]:
        return {"values": magnitude(study.model_for(), tokenized).values.numpy()}

    values = stored(study, "magnitude", {"examples": tokens}, make)["values"]
    return Magnitude(torch.from_numpy(np.array(values)))
