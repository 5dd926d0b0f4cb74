"""How large neurons are, the strongest rival of any attribution, and random sets of neurons that match a located one.

A neuron's magnitude is its mean |activation| times the norm of its output weights: the length of what it adds to the
residual stream. Scores are activation times gradient, so located neurons are large ones, and a uniformly random set is
a weak control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caploc.architectures import input_axis
from caploc.errors import OptionError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.locators.method import Arrays, Asked, SampleMethod
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import frozen_eval
from caploc.rows.clean import run_clean
from caploc.rows.sizing import refused_if_too_large
from caploc.streams import Stream, stream


@dataclass(frozen=True, eq=False)
class Magnitude:
    """``values [layers, neurons]``: mean |activation| times the norm of the neuron's output weights, float32."""

    values: Float[Tensor, "layers neurons"]

    def top_like(self, mask: NeuronMask) -> NeuronMask:
        """As many neurons of each layer as ``mask`` has there: the largest."""
        top = torch.zeros_like(mask.values)
        for layer, count in enumerate(mask.per_layer):
            top[layer, self.values[layer].topk(count).indices] = True
        return NeuronMask(top, mask.model)

    def mean_of(self, sets: Bool[Tensor, "sets layers neurons"]) -> Float[Tensor, " sets"]:
        """The mean magnitude of each set's neurons, nan for an empty set: how well random sets match a located one."""
        return (sets * self.values).sum((1, 2)) / sets.sum((1, 2))

    def random_like(
        self,
        mask: NeuronMask,
        draws: int,
        seed: int,
        nearest: int = 5,
        apart: Bool[Tensor, "layers neurons"] | None = None,
    ) -> Bool[Tensor, "draws layers neurons"]:
        """Random sets that match ``mask`` in magnitude, neuron by neuron, and have none of its neurons.

        In each layer the located neurons are taken from the largest to the smallest; each is replaced by one of its
        ``nearest`` neurons in magnitude, drawn uniformly, that are not located nor in the draw yet. So a set has the
        located count in every layer. The first draws do not depend on how many there are.

        Where the located neurons are a layer's largest, the nearest others are smaller, whatever ``nearest`` is: show
        ``mean_of`` beside a comparison.

        ``apart``: further neurons that no set may have; where a layer has too few others, it has some of these.

        Raises:
            OptionError: ``draws`` or ``nearest`` below 1, or a layer of which more than half is located.
        """
        _check_draws(draws)
        if nearest < 1:
            raise OptionError(f"nearest must be at least 1, got {nearest}")
        generator = stream(Stream.NEAREST_SETS, seed)
        uniform = generator.random((draws, mask.count))
        located, drawn = mask.values.numpy(force=True), np.zeros((draws, *mask.values.shape), dtype=bool)
        barred = located if apart is None else located | apart.numpy(force=True)
        begin = 0
        for layer, count in enumerate(mask.per_layer):
            outside = located.shape[1] - count
            if outside < count:
                raise OptionError(
                    f"{count} of {located.shape[1]} neurons of layer {layer} are located, so {outside} others cannot "
                    "match them; locate with a higher threshold"
                )
            sizes = self.values[layer].double().numpy(force=True)
            away = barred if barred.shape[1] - barred[layer].sum() >= count else located
            others = np.flatnonzero(~away[layer])
            columns = uniform[:, begin : begin + count]
            _draw_nearest(sizes, located[layer], others, columns, nearest, drawn[:, layer])
            begin += count
        return torch.from_numpy(drawn)


@refused_if_too_large("the run of an example", "use a GPU with more memory or shorter examples")
def magnitude(lm: LanguageModel, examples: Sequence[TokenizedExample]) -> Magnitude:
    """Magnitudes on ``examples``: |activation| at eq. (7)'s positions, the last tokens of prompt and answer so far,
    averaged over the positions of an example and then over examples.

    Raises:
        OptionError: no examples.
    """
    if not examples:
        raise OptionError("no examples to measure magnitudes on; pass at least one")
    total = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.float64, device=lm.device)
    with frozen_eval(lm.model):
        for example in examples:
            clean = run_clean(
                lm.model, lm.architecture, example.input_ids.to(lm.device), example.answer_start
            )
            total += torch.stack(clean.activations).abs().double().mean(1)
    return Magnitude((total / len(examples) * output_norms(lm)).float().cpu())


