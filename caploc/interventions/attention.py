"""Scale attention weights of chosen cells (layer, key head, column), exactly, in every family of the table.

A *cell* is one column of a key head's attention matrices: the weights with which the query heads that share the key
head look at one token. Two interventions are told apart, since at factor 2 they differ several-fold:

================ =====================================================================================================
``post-softmax`` the weights are multiplied after the softmax, and the others stay: a row of the matrix no longer sums
                 to 1. That is the same as multiplying the key head's value at that token, so a cache that hands
                 attention other values does it, whatever the family's attention code is
``renormalized`` log(factor) is added to the scores before the softmax: weights are multiplied and each row is divided
                 by its new sum, so that what a suppressed cell loses goes to the others
================ =====================================================================================================

All sets of cells of one example are rows of a batch (``caploc.rows``): they enter at the bottom with the clean run's
states, and see its keys and values in front of the first query whose weights are scaled. Equality with explicit
attention weights, family by family: ``caploc/tests/interventions/test_attention.py``.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from caploc.architectures import weight_by_input
from caploc.errors import ModelError, OptionError, against_nan
from caploc.examples import TokenizedExample
from caploc.interventions.activations import Masks, stacked
from caploc.interventions.scaling import AnswerLogProbs
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import Borrower, wide_head
from caploc.rows.caches import RowCache, masks
from caploc.rows.clean import CleanPass, check_reproduced, run_clean, target_log_probs
from caploc.rows.model import RowModel, Rows
from caploc.rows.sizing import Budget, refused_if_too_large

Cell = tuple[int, int, int]
Cells = Sequence[Collection[Cell]] | Bool[Tensor, "sets layers key_heads columns"]
Way = Literal["post-softmax", "renormalized"]
Queries = Literal["answer", "all"]


@dataclass(frozen=True, eq=False)
class Attention:
    """How the prompt's tokens attend to one another in the clean run, P tokens.

    ``weights``: after the softmax, of every query and column, 0 where a query does not see a token. ``lengths``: of
    what a cell adds to the residual stream at the prompt's last token, the query heads of its group together; cells
    are matched by it as neurons are by magnitude.
    """

    weights: Float64[Tensor, "layers heads queries columns"]
    lengths: Float64[Tensor, "layers key_heads columns"]

    def of_key_heads(
        self, values: Float[Tensor, "layers heads columns"]
    ) -> Float[Tensor, "layers key_heads columns"]:
        """The mean over the query heads of each key head."""
        return values.unflatten(1, (self.lengths.shape[1], -1)).mean(2)


@dataclass(frozen=True, eq=False)
class Attended(AnswerLogProbs):
    """How probable an answer is under each set of scaled cells, and the neurons at the prompt's last token then:
    ``activations`` under each, ``clean_activations`` without any. Float64 on the CPU."""

    activations: Float64[Tensor, "sets layers neurons"]
    clean_activations: Float64[Tensor, "layers neurons"]


class _OtherValues(RowCache):
    """Hands attention the clean run's keys in front of the rows' own, and the values that the pass makes of them."""

    def __init__(self, rows: _AttentionPass, clean: CleanPass, first: int) -> None:
        pairs = zip(clean.keys, clean.values, strict=True)
        super().__init__([(keys[:, :, :first], values[:, :, :first]) for keys, values in pairs])
        # no cycle: or what a pass holds of a GPU is freed only when garbage is collected
        self._pass = weakref.proxy(rows)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, layer_idx)
        assert self._pass.positions is not None
        home = self._pass.positions.device  # a layer may lie elsewhere
        return keys, self._pass.values(layer_idx, values.to(home)).to(keys.device)


class _AttentionPass(Rows):
    """Rows of the clean pass's positions, which see what the family lets them see, that enter at the bottom."""

    def __init__(self, clean: CleanPass, rows: int) -> None:
        first = int(clean.positions[0])
        super().__init__(_OtherValues(self, clean, first), clean.positions[None], tuples=clean.tuples)
        self.clean, self._entering = clean, clean.layer_inputs[0].expand(rows, -1, -1)
        self._masks = masks(clean.visible, partial(_seen, clean.positions), self._entering.dtype)

    def values(self, layer: int, values: Tensor) -> Tensor:
        """What attention is handed instead of ``values [rows, key heads, tokens, head size]``."""
        return values

    def mask(self, layer: int, rows: int) -> Tensor:
        return self._masks[layer]

    def in_front(self, layer: int, states: Tensor) -> Tensor | None:
        return self._entering if layer == 0 else None


