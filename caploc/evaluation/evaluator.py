"""Score a model on prepared items or general text, as it is or with sets of neurons erased.

Sets x items are cut into batches that fit: a clean pass for some items, then erased passes for some sets at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from caploc.errors import ExampleError, ModelError, OptionError, TooLongError, UnspelledError, against_nan
from caploc.evaluation.generating import Ends, Text, Waiting, Writer, write_on
from caploc.evaluation.preparing import SCORINGS, Item, Prepared
from caploc.evaluation.rows import Clean, ErasingModel, GoingRows
from caploc.examples import TokenizedExample, check_vocabulary
from caploc.model.loading import LanguageModel
from caploc.rows.caches import KeysValues, RowCache, Slots, widened
from caploc.rows.clean import target_log_probs
from caploc.rows.sizing import Budget, waiting_bytes
from caploc.spelling import Speller, encode


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


def evaluate(
    lm: LanguageModel,
    prepared: Prepared,
    sets: Bool[Tensor, "sets layers neurons"] | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool | str = False,
) -> Outcomes:
    """Score ``lm`` on ``prepared``; for each of ``sets`` with its neurons' activations 0 at every position.

    Zero activations are what zero weights into and out of the neurons give (``caploc.interventions.weights``).

    Args:
        sets: bool; an empty set gives the model's own outcomes, and None does, without an axis of sets.
        batch_tokens: tokens that are run at once; None chooses by device. No result depends on it but by rounding.
        progress: show a progress bar on a terminal, under a name if one is given.

    The model is left as it was found. On CUDA, what does not fit into memory is tried again in halves.

    Raises:
        OptionError: sets of another shape or type, batch_tokens below 1, or items prepared with another tokenizer.
        ModelError: a single row does not fit into the GPU's memory, or losses are not finite.
    """
    return Evaluator(lm, prepared, sets, batch_tokens).run(progress)


def text_loss(
    lm: LanguageModel,
    texts: Sequence[str],
    sets: Bool[Tensor, "sets layers neurons"] | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool | str = False,
) -> Float[np.ndarray, "*sets texts"]:
    """Nats a token of each text, all tokens but its first; ``sets`` and the rest as in ``evaluate``.

    A text has the special tokens that the tokenizer puts in front of a prompt, so that often its first token is the
    beginning of sequence and all of its own count.

    Raises what ``evaluate`` raises; ExampleError for a text of fewer than two tokens, UnspelledError for one that its
    tokens do not spell, TooLongError for one that exceeds the model's context, OptionError for no texts.
    """
    if isinstance(texts, str) or not len(texts):
        raise OptionError("no texts to measure the loss on; pass a list of at least one")
    items = tuple(Item(_tokens(lm, number, text), text) for number, text in enumerate(texts))
    prepared = Prepared("text", SCORINGS["tokens"], items, (), 1, Ends(()), (), lm.tokenizer)
    shown = "text loss" if progress is True else progress
    return Evaluator(lm, prepared, sets, batch_tokens).run(shown).nll


def _tokens(lm: LanguageModel, number: int, text: str) -> TokenizedExample:
    encoded = encode(lm, text)
    ids = encoded.ids
    if not Speller.of(lm.tokenizer).spells(ids[encoded.front :], text):
        raise UnspelledError(
            f"text {number} ({text[:40]!r}) is not spelled by the tokens of {lm.name}; leave it out"
        )
    if len(ids) < 2:
        raise ExampleError(f"text {number} ({text[:40]!r}) has fewer than two tokens; leave it out")
    check_vocabulary(lm, f"text {number}", ids)
    if len(ids) > lm.max_length:
        raise TooLongError(
            f"text {number} has {len(ids)} tokens, the context of {lm.name} holds {lm.max_length}; shorten it"
        )
    return TokenizedExample(torch.tensor(ids), 1, f"text-{number}")


class Evaluator:
    """One evaluation, its arguments as in ``evaluate``; ``run`` it once."""

    def __init__(
        self, lm: LanguageModel, prepared: Prepared, sets: Tensor | None, batch_tokens: int | None
    ) -> None:
        if batch_tokens is not None and (isinstance(batch_tokens, bool) or batch_tokens < 1):
            raise OptionError(f"batch_tokens must be at least 1, got {batch_tokens}; None chooses")
        if (
            prepared.tokenizer is not lm.tokenizer
            and prepared.tokenizer.get_vocab() != lm.tokenizer.get_vocab()
        ):
            raise OptionError(
                f"{prepared.dataset} was prepared with another tokenizer than that of {lm.name}; prepare it with this "
                "model"
            )
        if sets is not None:
            _check(lm, sets)
        self._lm, self._prepared = lm, prepared
        self._sets = None if sets is None else sets.to(lm.device)
        self._refusal = (
            f"{prepared.dataset}: a single row does not fit into the GPU's memory; use a GPU with more memory or "
            "shorter examples"
        )
        self._budget = Budget(lm, batch_tokens, gradients=False)
        touched = torch.zeros(1, lm.num_layers, dtype=torch.bool) if sets is None else sets.any(2).cpu()
        lowest = [int(row.nonzero()[0]) if row.any() else lm.num_layers for row in touched]
        self._lowest = lowest
        self._order = sorted((n for n, at in enumerate(lowest) if at < lm.num_layers), key=lowest.__getitem__)
        self._whole = [n for n, at in enumerate(lowest) if at == lm.num_layers]  # what erases nothing
        shape = (len(lowest), prepared.items)
        self._made = Outcomes(np.zeros(shape), np.zeros(shape), np.zeros(shape, bool), np.ones(shape, bool))
        self._rows = ErasingModel(lm)
        self._writer, self._waiting = Writer(lm, prepared.ends, prepared.max_new_tokens), Waiting()
        self._waiting_bytes = waiting_bytes(lm)
        labels = {len(label) for item in prepared.all_items for label in item.candidates}
        self._keeps = prepared.scoring.reads == "text" or any(length > 1 for length in labels)
        self._visible: list[Tensor] | None = None
        self._clean: Clean | None = None  # of the items at work

    def run(self, progress: bool | str) -> Outcomes:
        """All sets on all items, what had not the memory it needs in halves; ``progress`` as in ``evaluate``."""
        prepared = self._prepared
        name = progress if isinstance(progress, str) else f"evaluate {prepared.dataset}"
        with (
            self._rows,
            tqdm(total=prepared.items, desc=name, unit="item", disable=None if progress else True) as bar,
        ):
            # from the longest: what does not fit fails at once
            left = sorted(range(prepared.items), key=self._length, reverse=True)
            halves: list[tuple[list[int], list[int], bool]] = []
            while left or halves:
                if halves:
                    numbers, sets, whole = halves.pop()
                else:
                    most = self._batch_items(self._length(left[0]))
                    numbers, left = left[:most], left[most:]
                    sets, whole = self._order, bool(self._whole)
                batch, several = Batch.of(prepared, numbers, self._lm.device), len(numbers) > 1
                fits = self._budget.fits(
                    partial(self._run_clean, batch, sets, whole), self._refusal, divisible=several
                )
                whole, some = whole and not fits, sets[:0]
                while sets and (fits or len(some) > 1):
                    some = sets[: max(1, self._budget.tokens // batch.tokens.numel())]
                    run = partial(self._run_erased, batch, some)
                    fits = self._budget.fits(run, self._refusal, divisible=len(some) > 1 or several)
                    sets = sets[len(some) :] if fits else sets
                self._clean = None
                if fits:
                    bar.update(len(numbers))
                else:
                    half = len(numbers) // 2  # of one item all: the budget is smaller now
                    halves += [(part, sets, whole) for part in (numbers[half:], numbers[:half]) if part]
            self._finish()
        made = self._made
        for array in (made.score, made.nll, made.exact, made.ended):
            array[self._whole] = array[self._whole[:1]]
        if not np.isfinite(made.nll).all():
            item = prepared.ids[int(np.argwhere(~np.isfinite(made.nll))[0][-1])]
            raise ModelError(
                f"{prepared.dataset}: the loss of {self._lm.name} on {item!r} is not finite; "
                f"{against_nan(self._lm.dtype)}"
            )
        return made if self._sets is not None else made.of_set(0)

    def _length(self, number: int) -> int:
        return len(self._prepared.all_items[number].tokens.input_ids)

    def _batch_items(self, longest: int) -> int:
        """Items to a batch: as few as fill a pass together with the sets, for sets share what items cannot."""
        rows = max(1, self._budget.tokens // longest)
        return max(1, -(-rows // max(1, len(self._order))))

    def _run_clean(self, batch: Batch, sets: list[int], whole: bool) -> None:
        """The model itself on a batch, noted if it is ``whole``, and recorded where ``sets`` will enter."""
        entries = sorted({self._lowest[one] for one in sets})
        self._clean, logits = self._rows.clean(batch.tokens, batch.read, entries, self._keeps)
        if whole:
            kept = partial(self._clean.rows, RowCache(), [self._lm.num_layers])
            self._take(batch, self._whole[:1], logits[None], kept)

    def _run_erased(self, batch: Batch, sets: list[int]) -> None:
        assert self._sets is not None and self._clean is not None
        lowest = [self._lowest[one] for one in sets]
        cache, logits = self._rows.erased(self._clean, self._sets[sets], lowest, self._keeps)
        self._take(batch, sets, logits, partial(self._clean.rows, cache, lowest))

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
                text = self._writer.start((one, number), item.tokens.answer_start, [*answer[:first], own])
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
            run = partial(write_on, self._rows, some, self._writer, self._sets, self._sees, self._settle)
            if some.parts and not self._budget.fits(run, self._refusal, divisible=some.rows > 1):
                waiting += some.halves()

    def _settle(self, text: Text) -> None:
        assert text.text is not None
        reference = self._prepared.all_items[text.row[1]].reference
        self._made.score[text.row] = self._prepared.scoring.of_text(text.text, reference)
        self._made.ended[text.row] = text.ended

    def _sees(self) -> list[Tensor]:
        if self._visible is None:
            items = self._prepared.all_items
            longest = max(
                item.tokens.answer_start
                + max(self._writer.most(item.tokens.answer_start), *map(len, item.candidates or ((),)), 0)
                for item in items
            )
            self._visible = self._rows.sees(max(longest, *(len(item.tokens.input_ids) for item in items)))
        return self._visible


def _check(lm: LanguageModel, sets: Tensor) -> None:
    shape = (lm.num_layers, lm.num_neurons)
    if sets.dim() != 3 or sets.shape[1:] != shape or sets.dtype != torch.bool or not len(sets):
        raise OptionError(
            f"sets must be bool of shape (sets, {shape[0]}, {shape[1]}) to fit {lm.name}, got {str(sets.dtype)[6:]} of "
            f"{tuple(sets.shape)}; stack masks that were located in the same model"
        )


# ------------------------------------------------------------------------------------------------ answers to items
# The likelihood of a label behind a prompt is the sum of its tokens' log-probabilities; a label of several tokens is
# run on from the prompt.

_SLOTS_PER_TOKEN = 4  # that a row may hold for each token of the budget: they are read, not computed


@dataclass(frozen=True)
class Batch:
    """Items side by side, as one tensor, shorter ones padded on the right.

    numbers  their places among the prepared items
    tokens   ``[I, T]``
    read     ``[P]`` the positions whose predictions are read, into ``tokens`` laid flat: of each item the last prompt
             token and all answer tokens but the last, and that one too where it counts whether the text ends there
    targets  ``[P]`` the tokens that should follow them; -1 behind an answer
    begins   of each item, where its positions begin in ``read``
    """

    numbers: list[int]
    items: list[Item]
    tokens: Tensor
    read: Tensor
    targets: Tensor
    begins: list[int]

    @staticmethod
    def of(prepared: Prepared, numbers: list[int], device: torch.device) -> Batch:
        """The items of these numbers."""
        items = [prepared.all_items[number] for number in numbers]
        beyond = prepared.scoring.reads == "text"
        fed = [item.tokens.input_ids if beyond else item.tokens.input_ids[:-1] for item in items]
        tokens = torch.nn.utils.rnn.pad_sequence(fed, batch_first=True)
        read: list[Tensor] = []
        targets: list[Tensor] = []
        begins: list[int] = []
        for row, item in enumerate(items):
            begins.append(sum(len(each) for each in read))
            first = row * tokens.shape[1] + item.tokens.answer_start - 1
            answer = item.tokens.answer_ids
            targets.append(torch.cat([answer, answer.new_full((int(beyond),), -1)]))
            read.append(torch.arange(first, first + len(targets[-1])))
        return Batch(
            numbers,
            items,
            tokens.to(device),
            torch.cat(read).to(device),
            torch.cat(targets).to(device),
            begins,
        )

    def answer(self, row: int) -> slice:
        """Where an item's answer tokens are predicted, among ``read``."""
        return slice(self.begins[row], self.begins[row] + self.items[row].tokens.num_answer_tokens)


