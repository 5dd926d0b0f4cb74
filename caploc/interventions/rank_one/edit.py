"""The ROME edit at any layer (Meng et al. 2022, section 3.1): one key of a layer's MLP gets a new value, the others
change as little as the covariance of keys allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caploc.architectures import input_axis
from caploc.datasets.edits import EditRequest
from caploc.errors import ModelError
from caploc.examples import Example
from caploc.interventions.rank_one.covariance import KeyCovariance, check_layers, check_precise
from caploc.interventions.rank_one.prompts import Editing, Key, draw_prefixes, edit_prompts
from caploc.interventions.rank_one.scores import answer_scores
from caploc.interventions.rank_one.value import Recorded, Value, find_values, record
from caploc.interventions.weights import replaced_weights
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.sizing import automatic_chunk


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


@dataclass(frozen=True, eq=False)
class RankOneEdit:
    """W' = W + delta d^T, so that W' k + bias = v, at one layer for one fact: see ``edited_key``.

    Attributes:
        request: the fact.
        layer: whose MLP output projection is edited; its bias, if it has one, is kept.
        parameter: the name of the projection's weight in the model.
        key: k, the projection's input that gets a new output.
        value: v, that output, with the bias.
        delta: v less the unedited output.
        direction: d in float64, with d^T k = 1.
        losses: of the search for the value, before each update and at the value found.
        known: whether the unedited model recalls the true answer; None where the request does not tell it.
        settings: what was chosen.
    """

    request: EditRequest
    layer: int
    parameter: str
    key: Float[Tensor, " neurons"]
    value: Float[Tensor, " width"]
    delta: Float[Tensor, " width"]
    direction: Float[Tensor, " neurons"]
    losses: tuple[float, ...]
    known: bool | None
    settings: dict[str, Any]

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[RankOneEdit]:
        """Within it ``lm`` is edited; leaving it, even by an exception, restores the weight bit for bit."""
        with replaced_weights(lm, self.weights(lm)):
            yield self

    def weights(self, lm: LanguageModel) -> dict[str, Tensor]:
        """The edited weight by its name, made of that of ``lm``, which must be unedited: to be kept."""
        weight = lm.model.get_parameter(self.parameter).detach()
        update = torch.outer(self.delta.double(), self.direction).to(weight.device)
        if input_axis(lm.architecture.mlp_out_of(lm.layers[self.layer])) == 0:
            update = update.T
        return {self.parameter: (weight.double() + update).to(weight.dtype)}


@contextmanager
def rank_one_edit(
    lm: LanguageModel,
    request: EditRequest,
    layer: int,
    covariance: KeyCovariance,
    editing: Editing | None = None,
) -> Iterator[RankOneEdit]:
    """Within it the model answers ``request.prompt`` with ``request.target_new``, as far as ``layer`` lets it.

    ::

        covariance = key_covariance(lm, texts)
        with rank_one_edit(lm, request, 5, covariance) as edit:
            scores = score_edit(lm, request)
        edit.weights(lm)                                        # to be kept

    Leaving it, even by an exception, restores the weight bit for bit. Arguments and errors are those of
    ``edit_all_layers``.
    """
    edit = edit_all_layers(lm, request, covariance, [layer], editing)[layer]
    with edit.applied(lm):
        yield edit


def edit_all_layers(
    lm: LanguageModel,
    request: EditRequest,
    covariance: KeyCovariance,
    layers: Sequence[int] | None = None,
    editing: Editing | None = None,
) -> dict[int, RankOneEdit]:
    """The edits of one fact at each of ``layers`` (None: all), not applied. Their values are sought together: see
    ``caploc.interventions.rank_one.value``; each equals that of ``rank_one_edit`` at its layer alone. A layer from
    which nothing reaches the answer (the last one, at the subject's token) keeps its value.

    ::

        for layer, edit in edit_all_layers(lm, request, covariance).items():
            with edit.applied(lm):
                ...

    Args:
        covariance: C of these layers, of the model as it is.
        editing: how; ROME's way where nothing is said.

    Raises:
        OptionError: a layer out of range or without covariance, or an option that makes no sense.
        SingularCovarianceError: a covariance that cannot be inverted.
        ExampleError: a subject that is not in its prompt, an empty text, or one longer than the model's context.
        ModelError: weights in half precision, a family that edited rows do not reproduce, or an edit that cannot be
            made there. Nothing of the model is changed in any case.
    """
    editing = editing or Editing()
    wanted = check_layers(lm, layers)
    check_precise(lm)
    prefixes = editing.prefixes
    if prefixes is None:
        prefixes = draw_prefixes(lm, editing.prefix_tokens, editing.seed)
    prompts = edit_prompts(lm, request, prefixes, editing.token, editing.kl_token)
    settings = {**editing.settings, "prefixes": prefixes, "covariance": covariance.settings}
    with frozen_eval(lm.model):
        recorded = record(lm, prompts)
        keys = {layer: edited_key(recorded, layer, editing.key, covariance, request.id) for layer in wanted}
        values: dict[int, Value] = {}
        chunk = automatic_chunk(
            lm, columns=recorded.positions.shape[1], context=recorded.front[0][0].shape[2]
        )
        together = max(1, chunk // recorded.positions.numel())
        for start in range(0, len(wanted), together):
            part = wanted[start : start + together]
            values.update(find_values(lm, prompts, recorded, part, editing, request.id))
    known = _known(lm, request)
    return {
        layer: RankOneEdit(
            request=request,
            layer=layer,
            parameter=_parameter(lm, layer),
            key=keys[layer].key,
            value=keys[layer].unedited + _finite(values[layer].delta, layer, request.id),
            delta=values[layer].delta,
            direction=keys[layer].direction,
            losses=values[layer].losses,
            known=known,
            settings=settings,
        )
        for layer in wanted
    }


def _known(lm: LanguageModel, request: EditRequest) -> bool | None:
    if request.target_true is None:
        return None
    return answer_scores(lm, [Example(request.id, request.prompt, request.target_true)])[0].greedy


def _finite(delta: Tensor, layer: int, name: str) -> Tensor:
    if not delta.isfinite().all():
        raise ModelError(
            f"edit {name!r}: the value sought for layer {layer} is not finite; lower learning_rate"
        )
    return delta


def _parameter(lm: LanguageModel, layer: int) -> str:
    weight = lm.architecture.mlp_out_of(lm.layers[layer]).weight
    return next(name for name, parameter in lm.model.named_parameters() if parameter is weight)
