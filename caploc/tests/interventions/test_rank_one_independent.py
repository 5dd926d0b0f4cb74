"""A whole edit against ROME's procedure written out on a bare model: tokens, hooks, gradients and the inverse are those
of torch and transformers, and nothing of caploc's methods takes part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from caploc.datasets.edits import EditRequest
from caploc.interventions.rank_one import Editing, edit_all_layers, key_covariance
from caploc.tests.tiny import tiny_lm

PROMPT, SUBJECT, NEW = "in the town of ab cd lives", "ab cd", " xyz"
PREFIXES = ("no. ", "well then. ")
CORPUS = ["the town of ab is old", "who lives in cd? nobody", "no. ab and cd", "an x, a y and a z"] * 3
RIDGE = 0.01
STEPS, RATE, KL, DECAY, CLAMP = 20, 0.5, 0.0625, 0.5, 4.0


def hooked(module: Any, hook: Callable[..., Any], run: Callable[[], Tensor]) -> Tensor:
    handle = module.register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()


def released_code(lm: Any, layer: int, last_subject: bool, kl_last: bool) -> tuple[Tensor, int]:
    """``[width, neurons]`` what ROME's released code adds to a layer's output projection, and how many updates of its
    value it makes; text by text, unbatched."""
    model, tokenizer = lm.model, lm.tokenizer
    down = model.model.layers[layer].mlp.down_proj

    def ids_of(text: str) -> Tensor:
        return torch.tensor([tokenizer(text)["input_ids"]])

    def last_of(text: str) -> int:
        """The subject's last token, or the text's."""
        before = text[: text.index(SUBJECT) + len(SUBJECT)] if last_subject else text
        return ids_of(before).shape[1] - 1

    texts = [prefix + PROMPT for prefix in ("", *PREFIXES)]
    answers = [ids_of(text + NEW)[0, ids_of(text).shape[1] :] for text in texts]

    def keys(text: str) -> Tensor:
        kept: list[Tensor] = []
        with torch.no_grad():
            hooked(down, lambda _, args, out: kept.append(args[0][0]), lambda: model(ids_of(text)).logits)
        return kept[0]

    every = torch.cat([keys(text) for text in CORPUS])
    moment = every.T @ every / len(every)
    moment += RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    own = torch.stack([keys(text)[last_of(text)] for text in texts])
    direction = torch.linalg.inv(moment) @ own.mean(0)
    with torch.no_grad():
        value = down(own[0])

    delta = torch.zeros_like(value, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=RATE)

    def logits(text: str, at: int) -> Tensor:
        def add(module: Any, args: Any, output: Tensor) -> Tensor:
            here = torch.arange(output.shape[1])[:, None] == at
            return output + here * delta

        return hooked(down, add, lambda: model(ids_of(text)).logits)[0].log_softmax(-1)

    essence = f"{SUBJECT} is a"
    read = ids_of(essence).shape[1] - 1 if kl_last else last_of(essence)
    unedited, updates = None, 0
    for step in range(STEPS):
        found = []
        for text, answer in zip(texts, answers, strict=True):
            predicted = logits(text + NEW, last_of(text))
            start = ids_of(text).shape[1] - 1
            found += [predicted[start + place, token] for place, token in enumerate(answer)]
        about = logits(essence, last_of(essence))[read]
        unedited = about.detach() if unedited is None else unedited
        divergence = torch.nn.functional.kl_div(unedited, about, log_target=True, reduction="sum")
        loss = -torch.stack(found).mean() + KL * divergence + DECAY * delta.norm() / value.norm() ** 2
        if loss < 0.05 or step == STEPS - 1:
            break
        optimizer.zero_grad()
        loss.backward(inputs=[delta])
        optimizer.step()
        updates += 1
        with torch.no_grad():
            if delta.norm() > CLAMP * value.norm():
                delta *= CLAMP * value.norm() / delta.norm()
    return torch.outer(delta.detach(), direction / (direction @ own[0])), updates


@pytest.mark.parametrize("last_subject", [True, False])
@pytest.mark.parametrize("kl_last", [False, True])
def test_an_edit_is_that_of_the_released_code(last_subject: bool, kl_last: bool) -> None:
    lm = tiny_lm("llama", torch.float64)
    token: Any = "last-subject" if last_subject else "last-prompt"
    editing = Editing(token=token, prefixes=PREFIXES)
    assert (editing.steps, editing.learning_rate, editing.kl_weight, editing.decay, editing.clamp) == (
        STEPS,
        RATE,
        KL,
        DECAY,
        CLAMP,
    )
    editing = replace(editing, kl_token="last" if kl_last else "edited")
    covariance = key_covariance(lm, CORPUS, ridge=RIDGE, progress=False)
    edits = edit_all_layers(lm, EditRequest("one", PROMPT, SUBJECT, NEW), covariance, editing=editing)
    for layer, edit in edits.items():
        expected, updates = released_code(lm, layer, last_subject, kl_last)
        found = edit.weights(lm)[edit.parameter] - lm.model.get_parameter(edit.parameter)
        if last_subject and layer == lm.num_layers - 1:
            assert (
                not found.any()
            )  # nothing reaches the answer, so that only the divergence's rounding could move it
            continue
        assert len(edit.losses) == updates + 1 <= STEPS
        assert expected.abs().max() > 0.01
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()) + 1e-9)


def test_where_the_divergence_is_read_matters() -> None:
    """Else the test above could not tell the two apart."""
    lm = tiny_lm("llama", torch.float64)
    one, other = (released_code(lm, 0, True, kl_last)[0] for kl_last in (False, True))
    assert (one - other).abs().max() > 1e-4 * one.abs().max()
