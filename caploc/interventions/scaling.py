"""How probable an answer is when the activations of chosen neurons are scaled: very many sets of neurons at once.

Doubled or zeroed, located and random: all sets of one example are rows of a packed pass (``caploc.rows``). A row scales
the activations of its own set of neurons. Up to the MLP of its lowest touched layer it is the clean run, so it enters
behind that MLP; earlier tokens keep their clean keys and values, and only the columns from the first scaled token to
the last that predicts the answer are run. Above its entry a row's activations are scaled as they arise.

Equality with plain runs under hooks: ``caploc/tests/interventions/test_activations.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from caploc.attribution.packed import PackedModel, PackedPass
from caploc.errors import ModelError, OptionError, against_nan
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.interventions.activations import Masks, factor_of_each, stacked
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import Borrower, wide_head
from caploc.rows.clean import CleanPass, check_reproduced, run_clean, target_log_probs
from caploc.rows.sizing import Budget

Positions = Literal["last", "prompt", "all"]
SURE = 1e-7
"""The least 1 - P that float32 logits resolve."""


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
    def change(self) -> Float64[Tensor, " sets"]:
        """Rise of the mean log probability, in nats per answer token; negative where the answer gets less likely."""
        return (self.log_probs - self.clean).mean(1)

    @property
    def change_of_odds(self) -> Float64[Tensor, " sets"]:
        """Rise of the whole answer's log odds, log P - log (1 - P), in nats: as log P where P is small, and without a
        ceiling where it is large. No P counts as closer to 1 than float32 logits can tell."""
        before, after = (total.clamp(max=-SURE) for total in (self.clean.sum(), self.log_probs.sum(1)))
        return (after - (-after.expm1()).log()) - (before - (-before.expm1()).log())


class ScaledPass(PackedPass):
    """R rows of C columns, which are the clean pass's positions, neighbouring tokens that see each other.

    Args:
        leaves: for each layer that rows enter at, ``[rows, C, width]`` what its MLP's projection puts out.
        masks: ``[R, layers, neurons]`` the rows' neurons, rows in the order in which they enter.
        factors: ``[R]`` what each row multiplies them by.
        scaled: ``[C]`` bool, in which columns.
        read: how many columns, the last ones, have their logits read.
    """

    def __init__(
        self,
        clean: CleanPass,
        leaves: dict[int, Tensor],
        masks: Tensor,
        factors: Tensor,
        scaled: Tensor,
        read: int,
    ) -> None:
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        super().__init__(clean, columns, leaves)
        self._members, self._factors, self._scaled, self._read = masks, factors, scaled, read

    def allowed(self, visible: Tensor) -> Tensor:
        """``[C, T + C]`` clean tokens in front of the columns, then the row's own tokens."""
        first, count = int(self.clean.positions[0]), len(self.columns)
        itself = torch.eye(count, dtype=torch.bool, device=visible.device)
        front = visible.clone()
        front[:, first:] = False
        return torch.cat([front, visible[:, first : first + count] | itself], dim=1)

    def activations(self, layer: int, states: Tensor) -> Tensor:
        """Those of the rows that entered below ``layer``, scaled where and by what their row says."""
        by_row = states.view(-1, len(self.columns), states.shape[-1])  # OPT runs its MLP on [R C, neurons]
        members = self._members[: len(by_row), layer]
        if not members.any():
            return states
        factors = torch.where(members, self._factors[: len(by_row), None], 1.0).to(states.dtype)
        scaled = torch.where(self._scaled[:, None], by_row * factors[:, None], by_row)
        return scaled.view(states.shape)

    def read(self, states: Tensor) -> Tensor:
        return states[:, -self._read :]


class ScalingModel(PackedModel):
    """A model prepared for scaled rows; use inside ``with``, which restores it."""

    @torch.no_grad()
    def log_probs(
        self, clean: CleanPass, masks: Tensor, factors: Tensor, lowest: Tensor, scaled: Tensor, read: int
    ) -> Tensor:
        """``[R, read]`` log P of the last ``read`` targets of ``clean`` in each row.

        Args:
            masks, factors, scaled: as in ``ScaledPass``.
            lowest: ``[R]`` ascending, the layer that each row enters at: none that it touches lies below.
        """
        leaves = {
            layer: self._entering(
                layer, clean, masks[lowest == layer, layer], factors[lowest == layer], scaled
            )
            for layer in lowest.unique().tolist()
        }
        logits = self.logits(ScaledPass(clean, leaves, masks, factors, scaled, read))
        return target_log_probs(logits, clean.targets[-read:])

    def _entering(
        self, layer: int, clean: CleanPass, members: Tensor, factors: Tensor, scaled: Tensor
    ) -> Tensor:
        """``[rows, C, width]`` the clean output of the layer's projection, and what scaling changes in it."""
        activations = clean.activations[layer][scaled]  # [columns, neurons]
        change = torch.where(members[:, None], activations, 0) * (factors[:, None, None] - 1).to(
            activations.dtype
        )
        entering = clean.mlp_outputs[layer].repeat(len(members), 1, 1)
        entering[:, scaled] += change @ self.output_weights(layer, slice(None))
        return entering


class Scaling(Borrower):
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
        self._budget = Budget(lm, chunk_tokens)

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(wide_head(self.lm.model))
        stack.enter_context(self._model)

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
        refusal = (
            f"example {example.id!r} does not fit into the GPU's memory even row by row; use a GPU with more "
            "memory"
        )
        return self._budget.fitting(lambda: self._measure(example, members, factors, positions), refusal)

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
        most = self._budget.of_rows(len(where), clean.keys[0].shape[2])
        for part in lowest.argsort(stable=True).split(max(1, most // len(where))):
            logs = self._model.log_probs(clean, members[part], factors[part], lowest[part], where, read)
            rows[part.cpu()] = logs.double().cpu()
        check_reproduced(rows[0], plain, lm.dtype, example.id, "the clean run")
        if not rows.isfinite().all():
            raise ModelError(
                f"example {example.id!r}: scaled activations make {lm.name} give log probabilities that are not "
                f"finite; use a smaller factor, or {against_nan(lm.dtype)}"
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
