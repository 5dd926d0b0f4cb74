"""Attribute a model's answers to its neurons (eq. 7), example by example, on packed passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from caploc.attribution.integrate import (
    MOST_COLUMNS,
    Integral,
    integrate_adaptive,
    integrate_fixed,
    one_neuron_scores,
)
from caploc.attribution.method import Method, Tolerance, fixed_rule
from caploc.attribution.packed import PackedModel, PreactivationModel
from caploc.costs import attribution_flops, forward_flops, passed_flops
from caploc.errors import ModelError, OptionError, against_nan
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronScores, ScoreSums
from caploc.rows.borrowing import Borrower, wide_head
from caploc.rows.clean import CleanPass, check_reproduced, run_clean
from caploc.rows.sizing import Budget, automatic_chunk, bytes_per_token, shape_of

__all__ = ["Attributor", "Method", "attribute"]


class Attributor(Borrower):
    """A model made ready for attribution; use inside ``with``, which restores it. Not for several threads at once.

    ::

        with Attributor(lm, Method()) as attributor:
            sums = attributor.sums(tokenized_examples)
    """

    def __init__(self, lm: LanguageModel, method: Method) -> None:
        if method.path == "neuron" and lm.dtype not in (torch.float32, torch.float64):
            raise OptionError(
                f"path 'neuron' compares runs that differ by one neuron, less than {str(lm.dtype)[6:]} can tell "
                "apart; use dtype float32"
            )
        self.lm, self.method = lm, method
        kind = PreactivationModel if method.value == "pre" else PackedModel
        self._packed = kind(lm.model, lm.architecture)
        self._budget = Budget(lm, method.chunk_tokens)

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(wide_head(self.lm.model))
        stack.enter_context(self._packed)

    def sums(self, examples: Iterable[TokenizedExample]) -> ScoreSums:
        """The examples' scores, summed in float64 in the order given.

        On CUDA, a pass that does not fit into memory is tried again with half the tokens, down to single rows.

        Raises:
            ModelError: the packed passes do not reproduce the model, scores are not finite, or nothing fits.
        """
        total = ScoreSums.zeros(self.lm.num_layers, self.lm.num_neurons)
        for example in examples:
            refusal = (
                f"example {example.id!r} does not fit into the GPU's memory even row by row; use a GPU with more "
                "memory or limit answer_tokens"
            )
            total.add(self._budget.fitting(partial(self._attribute, example), refusal))
        return total

    def _attribute(self, example: TokenizedExample) -> ScoreSums:
        lm, packed = self.lm, self._packed
        clean = run_clean(
            lm.model,
            lm.architecture,
            example.input_ids.to(lm.device),
            example.answer_start,
            gates=self.method.value == "pre",
        )
        unscaled = packed.run_unscaled(clean)
        check_reproduced(
            unscaled[0].probabilities[0].log(), clean.log_probs, lm.dtype, example.id, "the clean run"
        )
        method = self.method
        tokens = self._budget.of_rows(min(len(clean.positions), MOST_COLUMNS), clean.keys[0].shape[2])
        if method.path == "neuron":
            sums = _of_effects(one_neuron_scores(packed, clean, unscaled, tokens))
        elif method.quadrature == "adaptive":
            sums = self._integrated(
                integrate_adaptive(packed, clean, unscaled, method.tolerance, tokens), clean
            )
        else:
            rule = fixed_rule(method.quadrature, method.steps)
            sums = self._integrated(integrate_fixed(packed, clean, unscaled, *rule, tokens), clean)
        if not np.isfinite(sums.total).all():
            raise ModelError(
                f"example {example.id!r}: scores of {lm.name} are not finite; {against_nan(lm.dtype)}"
            )
        return sums

    def _integrated(self, integral: Integral, clean: CleanPass) -> ScoreSums:
        packed = self._packed
        scores = [
            packed.scores(layer, clean, gradients).mean(0)
            for layer, gradients in enumerate(integral.gradients)
        ]
        return ScoreSums.of_one(
            _array(torch.stack(scores)),
            completeness=integral.completeness_error(clean, packed).abs().mean(1).cpu().numpy(),
            gap=(integral.end - integral.start).abs().double().mean(1).cpu().numpy(),
            points=integral.points.double().mean(1).cpu().numpy(),
        )


def _of_effects(effects: Tensor) -> ScoreSums:
    """Of neurons scaled one at a time, ``[L, Y, neurons]``: there is no quadrature, so no error of it; the gap is the
    neurons' mean effect."""
    layers, _, neurons = effects.shape
    return ScoreSums.of_one(
        _array(effects.mean(1)),
        completeness=np.zeros(layers),
        gap=_array(effects.abs().mean((1, 2))),
        points=np.full(layers, float(neurons)),
    )


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.double().cpu().numpy()
    return array


