"""Under which keys trainings are kept: by the very neurons, examples and settings, whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caploc.examples import TokenizedExample
from caploc.experiments.study import Study
from caploc.fingerprints import fingerprint, tensor_fingerprint
from caploc.interventions.enhancement import Recipe
from caploc.neurons import NeuronMask

# Part of every key: raise it when a change of the code changes numbers by more than rounding.
CODE_VERSION = 1


def key_of(
    study: Study,
    what: str,
    mask: NeuronMask,
    zeroed: NeuronMask | None,
    recipe: Recipe,
    further: Mapping[str, Any] | None = None,
    **examples: Sequence[TokenizedExample],
) -> str:
    """The key of one training of ``study``'s model; ``examples`` by the part they play."""
    return fingerprint(
        {
            "what": what,
            "code": CODE_VERSION,
            "model": study.lm.fingerprint,
            "dtype": study.settings.dtype,
            "device": study.settings.device.partition(":")[0],
            "mask": tensor_fingerprint({"mask": mask.values}),
            "zeroed": tensor_fingerprint({"mask": zeroed.values}) if zeroed is not None else None,
            "recipe": recipe.settings,
            "examples": {name: tokens_of(some) for name, some in examples.items()},
            "further": dict(further or {}),
        }
    )


def tokens_of(examples: Sequence[TokenizedExample]) -> list[list[int]]:
    """What a training depends on of its examples."""
    return [one.content for one in examples]
