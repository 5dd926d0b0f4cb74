"""Sets x items, cut into batches that fit: a clean pass for some items, then erased passes for some sets at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from caploc.evaluation.generating import Text, Waiting, Writer, write_on
from caploc.evaluation.preparing import Prepared
from caploc.evaluation.reading import Batch, Reading, add_further_tokens, likelihoods
from caploc.evaluation.rows import Clean, ErasingModel
from caploc.model.loading import LanguageModel
from caploc.rows.caches import KeysValues, RowCache
from caploc.rows.sizing import Budget, waiting_bytes


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What an evaluation gives, of each set on each item; without sets, of each item. Numpy arrays.

    score  float64 from 0 to 1, by the prepared scoring
    nll    float64, nats per token of the reference answer, teacher forced
    exact  every token of the reference is the likeliest one, teacher forced
    ended  generation came to an end; True where none was needed. Where it is False, ``score`` is what the text so far
           gives.
    """

    score: Float[np.ndarray, "*sets items"]
    nll: Float[np.ndarray, "*sets items"]
    exact: Bool[np.ndarray, "*sets items"]
    ended: Bool[np.ndarray, "*sets items"]

    def of_set(self, index: int) -> Outcomes:
        """One set's, without the axis of sets."""
        return Outcomes(self.score[index], self.nll[index], self.exact[index], self.ended[index])