@dataclass(frozen=True)
class Reading:
    """What a pass says of G groups on the batch: on the CPU.

    losses     ``[G, I]`` float64, nats per answer token
    predicted  ``[G, P]`` the likeliest tokens
    right      ``[G, P]`` bool, whether they are the answer's; False behind it
    """

    losses: Tensor
    predicted: Tensor
    right: Tensor

    @staticmethod
    def of(batch: Batch, logits: Tensor) -> Reading:
        """Read ``logits [G, P, vocabulary]``."""
        losses = -target_log_probs(logits, batch.targets.clamp(min=0)).double().cpu()
        predicted = logits.argmax(-1)
        right = (predicted == batch.targets).cpu()
        means = [losses[:, batch.answer(row)].mean(1) for row in range(len(batch.items))]
        return Reading(torch.stack(means, 1), predicted.cpu(), right)


def likelihoods(batch: Batch, logits: Tensor, reading: Reading) -> Tensor:
    """``[G, I, labels]`` float64 on the CPU: of each label's first token, but of the right label as a whole.

    Args:
        logits: ``[G, P, vocabulary]`` of a pass over prompts and right labels, and ``reading`` what it says.
    """
    at_prompt = logits[:, batch.begins]  # [G, I, vocabulary]
    firsts = [[label[0] for label in item.candidates] for item in batch.items]
    found = [
        target_log_probs(
            at_prompt[:, row, None].expand(-1, len(first), -1), torch.tensor(first, device=logits.device)
        )
        for row, first in enumerate(firsts)
    ]
    made = torch.stack(found, 1).double().cpu()
    for row, item in enumerate(batch.items):
        made[:, row, item.label] = -reading.losses[:, row] * item.tokens.num_answer_tokens
    return made


