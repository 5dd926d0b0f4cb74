"""What one receiver's input does to the answer, all else being the current circuit: only what it reaches runs again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caploc.circuits.decomposed import DecomposedModel
from caploc.circuits.prompt import Prompt


@dataclass(frozen=True, eq=False)
class _Inputs:
    """How the inputs of some receivers of one layer follow from what the changed senders write.

    ``fixed [receivers, 1, rows, width]`` comes from all other senders; ``weights [receivers, changed senders so far]``
    are the edges; the one at ``replaced``, if any, is given from outside.
    """

    fixed: Tensor
    weights: Tensor
    replaced: int | None

    def __call__(self, written: Tensor, given: Tensor) -> Float[Tensor, "receivers batch rows width"]:
        changed, rows = self.weights.shape[1], self.fixed.shape[2]
        if changed:
            parts = written[:changed, :, -rows:]
            states = (self.weights @ parts.reshape(changed, -1)).view(-1, *parts.shape[1:]) + self.fixed
        else:
            states = self.fixed.repeat(1, len(given), 1, 1)
        if self.replaced is not None:
            states[self.replaced] = given
        return states


@dataclass(frozen=True, eq=False)
class _Heads:
    """Heads of one layer that run again; ``group_of`` says where each one's group stands in ``groups``."""

    layer: int
    inputs: _Inputs
    heads: Tensor
    groups: Tensor
    group_of: Tensor


@dataclass(frozen=True, eq=False)
class _Mlp:
    """An MLP that runs again."""

    layer: int
    inputs: _Inputs


