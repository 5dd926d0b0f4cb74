"""What rows say of items' answers: what one teacher-forced pass gives, and the labels that it does not reach.

The likelihood of a label behind a prompt is the sum of its tokens' log-probabilities; a label of several tokens is run
on from the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from caploc.evaluation.preparing import Item, Prepared
from caploc.evaluation.rows import ErasingModel, GoingRows
from caploc.rows.caches import KeysValues, Slots, widened
from caploc.rows.clean import target_log_probs

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