class _ScaledPass(_AttentionPass):
    """Rows whose attention is scaled.

    Args:
        factors: ``[rows, layers, key heads, tokens]``.
        heads: how many query heads there are.
        held: ``[rows or 1, layers, neurons]`` bool, which activations keep their clean values in the columns read.
        read: how many columns, the last ones, predict the answer.
    """

    def __init__(
        self, clean: CleanPass, factors: Tensor, way: Way, heads: int, held: Tensor, read: int
    ) -> None:
        super().__init__(clean, len(factors))
        self._factors, self._way, self._held, self._read = factors, way, held, read
        self._group = heads // factors.shape[2]
        self.seen: list[Tensor] = []

    def values(self, layer: int, values: Tensor) -> Tensor:
        if self._way == "renormalized":
            return values
        return values * self._factors[:, layer, :, :, None].to(values.dtype)

    def mask(self, layer: int, rows: int) -> Tensor:
        """Additive; with log(factor) of each query head where scaling is renormalized."""
        mask = self._masks[layer]
        if self._way == "post-softmax" or rows != len(self._factors):
            return mask
        least = torch.finfo(mask.dtype).min
        of_heads = self._factors[:, layer].repeat_interleave(self._group, 1)
        factors = of_heads[:, :, None]  # [rows, heads, 1, tokens]
        added = mask + factors.double().log().clamp_min(least).to(mask.dtype)
        return torch.where((mask < 0) | (factors == 0), least, added)

    def activations(self, layer: int, states: Tensor) -> Tensor:
        by_row = states.view(
            len(self._factors), -1, states.shape[-1]
        )  # OPT runs its MLP on [rows C, neurons]
        held = self._held[:, layer, None]
        if held.any():
            read = torch.where(held, self.clean.activations[layer][-self._read :], by_row[:, -self._read :])
            by_row = torch.cat([by_row[:, : -self._read], read], dim=1)
        self.seen.append(by_row[:, -self._read])
        return by_row.view(states.shape)

    def read(self, states: Tensor) -> Tensor:
        return states[:, -self._read :]


class _UnitPass(_AttentionPass):
    """Unit vectors in the place of values: what heads put out are then their weights, head size columns a row. The
    first row is the clean run, whose attention output all rows take over, so that they all stay clean."""

    def __init__(self, clean: CleanPass) -> None:
        tokens, size = clean.values[0].shape[2:]
        super().__init__(clean, 1 + math.ceil(tokens / size))

    def values(self, layer: int, values: Tensor) -> Tensor:
        tokens, size = values.shape[2:]
        others = len(values) - 1
        units = torch.eye(others * size, dtype=values.dtype, device=values.device)[
            :tokens
        ]  # [tokens, others size]
        parts = units.unflatten(1, (others, size)).transpose(0, 1)[:, None]  # [others, 1, tokens, size]
        return torch.cat([values[:1], parts.expand(-1, values.shape[1], -1, -1)])

    def attention_output(self, layer: int, output: Tensor) -> Tensor:
        return output[:1].expand_as(output)