class Evaluator:
    """One evaluation; ``run`` it once.

    Args:
        sets: ``[sets, layers, neurons]`` on the model's device, or None for the model itself.
    """

    def __init__(
        self, lm: LanguageModel, prepared: Prepared, sets: Tensor | None, batch_tokens: int | None
    ) -> None:
        self._lm, self._prepared, self._sets = lm, prepared, sets
        self._budget = Budget(lm, batch_tokens, gradients=False)
        touched = torch.zeros(1, lm.num_layers, dtype=torch.bool) if sets is None else sets.any(2).cpu()
        lowest = [int(row.nonzero()[0]) if row.any() else lm.num_layers for row in touched]
        self._lowest = lowest
        self._order = sorted((n for n, at in enumerate(lowest) if at < lm.num_layers), key=lowest.__getitem__)
        self._whole = [n for n, at in enumerate(lowest) if at == lm.num_layers]  # what erases nothing
        shape = (len(lowest), prepared.items)
        self._made = Outcomes(np.zeros(shape), np.zeros(shape), np.zeros(shape, bool), np.ones(shape, bool))
        self._rows = ErasingModel(lm)
        self._writer, self._waiting = Writer(lm, prepared), Waiting()
        self._waiting_bytes = waiting_bytes(lm)
        labels = {len(label) for item in prepared.all_items for label in item.candidates}
        self._keeps = prepared.scoring.reads == "text" or any(length > 1 for length in labels)
        self._visible: list[Tensor] | None = None

    def run(self, progress: bool | str) -> Outcomes:
        """All sets on all items; ``progress`` as in ``evaluate``."""
        prepared = self._prepared
        name = progress if isinstance(progress, str) else f"evaluate {prepared.dataset}"
        with (
            self._rows,
            tqdm(total=prepared.items, desc=name, unit="item", disable=None if progress else True) as bar,
        ):
            # from the longest: what does not fit fails at once
            left = sorted(range(prepared.items), key=self._length, reverse=True)
            while left:
                numbers = left[: self._batch_items(self._length(left[0]))]
                self._run(numbers, self._order, bool(self._whole))
                left = left[len(numbers) :]
                bar.update(len(numbers))
            self._finish()
        for array in (self._made.score, self._made.nll, self._made.exact, self._made.ended):
            array[self._whole] = array[self._whole[:1]]
        return self._made

    def _length(self, number: int) -> int:
        return len(self._prepared.all_items[number].tokens.input_ids)

    def _batch_items(self, longest: int) -> int:
        """Items to a batch: as few as fill a pass together with the sets, for sets share what items cannot."""
        rows = max(1, self._budget.tokens // longest)
        return max(1, -(-rows // max(1, len(self._order))))

    def _run(self, numbers: list[int], sets: list[int], whole: bool) -> None:
        """``sets`` and, if ``whole``, the model itself on items."""
        batch = Batch.of(self._prepared, numbers, self._lm.device)
        found: list[Clean] = []
        if not self._fits(lambda: found.append(self._clean(batch, sets, whole)), len(numbers) > 1):
            self._run_halves(numbers, sets, whole)
            return
        while sets:
            some = sets[: max(1, self._budget.tokens // batch.tokens.numel())]
            if self._fits(partial(self._erased, batch, found[0], some), len(some) > 1 or len(numbers) > 1):
                sets = sets[len(some) :]
            elif len(some) == 1:
                found.clear()
                self._run_halves(numbers, sets, whole=False)
                return

    def _run_halves(self, numbers: list[int], sets: list[int], whole: bool) -> None:
        half = len(numbers) // 2  # of one item all: the budget is smaller now
        for some in (numbers[:half], numbers[half:]):
            if some:
                self._run(some, sets, whole)

    def _clean(self, batch: Batch, sets: list[int], whole: bool) -> Clean:
        entries = sorted({self._lowest[one] for one in sets})
        clean, logits = self._rows.clean(batch.tokens, batch.read, entries, self._keeps)
        if whole:
            kept = partial(clean.rows, RowCache(), [self._lm.num_layers])
            self._take(batch, self._whole[:1], logits[None], kept)
        return clean

    def _erased(self, batch: Batch, clean: Clean, sets: list[int]) -> None:
        assert self._sets is not None
        lowest = [self._lowest[one] for one in sets]
        cache, logits = self._rows.erased(clean, self._sets[sets], lowest, self._keeps)
        self._take(batch, sets, logits, partial(clean.rows, cache, lowest))

    def _fits(self, run: Callable[[], object], divisible: bool) -> bool:
        """Whether ``run`` had the memory it needs; if not, batches are smaller from now on."""
        refusal = (
            f"{self._prepared.dataset}: a single row does not fit into the GPU's memory; use a GPU with more memory or "
            "shorter examples"
        )
        return self._budget.fits(run, refusal, divisible=divisible)

    def _take(
        self, batch: Batch, sets: list[int], logits: Tensor, kept: Callable[[Tensor], KeysValues]
    ) -> None:
        """Note what the logits ``[sets, P, vocabulary]`` say, and what must be run further to know more."""
        reading, made = Reading.of(batch, logits), self._made
        at = np.ix_(sets, batch.numbers)
        right = [reading.right[:, batch.answer(row)] for row in range(len(batch.items))]
        exact = torch.stack([each.all(1) for each in right], 1)
        reads = self._prepared.scoring.reads
        if reads == "tokens":
            made.score[at] = torch.stack([each.double().mean(1) for each in right], 1).numpy()
        elif reads == "labels":
            made.score[at] = self._labels(batch, sets, logits, reading, kept).numpy()
        else:
            self._texts(batch, sets, reading, kept)
        made.nll[at], made.exact[at] = reading.losses.numpy(), exact.numpy()

    def _labels(
        self,
        batch: Batch,
        sets: list[int],
        logits: Tensor,
        reading: Reading,
        kept: Callable[[Tensor], KeysValues],
    ) -> Tensor:
        found = likelihoods(batch, logits, reading)
        if self._keeps:
            erased = None if self._sets is None else self._sets[sets]
            add_further_tokens(self._rows, batch, found, erased, kept, self._sees(), self._budget.tokens)
        return found.argmax(-1) == torch.tensor([item.label for item in batch.items])

    def _texts(
        self, batch: Batch, sets: list[int], reading: Reading, kept: Callable[[Tensor], KeysValues]
    ) -> None:
        """Texts as far as teacher forcing gives them: up to the first token that is not the reference's."""
        unfinished, rows = [], []
        for row, (number, item) in enumerate(zip(batch.numbers, batch.items, strict=True)):
            begin, stop = batch.begins[row], batch.answer(row).stop
            answer = item.tokens.answer_ids.tolist()
            astray = (
                (~reading.right[:, begin : stop + 1]).int().argmax(1).tolist()
            )  # behind the answer none is right
            for group, (one, first) in enumerate(zip(sets, astray, strict=True)):
                own = int(reading.predicted[group, begin + first])
                text = self._writer.start((one, number), item, [*answer[:first], own])
                if text.text is not None:
                    self._settle(text)
                else:
                    unfinished.append(text)
                    rows.append(group * len(batch.items) + row)
        if unfinished:
            self._waiting.parts.append((unfinished, kept(torch.tensor(rows, device=self._lm.device))))
        if self._waiting.bytes > self._waiting_bytes:
            self._finish()

    def _finish(self) -> None:
        waiting, self._waiting = [self._waiting], Waiting()
        while waiting:
            some = waiting.pop()
            if some.parts and not self._fits(partial(self._write, some), some.rows > 1):
                waiting += some.halves()

    def _write(self, waiting: Waiting) -> None:
        for text in write_on(self._rows, waiting, self._writer, self._sets, self._sees()):
            self._settle(text)

    def _settle(self, text: Text) -> None:
        assert text.text is not None
        self._made.score[text.row] = self._prepared.scoring.of_text(text.text, text.item.reference)
        self._made.ended[text.row] = text.ended

    def _sees(self) -> list[Tensor]:
        if self._visible is None:
            items = self._prepared.all_items
            longest = max(
                item.tokens.answer_start
                + max(self._writer.most(item), *map(len, item.candidates or ((),)), 0)
                for item in items
            )
            self._visible = self._rows.sees(max(longest, *(len(item.tokens.input_ids) for item in items)))
        return self._visible
