"""What rows say of items' answers: what one teacher-forced pass gives, and what is known only by running on.

The likelihood of a label behind a prompt is the sum of its tokens' log-probabilities; a label of several tokens is run
on from the prompt. A text is generated greedily where the answer went astray, from its first token that is not the
reference's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from caploc.evaluation.preparing import Item, Prepared
from caploc.evaluation.rows import ErasingModel, GoingRows
from caploc.model.loading import LanguageModel
from caploc.rows.caches import KeysValues, Slots, joined, widened
from caploc.rows.reading import target_log_probs

_SLOTS_PER_TOKEN = 4  # that a row may hold for each token of the budget: they are read, not computed
_COMPACT_BELOW = 0.75  # of the rows still writing; the others' leave the batch


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


@dataclass
class Text:
    """One row's text so far.

    row      where its outcome goes: (set, item), as indices
    item     what it answers
    tokens   of the answer so far
    text     as written, without what ended it; None while it goes on
    ended    whether it came to an end
    """

    row: tuple[int, int]
    item: Item
    tokens: list[int]
    text: str | None = None
    ended: bool = False


class Writer:
    """Knows when a text is over."""

    def __init__(self, lm: LanguageModel, prepared: Prepared) -> None:
        self._tokenizer, self._ends, self._most = lm.tokenizer, prepared.ends, prepared.max_new_tokens
        self._room = lm.max_length
        self._stops = _end_tokens(lm)
        self._pieces: dict[int, bool] = {}

    def most(self, item: Item) -> int:
        """Tokens that an item's text may have: as prepared, but never beyond the model's context."""
        return min(self._most, self._room - item.tokens.answer_start)

    def start(self, row: tuple[int, int], item: Item, tokens: list[int]) -> Text:
        """A text that begins with ``tokens``, settled if it is over with them."""
        ends = [place for place, token in enumerate(tokens) if token in self._stops]
        return self.check(Text(row, item, tokens[: ends[0] + 1] if ends else tokens))

    def check(self, text: Text) -> Text:
        """Settle ``text`` if its last token ended it or left no room."""
        most = self.most(text.item)
        if text.tokens[-1] in self._stops and len(text.tokens) <= most:
            text.text, text.ended = self._decode(text.tokens[:-1]), True
        elif len(text.tokens) <= most and self._may_end(text.tokens[-1]):
            text.text = self._ends.cut(self._decode(text.tokens))
            text.ended = text.text is not None
        if text.text is None and len(text.tokens) >= most:
            text.text = self._decode(text.tokens[:most])
        return text

    def _may_end(self, token: int) -> bool:
        if token not in self._pieces:
            self._pieces[token] = self._ends.may_follow(self._decode([token]))
        return self._pieces[token]

    def _decode(self, tokens: list[int]) -> str:
        decoded = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(decoded, str)
        return decoded


@dataclass
class Waiting:
    """Rows that wait to go on, until there are enough of them to be worth a step of the model.

    parts  batch by batch, texts that are not over, and their keys and values for the tokens before the last
    """

    parts: list[tuple[list[Text], KeysValues]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(states.nbytes for _, kept in self.parts for pair in kept for states in pair)

    @property
    def rows(self) -> int:
        return sum(len(texts) for texts, _ in self.parts)

    def halves(self) -> list[Waiting]:
        """Two with about half the rows each; of a single row that one."""
        parts = self.parts
        if len(parts) == 1:
            texts, kept = parts[0]
            if len(texts) == 1:
                return [self]
            cuts = [slice(None, len(texts) // 2), slice(len(texts) // 2, None)]
            parts = [(texts[cut], [(keys[cut], values[cut]) for keys, values in kept]) for cut in cuts]
        return [Waiting(parts[: len(parts) // 2]), Waiting(parts[len(parts) // 2 :])]


def write_on(
    rows: ErasingModel,
    waiting: Waiting,
    writer: Writer,
    erased: Tensor | None,
    sees: Callable[[], list[Tensor]],
    settle: Callable[[Text], None],
) -> None:
    """Write the waiting rows' texts on until all are over, then ``settle`` each; ``waiting`` is left as it was.

    Args:
        erased: ``[sets, layers, neurons]``, those of a row by its ``row[0]``.
        sees: gives for each layer ``[T, T]`` bool, as ``ErasingModel.sees`` does.
    """
    visible = sees()
    texts = [replace(text, tokens=list(text.tokens)) for some, _ in waiting.parts for text in some]
    longest = max(text.item.tokens.answer_start + writer.most(text.item) for text in texts)
    cache, going = Slots(joined([kept for _, kept in waiting.parts], longest)), texts
    members, alive = _members(erased, going), going
    while alive:
        if len(alive) < _COMPACT_BELOW * len(going):
            at = [number for number, text in enumerate(going) if text.text is None]
            cache, going = cache.select(torch.tensor(at, device=rows.device)), alive
            members = _members(erased, going)
        tokens = torch.tensor([[text.tokens[-1]] for text in going], device=rows.device)
        # a text that is over stays where it is until it leaves the batch
        places = [[text.item.tokens.answer_start + len(text.tokens) - 1] for text in going]
        positions = torch.tensor(places, device=rows.device)
        used = 1 + max(place for (place,) in places)
        cache.at(positions, used)
        mask = Slots.masks(visible, positions, used, rows.dtype)
        logits = rows.logits(GoingRows(tokens, members, cache, mask))
        following = logits[:, -1].argmax(-1).tolist()
        for text, token in zip(going, following, strict=True):
            if text.text is None:
                text.tokens.append(token)
                writer.check(text)
        alive = [text for text in going if text.text is None]
    for text in texts:
        settle(text)


def _members(erased: Tensor | None, texts: list[Text]) -> Tensor | None:
    return None if erased is None else erased[[text.row[0] for text in texts]]


def _end_tokens(lm: LanguageModel) -> frozenset[int]:
    """The tokens that end a sequence: the tokenizer's and those that the model's own generation stops at."""
    found: set[int] = set()
    for owner in (lm.tokenizer, lm.model.config, lm.model.generation_config):
        of_owner = getattr(owner, "eos_token_id", None)
        found.update([of_owner] if isinstance(of_owner, int) else of_owner or ())
    return frozenset(found)
