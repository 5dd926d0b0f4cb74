"""Plain runs with one hook, to compare the packed engine with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from caploc.attribution.engine import Method
from caploc.attribution.method import fixed_rule
from caploc.attribution.reference import reference_scores
from caploc.examples import TokenizedExample
from caploc.models import LanguageModel


def module_of(lm: LanguageModel, layer: int, value: str) -> nn.Module:
    """What a neuron's value enters: the output projection ("post") or the nonlinearity ("pre")."""
    of = lm.architecture.mlp_out_of if value == "post" else lm.architecture.activation_of
    return of(lm.layers[layer])


def gradient_oracle(lm: LanguageModel, example: TokenizedExample, method: Method) -> Tensor:
    """``[layers, neurons]`` the slow reference, with the method's rule, path and value."""
    return reference_scores(
        lm.model,
        lm.architecture,
        example.input_ids,
        example.answer_start,
        *fixed_rule(method.quadrature, method.steps),
        path=method.path,
        value=method.value,
    )


@contextmanager
def last_position_scaled(module: nn.Module, scale: Tensor) -> Iterator[None]:
    """What enters ``module`` at the last position times ``scale [rows, neurons]``, a row for each of the batch."""

    def replace(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        states = args[0].reshape(len(scale), -1, args[0].shape[-1]).clone()
        states[:, -1] *= scale
        return (states.reshape(args[0].shape),)

    handle = module.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def ablation_oracle(lm: LanguageModel, example: TokenizedExample, value: str = "post") -> Tensor:
    """``[layers, neurons]`` the mean over answer positions of P(clean) - P(one neuron at zero), by whole runs."""
    neurons, rows = lm.num_neurons, []
    for layer in range(lm.num_layers):
        effects = torch.zeros(neurons, dtype=torch.float64)
        for m in range(example.num_answer_tokens):
            sequence = example.input_ids[: example.answer_start + m]
            target = int(example.input_ids[example.answer_start + m])
            with torch.no_grad():
                clean = lm.model(sequence[None]).logits[0, -1].softmax(-1)[target]
                others = 1 - torch.eye(neurons, dtype=lm.dtype)
                with last_position_scaled(module_of(lm, layer, value), others):
                    ablated = lm.model(sequence.expand(neurons, -1)).logits[:, -1].softmax(-1)[:, target]
            effects += (clean - ablated).double()
        rows.append(effects / example.num_answer_tokens)
    return torch.stack(rows)
