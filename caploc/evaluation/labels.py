"""The likelihood of each label behind a prompt: the sum of its tokens' log-probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caploc.evaluation.reading import Batch, Reading
from caploc.evaluation.rows import RowModel
from caploc.rows.caches import KeysValues, Slots, additive, widened
from caploc.rows.reading import target_log_probs

_SLOTS_PER_TOKEN = 4  # that a row may hold for each token of the budget: they are read, not computed


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
    rows: RowModel,
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
        logits = rows.going_on(padded[:, :-1], members, cache, additive(visible, positions, room, rows.dtype))
        found = target_log_probs(logits, padded[:, 1:]).double().cpu()
        for (group, row, label), tokens, each in zip(some, labels, found, strict=True):
            likelihood[group, row, label] += each[: len(tokens) - 1].sum()
