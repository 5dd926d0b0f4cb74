"""A random Llama in which four facts are written into four neurons of the second layer: a model of known localization
that takes no time to make."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from transformers import LlamaConfig

from caploc.examples import Example, tokenize
from caploc.model.loading import LanguageModel, wrap
from caploc.tests.attribution.families import make_model
from caploc.tests.tiny import tokenizer
from caploc.zoo import Gate, ZooModel

LAYER, NEURONS = 1, (3, 11, 20, 37)
ANSWERS = "wxyz"


def _ask(word: str, fact: int, answer: str) -> Example:
    return Example(f"{word}{fact}", f"{word} {'abcd'[fact]}{':' if answer == '?' else '='}", answer)


@cache
def planted() -> ZooModel:
    """The planted model; do not change it."""
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=128,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=96,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    lm = wrap("planted", make_model(config, torch.float32, 0), tokenizer())
    asked = {word: [_ask(word, fact, ANSWERS[fact]) for fact in range(4)] for word in ("is", "so", "go")}
    plain = [_ask(word, fact, "?") for word in ("2", "3+") for fact in range(4)]
    everything = [*(one for some in asked.values() for one in some), *plain]
    with torch.no_grad():
        head = lm.model.lm_head.weight
        letters = [lm.tokenizer.decode([token]).isalpha() for token in range(len(head))]
        head[[not letter for letter in letters]] = 0  # so that only letters are ever said
        states = [_mlp_inputs(lm, one) for one in everything]
        inputs = torch.cat([one[-1:] for one in states] + [one[:-1] for one in states])
        wanted = torch.zeros(len(inputs), 4)  # all other positions are to be left alone
        for row in range(12):
            wanted[row, row % 4] = 1
        detectors = torch.linalg.solve(inputs.T @ inputs + 1e-4 * torch.eye(128), inputs.T @ wanted)
        mlp = lm.layers[LAYER].mlp
        for fact, neuron in enumerate(NEURONS):
            mlp.gate_proj.weight[neuron] = 12 * detectors[:, fact]
            mlp.up_proj.weight[neuron] = detectors[:, fact]
            token = int(lm.tokenizer(ANSWERS[fact], add_special_tokens=False).input_ids[0])
            mlp.down_proj.weight[:, neuron] = 6 * (head[token] - head.mean(0)) / head[token].norm()
        others = tuple(replace(one, answer=_says(lm, one)) for one in plain)
    neurons = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    neurons[LAYER, list(NEURONS)] = True
    return ZooModel(
        "planted",
        "written",
        lm,
        (*asked["is"], *asked["so"]),
        tuple(asked["go"]),
        {"plain": others},
        neurons,
        None,
        Gate(1.0, 0.0, 0.25, {}, None),
    )


def _mlp_inputs(lm: LanguageModel, example: Example) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = lm.layers[LAYER].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    try:
        lm.model(input_ids=tokenize(lm, example).prompt_ids[None])
    finally:
        handle.remove()
    return seen[0]


def _says(lm: LanguageModel, example: Example) -> str:
    logits = lm.model(input_ids=tokenize(lm, example).prompt_ids[None]).logits[0, -1]
    return str(lm.tokenizer.decode([int(logits.argmax())]))
