"""The search for a value without any reuse.

Every layer by itself: all prompts as whole sequences in one batch, one hook that adds the delta, gradients by autograd,
Adam written out. It is how ROME's own code works. ``find_values`` equals it
(caploc/tests/interventions/test_rank_one_layers.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from caploc.interventions.rank_one.prompts import Editing, EditPrompts
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval

_FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.9, 0.999, 1e-8


def reference_key(lm: LanguageModel, prompts: EditPrompts, layer: int) -> Tensor:
    """``[P - 1, neurons]`` what enters the MLP's output projection at the edited token of each rewriting prompt."""
    kept: list[Tensor] = []
    module = lm.architecture.mlp_out_of(lm.layers[layer])
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            _logits(lm, prompts)
    finally:
        handle.remove()
    fed = max(len(prompt.fed) for prompt in prompts.all)
    inputs = kept[0].view(len(prompts.all), fed, -1)
    return torch.stack([inputs[row, prompt.edited] for row, prompt in enumerate(prompts.rewriting)])


def reference_delta(
    lm: LanguageModel, prompts: EditPrompts, layer: int, editing: Editing
) -> tuple[Tensor, list[float]]:
    """The delta ``[width]`` of one layer, and the losses before each update and at that delta."""
    width = lm.model.config.hidden_size
    delta = torch.zeros(width, dtype=lm.dtype, device=lm.device, requires_grad=True)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    unedited: list[Tensor] = []
    losses: list[float] = []

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        changed = output.view(len(prompts.all), -1, width).clone()
        if not unedited:
            unedited.append(changed[0, prompts.rewriting[0].edited].detach().clone())
        for row, prompt in enumerate(prompts.all):
            changed[row, prompt.edited] += delta
        return changed.view(output.shape)

    handle = lm.architecture.mlp_out_of(lm.layers[layer]).register_forward_hook(add)
    essence = None
    try:
        with frozen_eval(lm.model), torch.enable_grad():
            for step in range(1, editing.steps + 1):
                log_probs = _logits(lm, prompts).log_softmax(-1)
                after = log_probs[-1, prompts.essence.read[0]]
                loss = _loss(log_probs, prompts)
                if essence is None:
                    essence = after.detach()  # from which nothing diverges yet
                else:
                    loss = loss + editing.kl_weight * (after.exp() * (after - essence)).sum()
                loss = loss + editing.decay * delta.norm() / unedited[0].norm() ** 2
                losses.append(loss.item())
                if losses[-1] < editing.stop_loss:
                    break
                (slope,) = torch.autograd.grad(loss, delta)
                if (step == 1 and not slope.any()) or step == editing.steps:
                    break  # it reaches no answer, or the last loss is known
                first = _FIRST_DECAY * first + (1 - _FIRST_DECAY) * slope
                second = _SECOND_DECAY * second + (1 - _SECOND_DECAY) * slope**2
                with torch.no_grad():
                    scale = (second / (1 - _SECOND_DECAY**step)).sqrt() + _EPSILON
                    delta -= editing.learning_rate * first / (1 - _FIRST_DECAY**step) / scale
                    if editing.clamp is not None and delta.norm() > editing.clamp * unedited[0].norm():
                        delta *= editing.clamp * unedited[0].norm() / delta.norm()
    finally:
        handle.remove()
    return delta.detach(), losses


def _logits(lm: LanguageModel, prompts: EditPrompts) -> Tensor:
    """``[P, tokens, vocabulary]``, shorter prompts padded on the right, where nothing that is read looks."""
    fed = pad_sequence([prompt.fed for prompt in prompts.all], batch_first=True)
    return lm.model(input_ids=fed, use_cache=False).logits


def _loss(log_probs: Tensor, prompts: EditPrompts) -> Tensor:
    """-mean log p of the answer over rewriting prompts and tokens."""
    own = [
        log_probs[row, token, target]
        for row, prompt in enumerate(prompts.rewriting)
        for token, target in zip(prompt.read, prompts.targets, strict=True)
    ]
    return -torch.stack(own).mean()