def add_further_tokens(
    rows: ErasingModel,
    batch: Batch,
    likelihood: Tensor,
    erased: Tensor | None,
    kept: Callable[[Tensor], KeysValues],
    visible: list[Tensor],
    budget: int,
) -> None:
    """Complete ``likelihood``: run the labels of several tokens behind the prompts' keys and values.

    Args:
        erased: ``[G, layers, neurons]`` or None.
        kept: keys and values of the rows asked for, row = group x I + item.
        budget: tokens that are run at once.
    """
    unread = [
        (group, row, label)
        for row, item in enumerate(batch.items)
        for label, tokens in enumerate(item.candidates)
        if label != item.label and len(tokens) > 1
        for group in range(len(likelihood))
    ]
    if not unread:
        return
    device, room = batch.tokens.device, batch.tokens.shape[1]
    queries = max(len(batch.items[row].candidates[label]) for _, row, label in unread) - 1
    room += queries
    at_once = max(1, budget // max(queries, room // _SLOTS_PER_TOKEN))
    for begin in range(0, len(unread), at_once):
        some = unread[begin : begin + at_once]
        labels = [batch.items[row].candidates[label] for _, row, label in some]
        padded = torch.tensor(
            [[*label, *[0] * (queries + 1 - len(label))] for label in labels], device=device
        )
        starts = torch.tensor([batch.items[row].tokens.answer_start for _, row, _ in some], device=device)
        positions = starts[:, None] + torch.arange(queries, device=device)
        at = torch.tensor([group * len(batch.items) + row for group, row, _ in some], device=device)
        cache = Slots(widened(kept(at), room))
        cache.at(positions, room)
        members = None if erased is None else erased[[group for group, _, _ in some]]
        mask = Slots.masks(visible, positions, room, rows.dtype)
        logits = rows.logits(GoingRows(padded[:, :-1], members, cache, mask))
        found = target_log_probs(logits, padded[:, 1:]).double().cpu()
        for (group, row, label), tokens, each in zip(some, labels, found, strict=True):
            likelihood[group, row, label] += each[: len(tokens) - 1].sum()