def locate(lm: LanguageModel, examples: Sequence[Example], top_k: int = 20) -> NeuronMask:
    """The ``top_k`` largest neurons on ``examples``, of equal ones the first.

    Raises:
        OptionError: no examples, or a ``top_k`` beyond the model's neurons.
        ExampleError: an example that cannot be tokenized.
    """
    values = magnitude(lm, [tokenize(lm, example) for example in examples]).values
    if isinstance(top_k, bool) or not 1 <= top_k <= values.numel():
        raise OptionError(
            f"top_k must be a number of neurons from 1 to the model's {values.numel()}, got {top_k!r}"
        )
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[values.flatten().argsort(descending=True, stable=True)[:top_k]] = True
    return NeuronMask(chosen.reshape(values.shape), lm.fingerprint, values)


@dataclass(frozen=True)
class Magnitudes(SampleMethod):
    """The magnitudes on one example."""

    what: ClassVar[str] = "magnitudes"

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The tokens, and the id."""
        return {"id": asked.tokens.id, "tokens": asked.tokens.content}

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """``magnitude``."""
        return nullcontext(lambda asked: {"values": magnitude(lm, [asked.tokens]).values.numpy(force=True)})


def random_sets(mask: NeuronMask, draws: int, seed: int) -> Bool[Tensor, "draws layers neurons"]:
    """Uniformly random sets with ``mask``'s count in every layer; located neurons may be among them.

    The first draws do not depend on how many there are.

    Raises:
        OptionError: ``draws`` below 1.
    """
    _check_draws(draws)
    seeds = stream(Stream.LAYER_SETS, seed).integers(2**63, size=draws)
    return torch.stack([mask.random_like(int(one)).values for one in seeds])


def disjoint_sets(
    mask: NeuronMask, apart: Bool[Tensor, "layers neurons"], draws: int, seed: int, by_layer: bool = True
) -> tuple[Bool[Tensor, "draws layers neurons"], list[int]]:
    """Uniformly random sets of as many neurons as ``mask`` has, in every layer or over all, none of them its own nor
    of those ``apart``, such as what other datasets locate.

    A random set that holds a strong located neuron does what the located set does, so that more items would make the
    two less distinct. A layer too full of ``apart`` gives some of them, one too full of ``mask`` all that it has
    beside it; both are among the second result, the layers (or ``[0]`` for all together) that fall short.

    The first draws do not depend on how many there are. Raises OptionError: ``draws`` below 1.
    """
    _check_draws(draws)
    own, barred = mask.values.cpu(), (mask.values | apart.to(mask.values.device)).cpu()
    rows = own.shape[0] if by_layer else 1
    own, barred = own.reshape(rows, -1), barred.reshape(rows, -1)
    found, short = torch.zeros(draws, *own.shape, dtype=torch.bool), []
    for row in range(rows):
        count = int(own[row].sum())
        others = (~barred[row]).nonzero().ravel()
        if len(others) < count:
            short.append(row)
            others = (~own[row]).nonzero().ravel()
        generator = stream(Stream.DISJOINT_SETS, seed, row, int(by_layer))
        for draw in range(draws):
            chosen = generator.permutation(len(others))[:count]
            found[draw, row, others[torch.from_numpy(chosen)]] = True
    return found.reshape(draws, *mask.values.shape), short


def _draw_nearest(
    sizes: np.ndarray,
    located: np.ndarray,
    others: np.ndarray,
    uniform: np.ndarray,
    nearest: int,
    drawn: np.ndarray,
) -> None:
    """Fill ``drawn [draws, neurons]`` for one layer from its neurons ``others``, given ``uniform [draws, located]``
    numbers in [0, 1)."""
    members, every = np.flatnonzero(located), np.arange(len(drawn))
    for done, neuron in enumerate(members[np.argsort(-sizes[members], kind="stable")]):
        order = np.argsort(np.abs(sizes[others] - sizes[neuron]), kind="stable")
        near = others[order[: nearest + done]]  # at most `done` of them are in a draw already
        free = ~drawn[:, near]
        rank = free.cumsum(1)
        chosen = (uniform[:, done] * np.minimum(rank[:, -1], nearest)).astype(np.int64) + 1
        drawn[every, near[(free & (rank == chosen[:, None])).argmax(1)]] = True


def output_norms(lm: LanguageModel) -> Float[Tensor, "layers neurons"]:
    """The norm of each neuron's output weights, float64."""
    projections = [lm.architecture.mlp_out_of(layer) for layer in lm.layers]
    # one in float64 at a time: all of them are four times a half-precision model
    norms = [
        one.get_parameter("weight").detach().double().norm(dim=1 - input_axis(one)) for one in projections
    ]
    return torch.stack([norm.to(lm.device) for norm in norms])


def _check_draws(draws: int) -> None:
    if isinstance(draws, bool) or draws < 1:
        raise OptionError(f"draws must be at least 1, got {draws}")
