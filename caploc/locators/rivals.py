"""Other methods' scores of neurons, for company: what a locator must beat on models whose localization is known.

Each is one short formula at eq. (7)'s positions, the last tokens of prompt and answer so far: a is the neuron's
activation there, g = dP(y)/da the gradient of the answer token's probability in the unchanged model, w the norm of the
neuron's output weights. Means run over an example's positions, then over examples.

====================  ====================================  =================================================
gradient-activation   mean a g                              a step of integrated gradients at alpha = 1
attribution-patching  mean (a' - a) g                       first order of putting in a', the activation at
                                                            another example's answer (Nanda, 2023)
mathneuro             w mean |a|, 0 where among the top     forward only (Christ et al., 2024), on neurons in
                      share of other tasks                  the place of single weights
activation-contrast   w (mean a - mean a of other tasks)    the difference of two forward passes
random                uniform                               chance
====================  ====================================  =================================================

Scores are cut like CNL's, by eq. (8), so that the score alone is compared; mathneuro has a rule of its own, random
takes ``top_k``. None needs more than a backward pass an example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caploc.attribution.packed import PackedModel
from caploc.errors import ModelError, OptionError, against_nan
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.locators.magnitude import magnitude, output_norms
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask, located
from caploc.rows.borrowing import frozen_eval, wide_head
from caploc.rows.clean import CleanPass, check_reproduced, run_clean
from caploc.rows.sizing import refused_if_too_large
from caploc.streams import Stream, stream

Gradients = Sequence[Float[Tensor, "positions neurons"]]
"""By layer."""


def gradient_activation(lm: LanguageModel, examples: Sequence[Example], sigma: float = 6.0) -> NeuronMask:
    """Gradient times activation. Raises as `caploc.attribute` and ``NeuronScores.mask`` do."""

    def score(clean: CleanPass, gradients: Gradients) -> Tensor:
        pairs = zip(clean.activations, gradients, strict=True)
        return torch.stack([(activation * gradient).mean(0) for activation, gradient in pairs])

    scores = [score(clean, gradients) for _, clean, gradients in _with_gradients(lm, _tokens(lm, examples))]
    return _cut(lm, scores, sigma)


def attribution_patching(lm: LanguageModel, examples: Sequence[Example], sigma: float = 6.0) -> NeuronMask:
    """One-step attribution patching: what the answer would lose, to first order, by the activations of the next example
    with another answer, position by position as far as both answers go.

    Raises:
        OptionError: all examples have one answer, so that none can be put in another's place; or as above.
    """
    tokenized = _tokens(lm, examples)
    records = {
        number: (clean, grads) for number, (_, clean, grads) in enumerate(_with_gradients(lm, tokenized))
    }
    scores = []
    for number, (clean, gradients) in records.items():
        partner = next(
            (
                other % len(examples)
                for other in range(number + 1, number + len(examples))
                if examples[other % len(examples)].answer != examples[number].answer
            ),
            None,
        )
        if partner is None:
            raise OptionError(
                "all examples have one answer, so none can be patched into another; mix answers"
            )
        patch = records[partner][0]
        both = min(len(clean.positions), len(patch.positions))
        layers = zip(clean.activations, patch.activations, gradients, strict=True)
        scores.append(
            torch.stack(
                [((other[:both] - own[:both]) * slope[:both]).mean(0) for own, other, slope in layers]
            )
        )
    return _cut(lm, scores, sigma)


def mathneuro(
    lm: LanguageModel,
    examples: Sequence[Example],
    others: Sequence[Example] = (),
    share: float = 0.05,
    top_k: int | None = None,
) -> NeuronMask:
    """The top ``share`` of each layer's neurons by magnitude on the task, without the top ``share`` on ``others``.

    Args:
        others: examples of tasks that are not to be located.
        top_k: in each layer, in the place of ``share``.

    Raises:
        OptionError: no examples of either, or a share outside of (0, 1].
    """
    _check_others("mathneuro", others)
    if isinstance(share, bool) or not 0 < share <= 1:
        raise OptionError(f"share must be a fraction of a layer's neurons, in (0, 1], got {share!r}")
    count = max(1, round(share * lm.num_neurons)) if top_k is None else top_k
    if isinstance(count, bool) or not 1 <= count <= lm.num_neurons:
        raise OptionError(
            f"top_k must be a number from 1 to a layer's {lm.num_neurons} neurons, got {top_k!r}"
        )
    own, other = (magnitude(lm, _tokens(lm, part)).values for part in (examples, others))
    tops = [
        torch.zeros_like(one, dtype=torch.bool).scatter_(1, one.topk(count, 1).indices, True)
        for one in (own, other)
    ]
    return NeuronMask(tops[0] & ~tops[1], lm.fingerprint, torch.where(tops[1], 0.0, own))


def activation_contrast(
    lm: LanguageModel, examples: Sequence[Example], others: Sequence[Example] = (), sigma: float = 6.0
) -> NeuronMask:
    """How much more a neuron adds to the residual stream on the task than on ``others``.

    Raises:
        OptionError: no examples of either, or a bad ``sigma``.
    """
    _check_others("activation-contrast", others)
    own, other = (_mean_activations(lm, _tokens(lm, part)) for part in (examples, others))
    return _cut(lm, [(own - other) * output_norms(lm)], sigma)


def random(lm: LanguageModel, examples: Sequence[Example], top_k: int = 20, seed: int = 0) -> NeuronMask:
    """``top_k`` neurons drawn uniformly, whatever the examples.

    Raises:
        OptionError: a ``top_k`` beyond the model's neurons.
    """
    places = lm.num_layers * lm.num_neurons
    if isinstance(top_k, bool) or not 1 <= top_k <= places:
        raise OptionError(f"top_k must be a number of neurons from 1 to the model's {places}, got {top_k!r}")
    scores = torch.from_numpy(stream(Stream.RANDOM_RANKING, seed).random(places))
    chosen = torch.zeros(places, dtype=torch.bool)
    chosen[scores.topk(top_k).indices] = True
    shape = lm.num_layers, lm.num_neurons
    return NeuronMask(chosen.reshape(shape), lm.fingerprint, scores.reshape(shape))


def _with_gradients(
    lm: LanguageModel, examples: Sequence[TokenizedExample]
) -> Iterator[tuple[TokenizedExample, CleanPass, Gradients]]:
    """Of each example the clean pass, and dP(y_m)/da in the unchanged model: one packed row, all layers at once."""
    with wide_head(lm.model), PackedModel(lm.model, lm.architecture) as packed:
        for example in examples:
            with refused_if_too_large(f"example {example.id!r}"):
                clean = run_clean(
                    lm.model, lm.architecture, example.input_ids.to(lm.device), example.answer_start
                )
                unscaled = packed.run_unscaled(clean)
            check_reproduced(
                unscaled[0].probabilities[0].log(), clean.log_probs, lm.dtype, example.id, "the clean run"
            )
            yield (
                example,
                clean,
                [packed.to_neurons(layer, one.gradients[0]) for layer, one in unscaled.items()],
            )


@refused_if_too_large("the run of an example", "use a GPU with more memory or shorter examples")
def _mean_activations(
    lm: LanguageModel, examples: Sequence[TokenizedExample]
) -> Float[Tensor, "layers neurons"]:
    total = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.float64, device=lm.device)
    with frozen_eval(lm.model):
        for one in examples:
            clean = run_clean(lm.model, lm.architecture, one.input_ids.to(lm.device), one.answer_start)
            total += torch.stack(clean.activations).double().mean(1)
    return total / len(examples)


def _cut(lm: LanguageModel, scores: Sequence[Tensor], sigma: float) -> NeuronMask:
    """Eq. (8) on the mean of the examples' scores."""
    mean = torch.stack([one.double().cpu() for one in scores]).mean(0)
    if not mean.isfinite().all():
        raise ModelError(f"scores of {lm.name} are not finite; {against_nan(lm.dtype)}")
    return NeuronMask(located(mean, sigma), lm.fingerprint, mean)


def _tokens(lm: LanguageModel, examples: Sequence[Example]) -> list[TokenizedExample]:
    if not examples:
        raise OptionError("no examples to locate with; pass at least one")
    return [tokenize(lm, one) for one in examples]


def _check_others(name: str, others: Sequence[Example]) -> None:
    if not others:
        raise OptionError(f"{name} contrasts the examples with those of other tasks; pass these as others=")
