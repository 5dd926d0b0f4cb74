"""The slow, obvious evaluation: weights set to zero, one item at a time, no cache but generate()'s own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from caploc.evaluation import Prepared
from caploc.examples import Example, tokenize
from caploc.model.loading import LanguageModel
from caploc.tests.tiny import tiny_lm

# the tokenizer's own end of sequence, and letters, so that a random model ends some of its texts
ENDS = (2, *range(14, 24))


def tiny_ending_lm(family: str, dtype: torch.dtype, seed: int) -> LanguageModel:
    """A random model whose generation stops at ``ENDS``."""
    lm = tiny_lm(family, dtype, seed)
    lm.model.generation_config.eos_token_id = list(ENDS)  # type: ignore[union-attr]
    return lm


def without(lm: LanguageModel, members: Tensor) -> Any:
    """A copy of the model in which the output weights of the neurons ``[layers, neurons]`` are zero."""
    model: Any = copy.deepcopy(lm.model)
    for layer, chosen in zip(lm.architecture.decoder_layers(model), members, strict=True):
        projection = lm.architecture.mlp_out_of(layer)
        weight = projection.weight.data if isinstance(projection, nn.Linear) else projection.weight.data.T
        weight[:, chosen] = 0
    return model


@torch.no_grad()
def evaluate_slowly(
    lm: LanguageModel, prepared: Prepared, examples: Sequence[Example], members: Tensor
) -> dict[str, list[float]]:
    """score, nll, exact and ended of each example under one set."""
    model = without(lm, members)
    rows = [_one(lm, model, prepared, example) for example in examples]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _one(lm: LanguageModel, model: Any, prepared: Prepared, example: Example) -> dict[str, float]:
    tokens = tokenize(lm, example)
    answer = tokens.answer_ids
    log_probs = _log_probs(model, tokens.prompt_ids, answer)
    right = log_probs.argmax(-1) == answer
    found = {
        "nll": -float(log_probs.gather(1, answer[:, None]).mean()),
        "exact": float(right.all()),
        "ended": 1.0,
    }
    reads = prepared.scoring.reads
    if reads == "tokens":
        return {**found, "score": float(right.double().mean())}
    if reads == "labels":
        return {**found, "score": float(_likeliest(lm, model, prepared, example) == example.answer.strip())}
    stop = lm.model.generation_config.eos_token_id  # type: ignore[union-attr]
    ends = stop if isinstance(stop, list) else [stop]
    most = min(prepared.max_new_tokens, lm.max_length - tokens.answer_start)
    written = model.generate(
        input_ids=tokens.prompt_ids[None],
        attention_mask=torch.ones(1, tokens.answer_start, dtype=torch.long),
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
    )[0, tokens.answer_start :].tolist()
    ended = written[-1] in ends
    text = str(lm.tokenizer.decode(written[:-1] if ended else written, skip_special_tokens=True))
    cut = prepared.ends.cut(text)
    found["ended"] = float(ended or cut is not None)
    return {**found, "score": prepared.scoring.of_text(text if cut is None else cut, example.answer)}


def _likeliest(lm: LanguageModel, model: Any, prepared: Prepared, example: Example) -> str:
    prompt = tokenize(lm, example).prompt_ids
    sums = {}
    for label in prepared.labels:
        ids = tokenize(lm, Example("label", example.prompt, f" {label}")).answer_ids
        sums[label] = float(_log_probs(model, prompt, ids).gather(1, ids[:, None]).sum())
    return max(sums, key=lambda label: sums[label])


def _log_probs(model: Any, prompt: Tensor, answer: Tensor) -> Tensor:
    logits = model(input_ids=torch.cat([prompt, answer])[None]).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)
