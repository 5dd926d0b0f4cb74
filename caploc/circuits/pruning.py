"""Exact pruning of a model's graph to a circuit (Appendix D; ACDC, Conmy et al. 2023; Yao et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel
from caploc.circuits.downstream import Downstream
from caploc.circuits.prompt import Prompt
from caploc.errors import ExampleError, OptionError

# How many edges are guessed ahead: a batch of fewer costs the same, of more no longer gets cheaper by state.
FEWEST, MOST = 8, 64
# Effects are rounded to multiples of this: what is smaller is rounding of the log probability, not an effect.
RESOLUTION = {torch.float32: 1e-5, torch.float64: 1e-12}


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
            ahead = slice(done, min(done + self._batch, len(order)))
            effects, log_probs = self._try(runs, row, order[ahead], guess[ahead])
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