class AttentionScaling(Borrower):
    """A model made ready to scale attention, for many examples; use inside ``with``, which restores it.

    ::

        with AttentionScaling(lm) as attention:
            found = attention.log_probs(tokenized, [[(3, 0, 5)], [(3, 0, 5), (3, 1, 5)]], factor=0)
    """

    def __init__(self, lm: LanguageModel, chunk_tokens: int | None = None) -> None:
        if chunk_tokens is not None and chunk_tokens < 1:
            raise OptionError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
        self.lm = lm
        self._model = RowModel(lm.model, lm.architecture)
        self._projections = [layer.get_submodule(lm.architecture.attention_out) for layer in lm.layers]
        self._budget = Budget(lm, chunk_tokens, gradients=False)

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(wide_head(self.lm.model))
        stack.enter_context(self._model)

    @refused_if_too_large("a prompt's attention", "use a GPU with more memory or shorter prompts")
    @torch.no_grad()
    def look(self, example: TokenizedExample) -> Attention:
        """The prompt's attention weights, read off the model's own attention, and the lengths of its cells."""
        ids = example.input_ids[: example.answer_start + 1].to(self.lm.device)
        clean = run_clean(self.lm.model, self.lm.architecture, ids, 1)
        found: dict[int, Tensor] = {}

        def keep(layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[layer] = args[0].to(self.lm.device)  # [rows, queries, heads size]

        with ExitStack() as stack:
            for layer, projection in enumerate(self._projections):
                stack.callback(projection.register_forward_pre_hook(partial(keep, layer)).remove)
            self._model.logits(_UnitPass(clean))
        size = clean.values[0].shape[3]
        weights, lengths = [], []
        for layer, projection in enumerate(self._projections):
            parts = found[layer][1:].unflatten(2, (-1, size))  # [parts, queries, heads, size]
            weights.append(parts.permute(2, 1, 0, 3).flatten(2)[..., : example.answer_start].double())
            values = clean.values[layer][0].to(self.lm.device).double()
            lengths.append(_lengths(projection, values, weights[-1][:, -1]))
        return Attention(torch.stack(weights).cpu(), torch.stack(lengths).cpu())

    def log_probs(
        self,
        example: TokenizedExample,
        cells: Cells,
        factor: float | Sequence[float],
        way: Way = "post-softmax",
        queries: Queries = "answer",
        held: Masks | None = None,
    ) -> Attended:
        """The answer's log probabilities with each set of cells scaled by ``factor``, or by its own of several.

        Args:
            cells: sets of (layer, key head, column), columns being tokens of the prompt; or as many tensors of bool.
            queries: whose weights are scaled: of the tokens that predict the ``answer``, from the prompt's last one on,
                or of ``all`` tokens.
            held: neurons that keep their clean activations at the tokens that predict the answer; one set for all
                sets of cells, or one for each.

        An empty set changes nothing. On CUDA, passes that do not fit into memory are halved.

        Raises:
            OptionError: cells outside the model or the prompt, a factor that is negative or no number, unknown options,
                or cells at factor 0 that leave a query nothing to attend to where weights are renormalized.
            ModelError: the rows do not reproduce the model, its results are not numbers, or nothing fits.
        """
        for name, given, known in (("way", way, get_args(Way)), ("queries", queries, get_args(Queries))):
            if given not in known:
                raise OptionError(f"unknown {name} {given!r}; choose one of {', '.join(known)}")
        refusal = (
            f"example {example.id!r} does not fit into the GPU's memory even row by row; use a GPU with more "
            "memory"
        )
        lm = self.lm
        start = example.answer_start if queries == "answer" else 1
        with refused_if_too_large(f"example {example.id!r}"):
            clean = run_clean(lm.model, lm.architecture, example.input_ids.to(lm.device), start)
        shape = (lm.num_layers, clean.keys[0].shape[1], example.answer_start)
        chosen = _members(cells, shape, lm.name)
        scale = torch.where(
            chosen.to(lm.device), _factors(factor, len(chosen), lm.device)[:, None, None, None], 1.0
        )
        keep = torch.zeros(1, lm.num_layers, lm.num_neurons, dtype=torch.bool, device=lm.device)
        if held is not None:
            keep = stacked(lm, held)
            if len(keep) not in (1, len(chosen)):
                raise OptionError(
                    f"{len(keep)} masks are held for {len(chosen)} sets of cells; give one or {len(chosen)}"
                )
        return self._budget.fitting(lambda: self._measure(example, clean, scale, way, keep), refusal)

    @torch.no_grad()
    def _measure(
        self, example: TokenizedExample, clean: CleanPass, scale: Tensor, way: Way, held: Tensor
    ) -> Attended:
        lm, read = self.lm, example.num_answer_tokens
        # in front of all a row that scales nothing, for the self-check
        ones = torch.ones_like(scale[:1])
        factors = nn.functional.pad(torch.cat([ones, scale]), (0, read - 1), value=1.0)
        if len(held) > 1:
            held = torch.cat([torch.zeros_like(held[:1]), held])
        if way == "renormalized":
            self._check_something_is_seen(example, clean, factors)
        heads = len(weight_by_input(self._projections[0])) // clean.values[0].shape[3]
        logs, activations = [], []
        most = self._budget.of_rows(len(clean.positions), clean.keys[0].shape[2])
        for part in torch.arange(len(factors)).split(max(1, most // len(clean.positions))):
            keep = held if len(held) == 1 else held[part]
            rows = _ScaledPass(clean, factors[part], way, heads, keep, read)
            logs.append(target_log_probs(self._model.logits(rows), clean.targets[-read:]).double().cpu())
            activations.append(torch.stack(rows.seen, dim=1).double().cpu())
        found, seen = torch.cat(logs), torch.cat(activations)
        plain = clean.log_probs[-read:].double().cpu()
        check_reproduced(found[0], plain, lm.dtype, example.id, "the clean run")
        if not found.isfinite().all():
            raise ModelError(
                f"example {example.id!r}: scaled attention makes {lm.name} give log probabilities that are not finite; "
                f"use a smaller factor, or {against_nan(lm.dtype)}"
            )
        of_clean = torch.stack([layer[-read] for layer in clean.activations]).double().cpu()
        return Attended(found[1:], plain, float((found[0] - plain).abs().max()), seen[1:], of_clean)

    def _check_something_is_seen(self, example: TokenizedExample, clean: CleanPass, factors: Tensor) -> None:
        for layer, visible in enumerate(clean.visible):
            seen = _seen(clean.positions, visible).double()
            left = torch.einsum("rgt,qt->rgq", (factors[:, layer] > 0).double(), seen)
            if not (left > 0).all():
                head = int((left == 0).any(2).any(0).nonzero()[0])
                raise OptionError(
                    f"example {example.id!r}: factor 0 on every token that key head {head} of layer {layer} sees "
                    "leaves nothing to attend to once weights are renormalized; leave a token, or take way "
                    "'post-softmax'"
                )


def _seen(positions: Tensor, visible: Tensor) -> Tensor:
    """``[Y, T]`` what the queries see, themselves included, from the tokens before them that they see."""
    seen = visible.clone()
    seen[torch.arange(len(positions), device=positions.device), positions] = True
    return seen


def _lengths(projection: nn.Module, values: Tensor, weights: Tensor) -> Tensor:
    """``[key heads, columns]`` norms of what cells add, from ``values [key heads, columns, size]`` and one query's
    ``weights [heads, columns]``."""
    group = len(weights) // len(values)
    heads = (
        weight_by_input(projection).to(values.device).double().unflatten(0, (len(weights), -1))
    )  # [heads, size, width]
    added = torch.einsum("hc,hcs,hsw->hcw", weights, values.repeat_interleave(group, 0), heads)
    return added.unflatten(0, (-1, group)).sum(1).norm(dim=2)


def _members(
    cells: Cells, shape: tuple[int, int, int], model: str
) -> Bool[Tensor, "sets layers key_heads columns"]:
    if isinstance(cells, Tensor):
        if cells.dtype != torch.bool or cells.shape[1:] != shape:
            raise OptionError(
                f"sets of cells must be bool of shape (sets, {', '.join(map(str, shape))}), layers x key heads x the "
                f"prompt's tokens, to fit {model}; got {str(cells.dtype)[6:]} of {tuple(cells.shape)}"
            )
        found = cells
    else:
        found = torch.zeros(len(cells), *shape, dtype=torch.bool)
        for members, one in zip(found, cells, strict=True):
            for cell in one:
                members[_place(cell, shape, model)] = True
    if not len(found):
        raise OptionError("no sets of cells to intervene with; pass at least one")
    return found


def _place(cell: Cell, shape: tuple[int, int, int], model: str) -> Cell:
    whole = isinstance(cell, tuple) and len(cell) == 3
    if not whole or any(isinstance(index, bool) or not isinstance(index, int) for index in cell):
        raise OptionError(f"a cell must be three whole numbers (layer, key head, column), got {cell!r}")
    for name, index, count in zip(("layer", "key head", "column"), cell, shape, strict=True):
        if not 0 <= index < count:
            raise OptionError(
                f"cell {cell} lies outside {model}: {name} {index} is not among the {count} from 0 to {count - 1}"
            )
    return cell


def _factors(factor: float | Sequence[float], sets: int, device: torch.device) -> Tensor:
    """``[sets]`` float64, one for each set."""
    given: Sequence[Any] = factor if isinstance(factor, (list, tuple)) else [factor]
    for one in given:
        if (
            isinstance(one, bool)
            or not isinstance(one, (int, float))
            or not (math.isfinite(one) and one >= 0)
        ):
            raise OptionError(
                f"factor must be a number of at least 0, got {one!r}; 2 doubles attention and 0 cuts it"
            )
    if len(given) not in (1, sets):
        raise OptionError(f"{sets} sets of cells need one factor or {sets}, got {len(given)}")
    return torch.tensor([float(one) for one in given], dtype=torch.float64, device=device).expand(sets)
