"""Circuits: edges pruned in blocks while the circuit alone restores the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caploc.tests.recomputed.reading import Asked, Hook, Model, hooked


class Circuits:
    """The model with a residual stream for every receiver: each head's query, each group's key and value, each MLP and
    the output read what the senders on their edges wrote. Hooks hand each its input while the model itself runs."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.senders, self.receivers, edges = ["embedding"], [], []
        feeds = []
        for layer in range(len(model.layers)):
            heads = [f"a{layer}.h{head}" for head in range(model.heads)]
            mlp = f"m{layer}"
            before = list(self.senders)
            for part, count in (("q", model.heads), ("k", model.groups), ("v", model.groups)):
                for number in range(count):
                    name = f"a{layer}.{part}{number}"
                    own = model.heads // count
                    feeds += [(name, head) for head in heads[number * own : (number + 1) * own]]
                    self.receivers.append(name)
                    edges += [(name, sender) for sender in before]
            self.receivers.append(mlp)
            edges += [(mlp, sender) for sender in (before if model.parallel else before + heads)]
            feeds.append((mlp, mlp))
            self.senders += [*heads, mlp]
        self.receivers.append("output")
        edges += [("output", sender) for sender in self.senders]
        self.places = self._places(edges)
        self.possible, self.feeds = self.matrix(edges), self.matrix(feeds)

    def _places(self, edges: Sequence[tuple[str, str]]) -> np.ndarray:
        row, column = (
            {name: at for at, name in enumerate(names)} for names in (self.receivers, self.senders)
        )
        return np.array([(row[receiver], column[sender]) for receiver, sender in edges])

    def matrix(self, edges: Sequence[tuple[str, str]]) -> np.ndarray:
        """``[receivers, senders]`` bool."""
        found = np.zeros((len(self.receivers), len(self.senders)), bool)
        found[tuple(self._places(edges).T)] = True
        return found

    def on_paths(self, kept: np.ndarray) -> np.ndarray:
        """Without the edges that come from a sender that reads nothing or go to a receiver that nobody reads."""
        while True:
            reads = kept.any(1) @ self.feeds
            reads[0] = True
            is_read = self.feeds @ kept.any(0)
            is_read[-1] = True
            left = kept & reads & is_read[:, None]
            if (left == kept).all():
                return left
            kept = left

    @torch.no_grad()
    def log_probs(self, one: Asked, circuits: Sequence[np.ndarray]) -> np.ndarray:
        """Of the answer, mean over its tokens, for each circuit alone: ``[circuits]``."""
        model, on = self.model, torch.from_numpy(np.stack(circuits)).float()
        written = [model.embedding(one.ids[:-1]).expand(len(on), -1, -1)]
        always = torch.zeros(written[0].shape[-1])  # the biases of MLPs, which no edge stands for

        def read(prefix: str) -> Tensor:
            """``[receivers, circuits, tokens, width]`` of the receivers whose names begin so."""
            rows = [at for at, name in enumerate(self.receivers) if name.startswith(prefix)]
            return torch.einsum("crs,sctw->rctw", on[:, rows, : len(written)], torch.stack(written)) + always

        def projected(layer: int, part: str) -> Hook:
            def hook(module: Any, args: Any, output: Tensor) -> Tensor:
                inputs = model.norms[layer](read(f"a{layer}.{part}"))
                weights = module.weight.view(len(inputs), -1, inputs.shape[-1])
                return torch.einsum("rctw,rhw->ctrh", inputs, weights).flatten(2)

            return hook

        def heads(module: Any, args: tuple[Tensor]) -> None:
            parts = args[0].unflatten(-1, (model.heads, -1))
            weights = module.weight.unflatten(-1, (model.heads, -1))
            written.extend(torch.einsum("cthd,whd->hctw", parts, weights))

        def mlp_input(layer: int) -> Hook:
            norm = model.norms[layer] if model.parallel else model.layers[layer].post_attention_layernorm
            return lambda module, args: (norm(read(f"m{layer}")[0]),)

        def mlp_output(module: Any, args: Any, output: Tensor) -> None:
            nonlocal always
            bias = torch.zeros_like(always) if module.bias is None else module.bias
            written.append(output - bias)
            always = always + bias

        hooks: list[tuple[nn.Module, Hook, bool]] = []
        for layer, attention in enumerate(model.attentions):
            hooks += [(getattr(attention, f"{part}_proj"), projected(layer, part), False) for part in "qkv"]
            hooks.append((model.attention_outs[layer], heads, True))
            hooks += [(model.mlps[layer], mlp_input(layer), True), (model.mlp_outs[layer], mlp_output, False)]
        hooks.append((model.final_norm, lambda module, args: (read("output")[0],), True))
        with hooked(hooks):
            logits = model.hf(one.ids[None, :-1].expand(len(on), -1), use_cache=False).logits
        found = (
            logits[:, one.start - 1 :]
            .log_softmax(-1)
            .gather(2, one.ids[one.start :, None].expand(len(on), -1, 1))
        )
        return np.asarray(found[..., 0].mean(1).double())

    def locate(self, one: Asked, share: float = 0.8, runs_per_halving: int = 32) -> set[int]:
        """The edges that are left when blocks of them, from the output down and from half of all to single ones, are
        taken out as long as the answer keeps ``share`` of what log p the model has beyond the empty circuit. All
        blocks of a round are tried alone first; those that pass go one after the other if they still pass together."""

        def tried(circuits: Sequence[np.ndarray]) -> np.ndarray:
            batches = (circuits[begin : begin + 16] for begin in range(0, len(circuits), 16))
            return np.concatenate([self.log_probs(one, batch) for batch in batches])

        def without(kept: np.ndarray, edges: np.ndarray) -> np.ndarray:
            fewer = kept.copy()
            fewer[tuple(self.places[edges].T)] = False
            return self.on_paths(fewer)

        left = self.possible
        floor, whole = tried([np.zeros_like(left), left])
        bar = floor + share * max(whole - floor, 0)
        runs, most = 0, runs_per_halving * math.ceil(math.log2(len(self.places)))
        block = int(left.sum()) // 2
        while left.any() and runs < most:
            at_first = left.sum()
            ahead = np.flatnonzero(left[tuple(self.places.T)])[::-1]
            parts = [ahead[begin : begin + block] for begin in range(0, len(ahead), block)][: most - runs]
            alone = [without(left, part) for part in parts]
            found, runs = tried(alone), runs + len(alone)
            for part, circuit, value in zip(parts, alone, found, strict=True):
                if value < bar:
                    continue
                if left.sum() == at_first:
                    left = circuit
                    continue
                fewer = without(left, part)
                if fewer.sum() == left.sum() or runs == most:
                    continue
                runs += 1
                if tried([fewer])[0] >= bar:
                    left = fewer
            if block == 1 and left.sum() == at_first:
                break
            block = max(min(block, int(left.sum())) // 2, 1)
        return {int(at) for at in np.flatnonzero(left[tuple(self.places.T)])}
