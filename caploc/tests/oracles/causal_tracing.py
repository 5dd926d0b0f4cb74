"""Causal tracing without any reuse.

As in ROME's own code, every (token, layer) is one run of the whole sequence in a batch of the clean row and one
corrupted row for each draw, with one hook for each state, which copies the clean row's state into the others. Too slow
for use; ``Tracer`` equals it (caploc/tests/locators/test_causal_tracing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from caploc.locators.causal_tracing.trace import Tracing
from caploc.model.loading import LanguageModel

Hook = Callable[[nn.Module, Any, Any], Any]


@torch.no_grad()
def reference_trace(
    lm: LanguageModel,
    input_ids: Tensor,
    answer_start: int,
    subject: range,
    noise: Tensor,
    tracing: Tracing,
    only: Iterable[tuple[int, int]] | None = None,
) -> Tensor:
    """P of the answer ``[draws, prompt tokens, layers]`` with the clean state of (token, layer) put back.

    Args:
        input_ids: ``[prompt + answer]``, of whose answer the first token is read or all, as ``tracing`` says.
        answer_start: the index of the answer's first token.
        subject: the tokens whose embeddings are noised.
        noise: ``[draws, subject tokens, width]``, added as it is.
        only: restricts the work to some (token, layer) pairs, for timing a sample of it; others are nan.
    """
    ids = input_ids[: answer_start + 1] if tracing.answer == "first" else input_ids
    layers = len(lm.layers)
    pairs = (
        [(token, layer) for token in range(answer_start) for layer in range(layers)] if only is None else only
    )
    found = torch.full((len(noise), answer_start, layers), torch.nan, dtype=torch.float64)
    for token, layer in pairs:
        hooks = {
            _state(lm, restored, tracing.kind): _put_back(token, 1 + len(noise))
            for restored in tracing.restored_layers(layer, layers)
        }
        hooks[lm.model.get_input_embeddings()] = _add(noise, subject)
        log_probs = _run(lm, ids.expand(1 + len(noise), -1), hooks)[1:, answer_start - 1 :]
        found[:, token, layer] = log_probs.double().sum(1).exp().cpu()
    return found


def _run(lm: LanguageModel, ids: Tensor, hooks: Mapping[nn.Module, Hook]) -> Tensor:
    """``[B, T - 1]`` log P of each next token of ``ids [B, T]``."""
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.callback(module.register_forward_hook(hook).remove)
        logits = lm.model(input_ids=ids[:, :-1], use_cache=False).logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def _state(lm: LanguageModel, layer: int, kind: str) -> nn.Module:
    """The module whose output is the state: the layer, its attention, or its MLP (OPT's last projection)."""
    block, architecture = lm.layers[layer], lm.architecture
    if kind == "hidden":
        return block
    path = architecture.mlp_out if kind == "mlp" else architecture.attention_out
    return block.get_submodule(path.rpartition(".")[0] or path)


def _put_back(token: int, rows: int) -> Hook:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        changed = states.clone()
        by_row = changed.view(rows, -1, states.shape[-1])
        by_row[1:, token] = by_row[0, token]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _add(noise: Tensor, subject: range) -> Hook:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        noised = output.clone()
        noised[1:, subject.start : subject.stop] += noise.to(output)
        return noised

    return hook
