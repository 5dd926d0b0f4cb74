"""Exact pruning of a model's graph to a circuit (Appendix D; ACDC, Conmy et al. 2023; Yao et al. 2024), at a threshold
or to a given number of edges, so that circuits of facts can be compared at one size.

Only what an edge's receiver reaches runs again (``Downstream``), and edges are guessed ahead in batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.errors import ExampleError, OptionError
from caploc.rows.sizing import Budget

# How many edges are guessed ahead: a batch of fewer costs the same, of more no longer gets cheaper by state.
FEWEST, MOST = 8, 64
# Effects are rounded to multiples of this: what is smaller is rounding of the log probability, not an effect.
RESOLUTION = {torch.float32: 1e-5, torch.float64: 1e-12}
# Nats; below lies rounding in float32, above no edge of a model that knows the answer.
LOWEST, HIGHEST = 1e-5, 10.0


@dataclass
class Work:
    """What a pruning took. ``states``: circuits whose log probability was computed, for each prompt; ``batches`` they
    came in; ``senders`` that ran, over all states (a whole forward pass runs all but the embedding)."""

    states: int = 0
    batches: int = 0
    senders: int = 0


@dataclass(frozen=True, eq=False)
class Pruning:
    """The circuit that was left, and what happened on the way.

    Attributes:
        scores: ``[edges]`` S(e) of every edge when its turn came.
        whole, left: log probability of the answer (mean over its tokens and the prompts) in the model and the circuit.
    """

    circuit: Circuit
    scores: Float[np.ndarray, " edges"]
    threshold: float
    whole: float
    left: float
    work: Work


def edge_score(kept: float, ablated: float) -> float:
    """S(e) = log p(o | s, r) with the edge minus that without it: what pruning the edge costs, 0 for no effect."""
    return kept - ablated


def edge_score_as_printed(kept: float, ablated: float) -> float:
    """Eq. (12) to the letter, S(e) = -log p_ablated - log p, where both terms have one sign: an edge without effect
    scores -2 log p and not 0. It equals ``edge_score - 2 log p``: it ranks the edges of one circuit alike, but a
    threshold does not mean the same for two facts."""
    return -ablated - kept


def prune(
    model: DecomposedModel, prompts: Sequence[Prompt], threshold: float = 0.01, batch: int | None = None
) -> Pruning:
    """Prune every edge whose score S(e), against the circuit left so far, is below ``threshold``.

    Edges are visited from the output down: receivers in reverse topological order, for each its senders, latest first.
    The answer's log probability is the mean over its tokens, teacher forced, and over ``prompts``. A pruned edge
    carries zero, or the sender's mean if the model was made with means.

    The result is that of one whole forward pass for each edge in turn (``caploc/tests/oracles/circuits.py``), but
    three things make it cheap. Senders below a receiver are the whole model's, those above run only where they are
    reached (``Downstream``). An edge into a node that no longer reaches the output scores 0 without running. And edges
    are tried ahead: on the guess which of the next ``batch`` edges are pruned (None: as many as pays), all the circuits
    that this leads to run in one batch, which holds up to the first wrong guess; what it says beyond is the next guess.

    Let n edges be pruned: then whole - left, which is the sum of their scores, is below n * threshold. At threshold 0
    the circuit's log probability is therefore not below the model's; at minus infinity nothing is pruned. Scores are
    rounded to ``RESOLUTION``, so that two ways to compute one log probability decide alike but for rare ties.

    Raises:
        OptionError: ``threshold`` is no number, or ``batch`` is below 1.
        ExampleError: no prompt.
    """
    if math.isnan(threshold):
        raise OptionError("threshold must be a number, got nan")
    if batch is not None and batch < 1:
        raise OptionError(f"batch must be at least 1, got {batch}; None lets it adapt")
    if not prompts:
        raise ExampleError("there is no prompt to prune for; give at least one example")
    search = _Search(model, prompts, threshold, batch)
    for receiver in reversed(range(model.graph.receivers)):
        search.visit(receiver)
    graph = model.graph
    circuit = Circuit.of(graph, search.kept)
    whole = float(np.mean([prompt.log_prob for prompt in prompts]))
    return Pruning(circuit, search.scores[graph.possible], threshold, whole, search.log_prob, search.work)


class _Search:
    """The circuit left so far, and how many edges are guessed ahead."""

    def __init__(
        self, model: DecomposedModel, prompts: Sequence[Prompt], threshold: float, batch: int | None
    ) -> None:
        graph = model.graph
        self._model, self._threshold = model, threshold
        self._prompts = [replace(prompt, deviations=prompt.deviations.clone()) for prompt in prompts]
        self._adapts, self._batch = batch is None, batch or FEWEST
        self._budget = Budget(model.lm, batch or MOST, gradients=False)  # of edges
        self._refusal = (
            f"a circuit that runs on example {prompts[0].id!r} does not fit into the GPU's memory; use a GPU with more "
            "memory or shorter prompts"
        )
        self._resolution = RESOLUTION[model.lm.dtype]
        self._used = np.zeros(graph.receivers, dtype=bool)
        self._used[graph.output] = True
        self._pruned = self._left = 0
        self.kept = graph.possible.copy()
        self.scores = np.zeros(graph.possible.shape)
        self.log_prob = float(np.mean([prompt.log_prob for prompt in prompts]))
        self.work = Work()

    def visit(self, receiver: int) -> None:
        """Decide on all edges into ``receiver``; those into later ones are decided."""
        graph = self._model.graph
        if receiver != graph.output:
            self._used[receiver] = self.kept[self._used][:, graph.feeds[receiver]].any()
        if self._used[receiver]:
            self._decide(receiver)
        elif self._threshold > 0:
            self.kept[receiver] = False

    def _decide(self, receiver: int) -> None:
        runs = [Downstream(self._model, prompt, self.kept, self._used, receiver) for prompt in self._prompts]
        order = np.arange(self._model.graph.seen[receiver])[::-1]
        row = np.ones(len(order), dtype=bool)
        guess = np.full(len(order), self._pruned >= self._left)  # True: the edge will be pruned
        done = 0
        while done < len(order):

            def attempt(done: int = done) -> tuple[slice, np.ndarray, np.ndarray]:
                ahead = slice(done, min(done + min(self._batch, self._budget.tokens), len(order)))
                return ahead, *self._try(runs, row, order[ahead], guess[ahead])

            ahead, effects, log_probs = self._budget.fitting(attempt, self._refusal)
            pruned = effects < self._threshold
            wrong = np.flatnonzero(pruned != guess[ahead])
            decided = int(wrong[0]) + 1 if len(wrong) else len(pruned)
            self.scores[receiver, order[ahead][:decided]] = effects[:decided]
            row[order[ahead][:decided][pruned[:decided]]] = False
            if pruned[:decided].any():
                last = int(np.flatnonzero(pruned[:decided])[-1])
                self.log_prob = float(log_probs[last])
                for run in runs:
                    run.commit(last)
            guess[ahead] = pruned
            done += decided
            self._adapt(decided, held=not len(wrong))
        self.kept[receiver, : len(row)] = row
        self._pruned, self._left = self._pruned + int((~row).sum()), self._left + int(row.sum())

    def _try(
        self,
        runs: Sequence[Downstream],
        row: Bool[np.ndarray, " senders"],
        edges: Int[np.ndarray, " ahead"],
        guess: Bool[np.ndarray, " ahead"],
    ) -> tuple[Float[np.ndarray, " ahead"], Float[np.ndarray, " ahead"]]:
        """The score of each edge ahead, and the log probability without it, if the guesses before it are right."""
        count = len(edges)
        states = np.repeat(row[None], count, axis=0)
        states[:, edges] &= ~(np.tri(count, k=-1, dtype=bool) & guess | np.eye(count, dtype=bool))
        log_probs = np.mean([run.log_probs(run.given(states)) for run in runs], axis=0)
        before, effects = self.log_prob, np.empty(count)
        for place, (log_prob, gone) in enumerate(zip(log_probs, guess, strict=True)):
            effects[place] = edge_score(before, log_prob)
            before = log_prob if gone else before
        self.work.states += count
        self.work.batches += 1
        self.work.senders += count * runs[0].senders
        return np.round(effects / self._resolution) * self._resolution, log_probs

    def _adapt(self, decided: int, held: bool) -> None:
        if self._adapts:
            self._batch = min(2 * self._batch, MOST) if held else max(min(2 * decided, self._batch), FEWEST)


def prune_to(
    model: DecomposedModel, prompts: Sequence[Prompt], count: int, close: float = 0.05, tries: int = 12
) -> Pruning:
    """The pruning, of those tried, that leaves a number of edges closest to ``count``.

    The threshold is bisected in its logarithm between ``LOWEST`` and ``HIGHEST``, until the number is within the
    fraction ``close`` of ``count``, ``tries`` times at most. A greedy search need not pass through every size, and
    edges that make the answer less probable are pruned at each: a larger ``count`` is not reached.

    Raises:
        OptionError: ``count`` or ``tries`` is below 1.
        ExampleError: no prompt.
    """
    if count < 1 or tries < 1:
        raise OptionError(f"the number of edges and of tries must be at least 1, got {count} and {tries}")
    low, high = math.log(LOWEST), math.log(HIGHEST)
    tried: list[Pruning] = []
    for _ in range(tries):
        middle = (low + high) / 2
        tried.append(prune(model, prompts, math.exp(middle)))
        left = tried[-1].circuit.count
        if abs(left - count) <= close * count:
            break
        low, high = (middle, high) if left > count else (low, middle)
    return min(tried, key=lambda pruning: abs(pruning.circuit.count - count))


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
                states = block.normed(states)
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
