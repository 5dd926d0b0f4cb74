"""Which layers are to be edited."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caploc.errors import ModelError, OptionError
from caploc.model.loading import LanguageModel


def check_layers(lm: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    """``layers`` in ascending order, each once; None for all.

    Raises:
        OptionError: a layer that is not there, or none.
    """
    count = lm.num_layers
    chosen = range(count) if layers is None else layers
    for layer in chosen:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < count:
            raise OptionError(f"layer {layer!r} is out of range: {lm.name} has the layers 0 to {count - 1}")
    if not chosen:
        raise OptionError("no layer to edit; give at least one, or None for all")
    return sorted(set(chosen))


def check_precise(lm: LanguageModel) -> None:
    """Raise ``ModelError`` unless weights are precise enough for rank-one changes."""
    if lm.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"a rank-one edit changes weights by less than {str(lm.dtype)[6:]} can tell apart; load {lm.name} with "
            "dtype float32"
        )
