"""Circuits by whole forward passes: of the Hugging Face model head by head, of the decomposed one edge by edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.circuits.pruning import RESOLUTION
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel

_LLAMA = ("input_layernorm", "post_attention_layernorm", "model.norm", "model.embed_tokens")
_GPT = ("ln_1", "ln_2", "transformer.ln_f", "transformer.wte")
_PARTS = {"llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "gpt2": _GPT, "gpt_neo": _GPT}
_PARTS["gptj"] = ("ln_1", "ln_1", "transformer.ln_f", "transformer.wte")


class Oracle:
    """``outputs`` and ``logits`` of one prompt with any weight on any edge, by none of ``caploc.circuits``' code.

    Each head is run by a forward pass of the whole model whose query, key and value projections of one layer are given
    the inputs of that head, and of which only that head's part of the attention output is read.
    """

    def __init__(self, lm: LanguageModel, example: TokenizedExample) -> None:
        self.lm, self.model = lm, cast(Any, lm.model)
        self.family = str(lm.model.config.model_type)
        self.ids = example.input_ids[:-1]
        self.targets = example.answer_ids
        self.heads = int(lm.model.config.num_attention_heads)
        self.groups = int(getattr(lm.model.config, "num_key_value_heads", None) or self.heads)

    def embedding(self) -> Tensor:
        """``[tokens, width]``."""
        states = self.model.get_submodule(_PARTS[self.family][3])(self.ids)
        if self.family in ("gpt2", "gpt_neo"):
            states = states + self.model.get_submodule("transformer.wpe")(torch.arange(len(self.ids)))
        return states

    def run(
        self,
        weights: Tensor,
        embedding: Tensor | None = None,
        ablation: Tensor | None = None,
        added: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """The outputs of all senders (output biases left out) and the logits ``[tokens, vocabulary]``.

        Args:
            weights: ``[receivers, senders]``; what is missing to 1 is replaced by the ``ablation [senders, width]``.
            added: ``[receivers, tokens, width]`` to every receiver's input.
        """
        norm1, norm2, final, _ = _PARTS[self.family]
        outputs = [self.embedding() if embedding is None else embedding]
        biases = torch.zeros_like(outputs[0][0])
        receiver = 0

        def received() -> Tensor:
            nonlocal receiver
            total = biases.expand_as(outputs[0])
            for sender, output in enumerate(outputs):
                weight = weights[receiver, sender]
                total = total + weight * output
                if ablation is not None:
                    total = total + (1 - weight) * ablation[sender]
            if added is not None:
                total = total + added[receiver]
            receiver += 1
            return total

        layer: Any
        for layer in self.lm.layers:
            before = biases
            attention_norm, mlp_norm = layer.get_submodule(norm1), layer.get_submodule(norm2)
            queries = [attention_norm(received()) for _ in range(self.heads)]
            keys = [attention_norm(received()) for _ in range(self.groups)]
            values = [attention_norm(received()) for _ in range(self.groups)]
            made = []
            for head, query in enumerate(queries):
                group = head // (self.heads // self.groups)
                made.append(self._head(layer, head, query, keys[group], values[group]))
            bias = layer.get_submodule(self.lm.architecture.attention_out).bias
            biases = biases if bias is None else biases + bias
            if self.family == "gptj":
                biases, later = before, biases
                mlp_input = received()
                biases = later
                outputs += made
            else:
                outputs += made
                mlp_input = received()
            down: Any = self.lm.architecture.mlp_out_of(layer)
            written = layer.mlp(mlp_norm(mlp_input)[None])[0]
            outputs.append(written if down.bias is None else written - down.bias)
            biases = biases if down.bias is None else biases + down.bias
        logits = self.model.get_output_embeddings()(self.model.get_submodule(final)(received()))
        return outputs, logits

    def log_prob(self, logits: Tensor) -> Tensor:
        """Mean over the answer's tokens."""
        rows = logits[-len(self.targets) :].log_softmax(-1)
        return torch.stack([row[target] for row, target in zip(rows, self.targets, strict=True)]).mean()

    def _head(self, layer: Any, head: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = layer.get_submodule(self.lm.architecture.attention_out)
        attention = layer.get_submodule(self.lm.architecture.attention_out.rpartition(".")[0])
        mixed: list[Tensor] = []
        with ExitStack() as stack:
            for module, hook in self._replacements(attention, query, key, value):
                stack.callback(module.register_forward_hook(hook).remove)
            stack.callback(out.register_forward_pre_hook(lambda _, args: mixed.append(args[0])).remove)
            self.model(input_ids=self.ids[None], use_cache=False)
        size = mixed[0].shape[-1] // self.heads
        part = slice(head * size, (head + 1) * size)
        weight = out.weight if type(out).__name__ == "Conv1D" else out.weight.T
        return mixed[0][0, :, part] @ weight[part]

    def _replacements(
        self, attention: Any, query: Tensor, key: Tensor, value: Tensor
    ) -> Sequence[tuple[Any, Callable[..., Tensor]]]:
        if self.family == "gpt2":
            width = query.shape[-1]

            def fused(module: Any, args: Any, output: Tensor) -> Tensor:
                made = [module.forward(states[None]) for states in (query, key, value)]
                return torch.cat(
                    [part[..., n * width : (n + 1) * width] for n, part in enumerate(made)], dim=-1
                )

            return [(attention.c_attn, fused)]
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return [
            (module, lambda module, args, output, states=states: module.forward(states[None]))
            for module, states in zip(projections, (query, key, value), strict=True)
        ]


def prune_directly(model: DecomposedModel, prompts: Sequence[Prompt], threshold: float) -> Circuit:
    """The circuit of ``caploc.circuits.pruning.prune``, by one whole forward pass for each edge."""
    graph, resolution = model.graph, RESOLUTION[model.lm.dtype]
    kept = graph.possible.copy()

    def log_prob() -> float:
        edges = torch.from_numpy(kept)[None]
        return float(
            np.mean([model.log_probs(prompt, model.run(prompt, edges)).item() for prompt in prompts])
        )

    current = log_prob()
    for receiver in reversed(range(graph.receivers)):
        for sender in reversed(range(graph.seen[receiver])):
            kept[receiver, sender] = False
            ablated = log_prob()
            if np.round((current - ablated) / resolution) * resolution < threshold:
                current = ablated
            else:
                kept[receiver, sender] = True
    return Circuit.of(graph, kept)
