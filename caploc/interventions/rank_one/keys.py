"""Which key of a layer's MLP is edited, and in which direction: C^-1 k as far as the covariance goes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caploc.errors import ModelError
from caploc.interventions.rank_one.covariance import KeyCovariance
from caploc.interventions.rank_one.recording import Recorded
from caploc.interventions.rank_one.settings import Key


@dataclass(frozen=True, eq=False)
class EditedKey:
    """The key that gets a new value.

    Attributes:
        key: k ``[neurons]``, the input of the MLP's output projection.
        unedited: ``[width]`` what the projection puts out for it.
        direction: d ``[neurons]``, float64, with d^T k = 1, so that W + delta d^T maps k to delta more.
    """

    key: Float[Tensor, " neurons"]
    unedited: Float[Tensor, " width"]
    direction: Float[Tensor, " neurons"]


def edited_key(recorded: Recorded, layer: int, kind: Key, covariance: KeyCovariance, name: str) -> EditedKey:
    """d = C^-1 m / (k^T C^-1 m), m the mean over the fact's prompts, k either m (the closed form of Meng et al. 2022,
    eq. 2) or the bare prompt's own key (their released code).

    Raises:
        OptionError, SingularCovarianceError: as ``KeyCovariance.solve``.
        ModelError: the key of the fact ``name`` has no part in that direction.
    """
    inputs, outputs = (
        recorded.mlp_inputs[layer][:-1],
        recorded.mlp_outputs[layer][:-1],
    )  # without the essence prompt
    key, unedited = (inputs[0], outputs[0]) if kind == "prompt" else (inputs.mean(0), outputs.mean(0))
    solved = covariance.solve(layer, inputs.mean(0))
    part = torch.dot(solved, key.double())
    if not part > 0:
        raise ModelError(
            f"edit {name!r}: at layer {layer} the prompt's key has no part in that of its prefixed forms "
            f"({float(part):.2g}), so that none can be edited; give other prefixes, another layer, or key='mean'"
        )
    return EditedKey(key, unedited, solved / part)
