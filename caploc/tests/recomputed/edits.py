"""ROME's edit of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from caploc.tests.recomputed.reading import Edit, Hook, Model, asked, hooked, log_probs, subject_tokens


@torch.no_grad()
def second_moments(model: Model, texts: Sequence[str], ridge: float) -> list[Tensor]:
    """By layer E[k k^T] of the inputs k of its MLP's output projection, over all tokens, with ``ridge`` times the mean
    of its diagonal added there."""
    neurons = model.mlp_outs[0].in_features
    sums, count = [torch.zeros(neurons, neurons, dtype=torch.float64) for _ in model.layers], 0

    def add(total: Tensor) -> Hook:
        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            keys = args[0][0].double()
            total.add_(keys.T @ keys)

        return hook

    with hooked([(module, add(total), True) for module, total in zip(model.mlp_outs, sums, strict=True)]):
        for text in texts:
            ids = torch.tensor(model.tokenizer(text).input_ids[: model.hf.config.max_position_embeddings])
            model.hf(ids[None])
            count += len(ids)
    means = [total / count for total in sums]
    return [one + ridge * one.diagonal().mean() * torch.eye(neurons, dtype=one.dtype) for one in means]


class Changed(NamedTuple):
    """Mean log p of the new and of the true answer's tokens, edited."""

    new: float
    true: float


def edited(
    model: Model, edit: Edit, layer: int, moment: Tensor, prefixes: Sequence[str], at_subject: bool = True
) -> Changed:
    """ROME's edit of one layer (its released code: 20 losses, 19 updates of Adam at rate .5, KL on "SUBJECT is a" times
    .0625, decay .5, norm at most 4 times that of the value, no further than a loss of .05), and what the model then
    answers; its weights are restored."""
    fact, (prompt,) = edit.fact, edit.fact.prompts[:1]
    texts = [prefix + prompt for prefix in ("", *prefixes)]
    rows = [asked(model, text, edit.new) for text in texts]
    texts.append(f"{fact.subject} is a")
    about = torch.tensor(model.tokenizer(texts[-1]).input_ids)
    fed = [*(row.ids[:-1] for row in rows), about]
    last = [*(row.start - 1 for row in rows), len(about) - 1]
    at = [subject_tokens(model, text, fact.subject)[-1] for text in texts] if at_subject else last
    padded = nn.utils.rnn.pad_sequence(fed, batch_first=True)
    chosen = (torch.arange(len(fed)), torch.tensor(at))
    module = model.mlp_outs[layer]
    seen: dict[str, Tensor] = {}
    delta = torch.zeros(module.out_features, requires_grad=True)

    def add(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        seen.setdefault("keys", args[0][chosen].detach())
        seen.setdefault("value", output[0, at[0]].detach())
        output = output.clone()
        output[chosen] = output[chosen] + delta
        return output

    def losses() -> tuple[Tensor, Tensor]:
        with hooked([(module, add, False)]):
            logits = model.hf(padded).logits
        answers = [
            logits[number, row.start - 1 : len(row.ids) - 1]
            .log_softmax(-1)
            .gather(1, row.ids[row.start :, None])
            for number, row in enumerate(rows)
        ]
        return -torch.cat(answers).mean(), logits[-1, at[-1]].log_softmax(-1)

    optimizer = torch.optim.Adam([delta], lr=0.5)
    before: Tensor | None = None
    for step in range(20):
        answer, essence = losses()
        loss = answer + 0.5 * torch.linalg.vector_norm(delta) / seen["value"].norm() ** 2
        if before is None:
            before = essence.detach()
            if not torch.autograd.grad(answer, delta, retain_graph=True)[0].any():
                break  # nothing of this layer reaches the answer
        else:
            loss = loss + 0.0625 * (essence.exp() * (essence - before)).sum()
        if loss < 0.05 or step == 19:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= min(1.0, float(4 * seen["value"].norm() / delta.norm()))
    keys = seen["keys"][:-1].double()
    direction = torch.linalg.solve(moment, keys.mean(0))
    direction /= direction @ keys[0]
    weight = module.weight.data
    module.weight.data = (weight.double() + torch.outer(delta.detach().double(), direction)).float()
    try:
        new, true = (log_probs(model, asked(model, prompt, answer))[0] for answer in (edit.new, fact.answer))
    finally:
        module.weight.data = weight
    return Changed(new, true)