class Downstream:
    """The answer's log probability as a function of one receiver's input, for many inputs in one batch.

    A sender runs again if the change reaches it and it reaches the output, both along edges that are kept; in the last
    layer only the rows that are read run. The model, the prompt's deviations and the edges into later receivers must
    stay as they are while it is used.

    Args:
        kept: the current circuit.
        used: which receivers reach the output; those before ``receiver`` do not matter.
        receiver: whose input will be given; it reaches the output.
    """

    def __init__(
        self,
        model: DecomposedModel,
        prompt: Prompt,
        kept: Bool[np.ndarray, "receivers senders"],
        used: Bool[np.ndarray, " receivers"],
        receiver: int,
    ) -> None:
        self._model, self._prompt, self._receiver = model, prompt, receiver
        self._live = kept & used[:, None]
        self._useful = self._live[receiver + 1 :].any(0)
        self._on = torch.from_numpy(kept).to(model.means)
        self._changed: list[int] = []
        self._steps: list[_Heads | _Mlp] = []
        self._written = torch.empty(0)
        graph = model.graph
        for layer in range(graph.layer_of(receiver), graph.layers):
            self._plan(layer)
        self._final = self._inputs([graph.output], prompt.rows)

    @property
    def senders(self) -> int:
        """How many senders run again."""
        return len(self._changed)

    def given(self, kept: Bool[np.ndarray, "batch senders"]) -> Float[Tensor, "batch rows width"]:
        """The receiver's input for each set of edges into it."""
        rows = self._rows(self._receiver)
        parts = self._prompt.deviations[: kept.shape[1], -rows:]
        summed = torch.from_numpy(kept).to(parts) @ parts.reshape(len(parts), -1)
        return summed.view(-1, *parts.shape[1:]) + self._model.constants[self._receiver]

    @torch.no_grad()
    def log_probs(self, given: Float[Tensor, "batch rows width"]) -> Float[np.ndarray, " batch"]:
        """The answer's log probability for each input; ``commit`` may then accept one of them."""
        model, prompt = self._model, self._prompt
        written = prompt.deviations.new_empty(len(self._changed), len(given), *prompt.embedded.shape)
        done = 0
        for step in self._steps:
            states = step.inputs(written, given)
            block = model.blocks[step.layer]
            if isinstance(step, _Mlp):
                made = block.transform(states)
            else:
                rows = self._rows_in(step.layer)
                states = block.attention_norm(states)
                query, key, value = states.split([len(step.heads), len(step.groups), len(step.groups)])
                made = block.attend(
                    query[:, :, -rows:],
                    key,
                    value,
                    prompt.rotary,
                    prompt.masks[step.layer][-rows:],
                    step.heads,
                    step.groups,
                    step.group_of,
                )
            written[done : done + len(made), :, -made.shape[2] :] = made
            done += len(made)
        self._written = written
        logits = model.unembed(self._final(written, given)[0])
        return model.log_probs(prompt, logits).double().cpu().numpy()

    def commit(self, row: int) -> None:
        """Make one input of the latest batch the current circuit's: the prompt's deviations become its."""
        graph, means = self._model.graph, self._model.means
        last = graph.heads_of(graph.layers - 1).start
        for sender, written in zip(self._changed, self._written[:, row], strict=True):
            rows = self._prompt.rows if sender >= last else self._prompt.tokens
            self._prompt.deviations[sender, -rows:] = written[-rows:] - means[sender]

    def _plan(self, layer: int) -> None:
        """Which senders of ``layer`` run again."""
        graph = self._model.graph
        attention, mlp = graph.attention_of(layer), graph.mlp_input_of(layer)
        mlp_reached = self._reached(mlp)  # before the layer's own heads, which a parallel MLP does not see
        receivers = np.arange(attention.start, attention.stop)
        reached = [receiver for receiver in receivers if self._reached(receiver)]
        fed = graph.feeds[reached].any(0) & self._useful
        heads = np.flatnonzero(fed[graph.heads_of(layer)])
        if len(heads):
            groups, group_of = np.unique(graph.group_of[heads], return_inverse=True)
            read = [*(graph.queries_of(layer).start + heads)]
            read += [*(graph.keys_of(layer).start + groups), *(graph.values_of(layer).start + groups)]
            inputs = self._inputs(read, self._prompt.tokens)
            device = self._on.device
            index = [torch.from_numpy(part).to(device) for part in (heads, groups, group_of)]
            self._steps.append(_Heads(layer, inputs, *index))
            self._changed += [graph.heads_of(layer).start + int(head) for head in heads]
            mlp_reached = mlp_reached or (not graph.parallel and self._reached(mlp))
        if mlp_reached and self._useful[graph.mlp_of(layer)]:
            self._steps.append(_Mlp(layer, self._inputs([mlp], self._rows_in(layer))))
            self._changed.append(graph.mlp_of(layer))

    def _reached(self, receiver: int) -> bool:
        return receiver == self._receiver or bool(self._live[receiver, self._changed].any())

    def _inputs(self, receivers: list[int], rows: int) -> _Inputs:
        weights = self._on[receivers]
        changed = weights[:, self._changed]
        weights[:, self._changed] = 0  # a copy: the index is a list
        parts = self._prompt.deviations[:, -rows:]
        fixed = (weights @ parts.reshape(len(parts), -1)).view(-1, 1, *parts.shape[1:])
        fixed += self._model.constants[receivers, None, None]
        ablated = changed @ self._model.means[self._changed]  # the changed senders' outputs are no deviations
        fixed -= ablated[:, None, None]
        place = receivers.index(self._receiver) if self._receiver in receivers else None
        return _Inputs(fixed, changed, place)

    def _rows_in(self, layer: int) -> int:
        """Rows in which a layer's queries and MLP run."""
        return self._prompt.rows if layer >= self._model.graph.layers - 1 else self._prompt.tokens

    def _rows(self, receiver: int) -> int:
        """Rows of a receiver's input: keys and values are made of all tokens, everywhere."""
        graph = self._model.graph
        layer = graph.layer_of(receiver)
        reads_all = layer < graph.layers and receiver < graph.mlp_input_of(layer)
        return self._prompt.tokens if reads_all else self._rows_in(layer)
