"""Attribution by plain runs of the whole sequence, and by captum: what the packed engine is tested and timed against.

Nothing is shared or reused between answer positions, layers and points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caploc.attribution.method import Method, fixed_rule
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel


def reference_scores(
    lm: LanguageModel,
    example: TokenizedExample,
    method: Method,
    only: Iterable[tuple[int, int]] | None = None,
) -> Tensor:
    """Scores ``[layers, neurons]``: (1/Y) sum_m a sum_i weights_i dP(y_m | z_m, nodes_i a)/da (eq. 7).

    For every answer position m and layer l the whole sequence z_m runs with the neurons of layer l at its last position
    replaced by alpha times their clean value, for every alpha (as one batch); autograd gives the gradient there. With
    the path "neuron" the rule is applied to each neuron alone, the others at their clean values; with the value "pre" a
    stands for the input of the MLP's nonlinearity.

    Args:
        method: its rule (a fixed one), path and value.
        only: restricts the work to some (answer index, layer) pairs, for timing a sample of it; others score zero.
    """
    nodes, weights = fixed_rule(method.quadrature, method.steps)
    if only is None:
        only = [(m, layer) for m in range(example.num_answer_tokens) for layer in range(lm.num_layers)]
    scores: Tensor | None = None
    for m, layer in only:
        sequence = example.input_ids[: example.answer_start + m]
        target = int(example.input_ids[example.answer_start + m])
        module = module_of(lm, layer, method.value)
        clean = _entering(lm.model, module, sequence)
        if method.path == "layer":
            gradients = _gradients(lm.model, module, sequence, target, [node * clean for node in nodes])
        else:
            gradients = torch.zeros(len(nodes), len(clean), dtype=clean.dtype, device=clean.device)
            for neuron in range(len(clean)):
                along = [_with_one_scaled(clean, neuron, node) for node in nodes]
                gradients[:, neuron] = _gradients(lm.model, module, sequence, target, along)[:, neuron]
        weight = torch.tensor(weights, dtype=clean.dtype, device=clean.device)
        attributed = clean * (weight[:, None] * gradients).sum(0)
        if scores is None:
            scores = torch.zeros(lm.num_layers, len(attributed), dtype=torch.float64)
        scores[layer] += attributed.double().cpu() / example.num_answer_tokens
    assert scores is not None
    return scores


def module_of(lm: LanguageModel, layer: int, value: str) -> nn.Module:
    """What a neuron's value enters: the output projection ("post") or the nonlinearity ("pre")."""
    of = lm.architecture.mlp_out_of if value == "post" else lm.architecture.activation_of
    return of(lm.layers[layer])


def _with_one_scaled(clean: Tensor, neuron: int, alpha: float) -> Tensor:
    scaled = clean.clone()
    scaled[neuron] *= alpha
    return scaled


def _gradients(
    model: PreTrainedModel, module: nn.Module, sequence: Tensor, target: int, entering: Sequence[Tensor]
) -> Tensor:
    """``[A, neurons]`` dP(target) with respect to what enters ``module`` at the last position, at each of A points."""
    points = torch.stack(list(entering)).requires_grad_()  # [A, neurons]
    batch = sequence.expand(len(points), -1)

    def replace(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        states = args[0].reshape(len(points), len(sequence), -1).clone()
        states[:, -1] = points
        return (states.reshape(args[0].shape),)

    handle = module.register_forward_pre_hook(replace)
    try:
        logits = model(input_ids=batch, use_cache=False).logits[:, -1]
    finally:
        handle.remove()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    (gradient,) = torch.autograd.grad(wide.softmax(-1)[:, target].sum(), points)
    return gradient


def _entering(model: PreTrainedModel, module: nn.Module, sequence: Tensor) -> Tensor:
    """``[neurons]`` what enters ``module`` at the last position of a plain run."""
    kept: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            model(input_ids=sequence[None], use_cache=False)
    finally:
        handle.remove()
    return kept[0].reshape(len(sequence), -1)[-1]


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


def captum_scores(
    lm: LanguageModel, module: nn.Module, sequence: Tensor, target: int, steps: int = 19
) -> Tensor:
    """``[neurons]`` captum's IntegratedGradients on what enters ``module`` at the last position, of P(target).

    Its right Riemann sum has the nodes 1/steps..1; eq. (7)'s term at 0 is added.
    """
    from captum.attr import IntegratedGradients

    clean = _entering(lm.model, module, sequence)[None]

    def probability(last: Tensor) -> Tensor:
        def replace(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (torch.cat([args[0][:, :-1], last[:, None]], dim=1),)

        handle = module.register_forward_pre_hook(replace)
        try:
            logits = lm.model(input_ids=sequence.expand(len(last), -1), use_cache=False).logits
        finally:
            handle.remove()
        return logits[:, -1].softmax(-1)[:, target]

    default = torch.get_default_dtype()
    torch.set_default_dtype(clean.dtype)  # in which captum makes its points
    try:
        integral: Tensor = IntegratedGradients(probability).attribute(
            clean, baselines=torch.zeros_like(clean), n_steps=steps, method="riemann_right"
        )
    finally:
        torch.set_default_dtype(default)
    zero = torch.zeros_like(clean, requires_grad=True)
    (gradient,) = torch.autograd.grad(probability(zero).sum(), zero)
    # captum keeps its weights 1/steps in float32 whatever the dtype: undo that rounding, a common factor
    rounding = float(torch.tensor(1 / steps, dtype=torch.float32)) * steps
    return (integral / rounding + clean * gradient / steps)[0]
