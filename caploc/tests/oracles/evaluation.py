"""Evaluation with weights set to zero: one item at a time, which is plainest, and in one batch, which is timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from caploc.evaluation import Prepared
from caploc.examples import Example, tokenize
from caploc.interventions.weights import erased
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask

Way = Literal["generate()", "forward per label", "one forward"]

Scores = Float[np.ndarray, " items"]


def without(lm: LanguageModel, members: Tensor) -> Any:
    """A copy of the model in which the output weights of the neurons ``[layers, neurons]`` are zero."""
    model: Any = copy.deepcopy(lm.model)
    for layer, chosen in zip(lm.architecture.decoder_layers(model), members, strict=True):
        projection: Any = lm.architecture.mlp_out_of(layer)
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
    stop = lm.model.generation_config.eos_token_id
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


@torch.no_grad()
def direct_scores(
    lm: LanguageModel, prepared: Prepared, members: Bool[Tensor, "layers neurons"], way: Way
) -> Scores:
    """Each item's score with these neurons erased, as ``caploc.evaluation.evaluate`` has it: weights zeroed, all items
    in one batch.

    Plain, but not slow on purpose: no gradients, generate() with its cache of keys and values. It is for models whose
    tokenizer has an end of sequence, and items whose texts fit the context. ``one forward`` is for scorings of tokens,
    and of labels that are a single token each.
    """
    score: Callable[[LanguageModel, Prepared], Scores]
    if way == "generate()":
        score = _of_texts
    elif way == "forward per label":
        score = _of_labels
    else:
        score = _of_tokens if prepared.scoring.reads == "tokens" else _of_short_labels
    with erased(lm, NeuronMask(members)):
        return score(lm, prepared)


def _of_texts(lm: LanguageModel, prepared: Prepared) -> Scores:
    prompts = [item.tokens.prompt_ids for item in prepared.all_items]
    width = max(map(len, prompts))
    model, end = lm.model, lm.tokenizer.eos_token_id
    written = model.generate(  # type: ignore[operator]
        input_ids=torch.stack([pad(ids, (width - len(ids), 0), value=end) for ids in prompts]),
        attention_mask=torch.stack([pad(torch.ones_like(ids), (width - len(ids), 0)) for ids in prompts]),
        max_new_tokens=prepared.max_new_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )[:, width:].tolist()
    scores = []
    for item, row in zip(prepared.all_items, written, strict=True):
        tokens = row[: row.index(end)] if end in row else row
        text = str(lm.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        cut = prepared.ends.cut(text)
        scores.append(prepared.scoring.of_text(text if cut is None else cut, item.reference))
    return np.array(scores)


def _of_labels(lm: LanguageModel, prepared: Prepared) -> Scores:
    sums = []
    for label in range(len(prepared.labels)):
        answers = [torch.tensor(item.candidates[label]) for item in prepared.all_items]
        log_probs = _answer_logits(lm, prepared, answers)
        pairs = zip(log_probs, answers, strict=True)
        sums.append([float(each.log_softmax(-1).gather(1, ids[:, None]).sum()) for each, ids in pairs])
    return _right(prepared, np.argmax(sums, axis=0))


def _of_short_labels(lm: LanguageModel, prepared: Prepared) -> Scores:
    logits = _answer_logits(lm, prepared, [item.tokens.answer_ids for item in prepared.all_items])
    pairs = zip(logits, prepared.all_items, strict=True)
    chosen = [int(each[0, [label[0] for label in item.candidates]].argmax()) for each, item in pairs]
    return _right(prepared, np.array(chosen))


def _of_tokens(lm: LanguageModel, prepared: Prepared) -> Scores:
    answers = [item.tokens.answer_ids for item in prepared.all_items]
    pairs = zip(_answer_logits(lm, prepared, answers), answers, strict=True)
    return np.array([float((each.argmax(-1) == ids).double().mean()) for each, ids in pairs])


def _answer_logits(lm: LanguageModel, prepared: Prepared, answers: list[Tensor]) -> list[Tensor]:
    """For each item ``[answer tokens, vocabulary]``, from one forward pass of prompts and answers.

    Shorter ones are padded on the right, where nothing looks.
    """
    prompts = [item.tokens.prompt_ids for item in prepared.all_items]
    fed = [torch.cat([prompt, answer[:-1]]) for prompt, answer in zip(prompts, answers, strict=True)]
    model: Any = lm.model
    logits = model(input_ids=pad_sequence(fed, batch_first=True), use_cache=False).logits
    return [
        row[len(prompt) - 1 : len(tokens)] for row, prompt, tokens in zip(logits, prompts, fed, strict=True)
    ]


def _right(prepared: Prepared, chosen: np.ndarray) -> Scores:
    return (chosen == [item.label for item in prepared.all_items]).astype(np.float64)