def attribute(
    lm: LanguageModel,
    examples: Sequence[Example],
    steps: int = 19,
    quadrature: str = "paper",
    answer_tokens: int | None = None,
    *,
    tolerance: Tolerance | None = None,
    chunk_tokens: int | None = None,
    path: str = "layer",
    value: str = "post",
    progress: bool = True,
) -> NeuronScores:
    """Scores of all neurons, eq. (7): the mean over ``examples`` of
    (1/Y) sum_m a * integral over alpha of dP(y_m | z_m, alpha a)/da, answers teacher forced.

    Args:
        steps: S of the fixed rules (the paper's is 19).
        quadrature: ``paper``, ``trapezoid``, ``gauss-legendre`` or ``adaptive`` (see ``attribution.method``).
        answer_tokens: attribute only the first so many answer tokens of each example; None for all.
        tolerance: of the adaptive rule.
        chunk_tokens: tokens in a packed pass; None chooses by device. The result does not depend on it but by rounding.
        path: what alpha scales, all neurons of a ``layer`` together or one ``neuron`` at a time (see ``Method``).
        value: a neuron's value, what enters the output projection (``post``) or the nonlinearity (``pre``).
        progress: show a progress bar with an estimate of the work, on a terminal.

    All examples are tokenized and checked before any is attributed. The model is left as it was found.

    Raises:
        OptionError: a value of an option that makes no sense, or no examples.
        ExampleError: an example that cannot be tokenized or is too long for the model, by its id.
        ModelError: the model cannot be attributed exactly (the self-check), or its scores are not finite.

    Equals the slow oracle (caploc/tests/attribution/test_exactness.py).
    """
    method = Method(steps, quadrature, tolerance or Tolerance(), chunk_tokens, path, value)
    tokenized = [tokenize(lm, example, answer_tokens) for example in examples]
    if not tokenized:
        raise OptionError("no examples to attribute; pass at least one")
    chunk = method.chunk_tokens or automatic_chunk(lm)
    description = describe(lm, tokenized, method, chunk) if progress else ""
    with Attributor(lm, method) as attributor:
        bar = tqdm(tokenized, desc=description, unit="example", disable=None if progress else True)
        sums = attributor.sums(bar)
    scores = sums.scores({**method.settings, "answer_tokens": answer_tokens})
    return replace(scores, model=lm.fingerprint)


def packed_flops(lm: LanguageModel, examples: Sequence[TokenizedExample], method: Method) -> float:
    """Floating-point operations of the packed engine (`caploc.costs.attribution_flops`).

    The path of one neuron needs no gradient, but a token for every neuron. The adaptive rule usually needs less than
    ``steps`` points. Values before the nonlinearity cost two products with the output projection more for a token.
    """
    shape = shape_of(lm)
    answers = sum(example.num_answer_tokens for example in examples)
    prompts = sum(len(example.input_ids) for example in examples) - answers
    if method.path == "neuron":
        rows = answers * shape.layers * shape.neurons
        return rows * passed_flops(shape) + forward_flops(shape, prompts + answers, answers)
    points = method.steps + 1
    projections = 4.0 * shape.neurons * shape.width if method.value == "pre" else 0.0
    more = answers * shape.layers * points * projections
    return attribution_flops(shape, prompts, answers, points) + more


def describe(
    lm: LanguageModel, examples: Sequence[TokenizedExample], method: Method, chunk_tokens: int
) -> str:
    """One phrase for a progress bar: the model, the work ahead and the memory of a pass."""
    work, memory = packed_flops(lm, examples, method), chunk_tokens * bytes_per_token(lm)
    return f"attribute {lm.name} ({work / 1e12:.2g} TFLOP, passes of {memory / 1e9:.1g} GB)"
