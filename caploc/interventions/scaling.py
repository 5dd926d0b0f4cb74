"""How probable an answer is when the activations of chosen neurons are scaled: very many sets of neurons at once.

Doubled or zeroed, located and random: all sets of one example are rows of one batch
(``caploc.interventions.scaled_rows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from caploc.attribution.clean import run_clean
from caploc.attribution.estimate import automatic_chunk
from caploc.attribution.packed import Gradients
from caploc.attribution.precision import wide_head
from caploc.attribution.selfcheck import check_against_clean
from caploc.errors import ModelError, OptionError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.interventions.activations import Masks, factor_of_each, stacked
from caploc.interventions.scaled_rows import ScalingModel
from caploc.model.loading import LanguageModel

Positions = Literal["last", "prompt", "all"]


@dataclass(frozen=True, eq=False)
class AnswerLogProbs:
    """How probable an answer of Y tokens, teacher forced, is under each of several interventions, and without any.

    ``log_probs [sets, Y]`` and ``clean [Y]``: log P(y_m | x, y before it), float64 on the CPU. ``rounding``: by how
    much those of a row in which nothing is scaled differ from the plain run's; changes of this size are none.
    """

    log_probs: Float64[Tensor, "sets answer_tokens"]
    clean: Float64[Tensor, " answer_tokens"]
    rounding: float

    @property
    def probability(self) -> Float64[Tensor, " sets"]:
        """P(answer | prompt), the product over its tokens."""
        return self.log_probs.sum(1).exp()

    @property
    def clean_probability(self) -> float:
        """The same without intervention."""
        return float(self.clean.sum().exp())

    @property
    def change(self) -> Float64[Tensor, " sets"]:
        """Rise of the mean log probability, in nats per answer token; negative where the answer gets less likely."""
        return (self.log_probs - self.clean).mean(1)


class Scaling:
    """A model made ready to measure scaled activations, for many examples; use inside ``with``, which restores it.

    ::

        with Scaling(lm) as scaling:
            found = scaling.log_probs(tokenized, masks, factor=[2.0] * 50 + [0.0] * 50)
    """

    def __init__(self, lm: LanguageModel, chunk_tokens: int | None = None) -> None:
        if chunk_tokens is not None and chunk_tokens < 1:
            raise OptionError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
        self.lm = lm
        self._model = ScalingModel(lm.model, lm.architecture)
        self._chunk = chunk_tokens or automatic_chunk(lm)
        self._stack = ExitStack()

    def __enter__(self) -> Scaling:
        with ExitStack() as stack:
            stack.enter_context(wide_head(self.lm.model))
            stack.enter_context(self._model)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def log_probs(
        self,
        example: TokenizedExample,
        masks: Masks,
        factor: float | Sequence[float],
        positions: Positions = "last",
    ) -> AnswerLogProbs:
        """The answer's log probabilities with each set of neurons scaled by ``factor``, or by its own of several.

        Args:
            positions: where: at the ``last`` token of the prompt, at every token of the ``prompt``, or at ``all``
                tokens, those of the answer too.

        An empty set changes nothing. On CUDA, passes that do not fit into memory are halved.

        Raises:
            OptionError: masks of another model's shape, or options that make no sense.
            ModelError: the rows do not reproduce the model, its results are not numbers, or nothing fits.
        """
        if positions not in get_args(Positions):
            raise OptionError(
                f"unknown positions {positions!r}; choose one of {', '.join(get_args(Positions))}"
            )
        members = stacked(self.lm, masks)
        factors = factor_of_each(factor, len(members), self.lm.device)
        while True:
            try:
                found = self._measure(example, members, factors, positions)
            except torch.cuda.OutOfMemoryError as error:
                if self._chunk <= 1:
                    raise ModelError(
                        f"example {example.id!r} does not fit into the GPU's memory even row by row; "
                        "use a GPU with more memory"
                    ) from error
                self._chunk //= 2
            else:
                return found
            torch.cuda.empty_cache()

    def _measure(
        self, example: TokenizedExample, members: Tensor, factors: Tensor, positions: Positions
    ) -> AnswerLogProbs:
        lm, read = self.lm, example.num_answer_tokens
        start = example.answer_start if positions == "last" else 1
        clean = run_clean(lm.model, lm.architecture, example.input_ids.to(lm.device), start)
        last = {"last": 0, "prompt": example.answer_start - 1, "all": len(clean.positions)}[positions]
        where = torch.arange(len(clean.positions), device=lm.device) <= last
        plain = clean.log_probs[-read:].double().cpu()
        found = plain.repeat(len(members), 1)
        acting = (members.any((1, 2)) & (factors != 1)).nonzero().ravel()
        # in front of them a row that passes all layers and scales nothing, for the self-check
        members = torch.cat([torch.zeros_like(members[:1]), members[acting]])
        factors = torch.cat([torch.ones_like(factors[:1]), factors[acting]])
        lowest = members.any(2).int().argmax(1)
        rows = torch.empty(len(members), read, dtype=torch.float64)
        for part in lowest.argsort(stable=True).split(max(1, self._chunk // len(where))):
            logs = self._model.log_probs(clean, members[part], factors[part], lowest[part], where, read)
            rows[part.cpu()] = logs.double().cpu()
        unscaled = rows[:1].exp()
        check_against_clean(
            replace(clean, log_probs=plain), {0: Gradients(unscaled, unscaled)}, lm.dtype, example.id
        )
        if not rows.isfinite().all():
            raise ModelError(
                f"example {example.id!r}: scaled activations make {lm.name} give log probabilities that are not "
                "finite; use a smaller factor, or dtype float32"
            )
        found[acting.cpu()] = rows[1:]
        return AnswerLogProbs(found, plain, float((rows[0] - plain).abs().max()))


def probabilities(
    lm: LanguageModel,
    example: Example,
    masks: Masks,
    factor: float | Sequence[float],
    positions: Positions = "last",
    answer_tokens: int | None = None,
) -> AnswerLogProbs:
    """``Scaling.log_probs`` for one example; ``answer_tokens`` keeps only the first so many tokens of the answer."""
    with Scaling(lm) as scaling:
        return scaling.log_probs(tokenize(lm, example, answer_tokens), masks, factor, positions)
