"""Scale or zero the activations of chosen neurons, as KN verifies what it located (section 2.1; Dai et al., 2022, 4.2),
or let them write something else.

An *activation* is what enters the MLP's output projection; factor 2 doubles it, factor 0 suppresses it. ``scaled``
works on any call of the model. ``caploc.interventions.scaling`` asks one question, how probable an answer then is, of
very many sets of neurons in one batch, and gets the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from caploc.errors import OptionError
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import keywords

Masks = NeuronMask | Sequence[NeuronMask] | Bool[Tensor, "sets layers neurons"]


@contextmanager
def scaled(
    lm: LanguageModel, masks: Masks, factor: float | Sequence[float], at: int | Sequence[int] | None = -1
) -> Iterator[None]:
    """Within it every call of ``lm.model`` has the activations of the chosen neurons multiplied by ``factor``.

    Args:
        masks: one set for all rows of a batch, or as many as there are rows, each for its own.
        factor: one number, or one for each set.
        at: which token of a call: an index, or one for each row; the default is the last token that is fed. For an
            answer that is fed behind its prompt take ``TokenizedExample.answer_start - 1``. None: every token.

    ::

        with scaled(lm, mask, factor=0):
            lm.model(input_ids=prompt_ids[None])

    No weight is touched, and leaving it, even by an exception, takes the change away.

    Raises:
        OptionError: masks of another model's shape, a factor that is not finite, numbers of masks, factors, tokens and
            rows that do not go together, or a token that is not there.
    """
    members = stacked(lm, masks)
    factors = factor_of_each(factor, len(members), lm.device)
    scale = torch.where(members, factors[:, None, None], 1.0).to(lm.dtype)  # [sets, layers, neurons]
    columns = None if at is None else torch.as_tensor(at, device=lm.device).reshape(-1)

    def changed(layer: int, states: Tensor) -> Tensor:
        by = scale[:, layer].to(states.device)
        if columns is None:
            return states * by[:, None]
        states = states.clone()
        states[torch.arange(len(states), device=states.device), columns.to(states.device)] *= by
        return states

    with _hooked(lm, members, partial(_check_call, "scaled", len(members), columns), entering=changed):
        yield


@contextmanager
def rewritten(
    lm: LanguageModel, masks: Masks, added: Float[Tensor, "sets width"] | Float[Tensor, "1 width"]
) -> Iterator[None]:
    """Within it the chosen neurons' output weights have ``added`` on top, as KN updates a fact (Dai et al., 2022, 5.2:
    less of the old answer's embedding, more of a new one's).

    Every row of a batch has neurons and a vector of its own, or all share one. Equals a run with changed weights; none
    is touched.

    Raises:
        OptionError: masks of another model's shape, vectors of another width, or numbers of masks, vectors and rows
            that do not go together.
    """
    members = stacked(lm, masks)
    width = lm.model.get_output_embeddings().weight.shape[1]
    if added.dim() != 2 or added.shape[1] != width or len(added) not in (1, len(members)):
        raise OptionError(
            f"what neurons write must be vectors of shape (1 or {len(members)}, {width}) to fit {lm.name}, got "
            f"{tuple(added.shape)}"
        )

    def written(layer: int, states: Tensor) -> Tensor:
        chosen = members[:, layer, None].to(states.device)
        return (states * chosen).sum(-1, keepdim=True) * added[:, None].to(states)

    sets = max(len(members), len(added))
    with _hooked(lm, members, partial(_check_call, "rewritten", sets, None), leaving=written):
        yield


Change = Callable[[int, Float[Tensor, "rows tokens neurons"]], Tensor]


@contextmanager
def _hooked(
    lm: LanguageModel,
    members: Bool[Tensor, "sets layers neurons"],
    check: Callable[[int, int], None],
    entering: Change | None = None,
    leaving: Change | None = None,
) -> Iterator[None]:
    """Within it the output projection of every layer with a member takes what ``entering`` makes of its activations,
    and has what ``leaving`` makes of them added to what it gives. ``check`` is told rows and tokens of every call."""
    shape = [0, 0]  # of the call under way; OPT flattens batch and tokens before its MLP

    def before_layers(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = keywords(layer, args, kwargs)["hidden_states"].shape[:2]
        check(*shape)

    def before(layer: int, change: Change, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(layer, args[0].reshape(*shape, -1)).reshape(args[0].shape), *args[1:])

    def after(layer: int, change: Change, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + change(layer, args[0].reshape(*shape, -1)).reshape(output.shape)

    with ExitStack() as hooks:
        hooks.callback(lm.layers[0].register_forward_pre_hook(before_layers, with_kwargs=True).remove)
        for layer in members.any(2).any(0).nonzero().ravel().tolist():
            projection = lm.architecture.mlp_out_of(lm.layers[layer])
            if entering is not None:
                hooks.callback(projection.register_forward_pre_hook(partial(before, layer, entering)).remove)
            if leaving is not None:
                hooks.callback(projection.register_forward_hook(partial(after, layer, leaving)).remove)
        yield


def stacked(lm: LanguageModel, masks: Masks) -> Bool[Tensor, "sets layers neurons"]:
    """The sets of neurons as one tensor on the model's device; OptionError if they do not fit the model."""
    sets = [masks] if isinstance(masks, NeuronMask) else masks
    members = [one.values if isinstance(one, NeuronMask) else one for one in sets]
    if not members:
        raise OptionError("no masks to intervene with; pass at least one")
    shape = (lm.num_layers, lm.num_neurons)
    for one in members:
        if one.shape != shape or one.dtype != torch.bool:
            raise OptionError(
                f"a mask must be bool of shape {shape} to fit {lm.name}, got {str(one.dtype)[6:]} of "
                f"{tuple(one.shape)}; locate it in the same model"
            )
    return torch.stack(members).to(lm.device)


def factor_of_each(factor: float | Sequence[float], sets: int, device: torch.device) -> Tensor:
    """``[sets]`` float64, one for each set."""
    factors = torch.as_tensor(factor, dtype=torch.float64, device=device)
    if factors.dim() > 1 or (factors.dim() == 1 and len(factors) != sets):
        raise OptionError(f"{sets} masks need one factor or {sets}, got {len(factors)}")
    if not factors.isfinite().all():
        raise OptionError(f"factor must be a finite number, got {factor}; 2 doubles and 0 zeroes")
    return factors.expand(sets)


def _check_call(of: str, sets: int, columns: Tensor | None, batch: int, tokens: int) -> None:
    """Refuse a call of the model that ``scaled`` or ``rewritten``, whichever it is, cannot serve."""
    for count, what in ((sets, "masks"), (1 if columns is None else len(columns), "token indices")):
        if count not in (1, batch):
            raise OptionError(
                f"{count} {what} were given to {of}() for a batch of {batch}; give one or {batch}"
            )
    if columns is not None and not ((-tokens <= columns) & (columns < tokens)).all():
        raise OptionError(
            f"{of}() was to act on tokens {columns.tolist()}, but the call has {tokens}; correct `at`"
        )
