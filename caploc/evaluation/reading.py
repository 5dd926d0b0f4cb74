"""Outcomes read off the logits of one teacher-forced pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caploc.evaluation.preparing import Item, Prepared
from caploc.rows.reading import target_log_probs


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
