"""KC, knowledge circuits: the edges of the model's graph that an answer needs (paper, Section 2.3, Appendix D)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caploc.circuits.attribution import attribute_edges
from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, check_decomposable
from caploc.circuits.graph import Graph, mlps_of
from caploc.circuits.pruning import prune, prune_to
from caploc.circuits.weights import family_of, graph_of
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.locators.method import Arrays, Asked, FactMethod, SampleMethod
from caploc.model.loading import LanguageModel

Search = Literal["exact", "eap-ig"]

THRESHOLD = 0.01
SHARES = (0.01, 0.02, 0.05)
LARGE_SHARE = 0.02
"""Of the edges, kept where a graph is too large for exact pruning."""

EXACT_EDGES = 20_000
STEPS = 5


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    method: Search = "exact",
    threshold: float = 0.01,
    share: float | None = None,
    steps: int = 5,
    means: Tensor | None = None,
) -> Circuit:
    """The circuit of one example, or one circuit for several, whose log probabilities are averaged.

    Args:
        method: ``exact`` prunes edge by edge (``caploc.circuits.prune``), ``eap-ig`` by gradients, for large models
            (``caploc.circuits.attribute_edges``).
        threshold: in nats per answer token; an edge that costs less is pruned.
        share: instead of a threshold, the fraction of all edges to keep. With ``exact`` it is met roughly, by search
            for a threshold; with ``eap-ig`` before edges on no path are dropped.
        steps: of ``eap-ig``.
        means: what pruned edges carry instead of zero, from ``caploc.circuits.mean_outputs``.

    The answer's log probability is the mean over its tokens, teacher forced. Whether the model knows the fact plays no
    part: ``caploc.circuits.circuit.run_alone`` gives the answer's rank, of the whole model too.

    Raises:
        ModelError: a family that cannot be taken apart, or a model not in float32 or float64.
        OptionError: an option that makes no sense.
        ExampleError: no example, or one that cannot be tokenized.
    """
    if method not in get_args(Search):
        raise OptionError(f"unknown method {method!r}; choose one of {', '.join(get_args(Search))}")
    if share is not None and not 0 < share <= 1:
        raise OptionError(f"share must be a fraction of the edges in (0, 1], got {share}")
    if not examples:
        raise ExampleError("there is no example to locate a circuit for; give at least one")
    tokenized = [tokenize(lm, example) for example in examples]
    model = DecomposedModel(lm, means)
    prompts = [model.prompt(example) for example in tokenized]
    count = None if share is None else max(1, round(share * model.graph.edges))
    if method == "eap-ig":
        scores = attribute_edges(model, prompts, steps)
        return scores.above(threshold) if count is None else scores.top(count)
    if count is None:
        return prune(model, prompts, threshold).circuit
    return prune_to(model, prompts, count).circuit


@dataclass(frozen=True)
class FactCircuits(FactMethod):
    """Every edge's EAP-IG score of one prompt; of a small graph also which edges exact pruning keeps, and their scores.

    Large graphs, of which pruning takes hours a prompt, are cut at a fixed share of EAP-IG's scores.
    """

    what: ClassVar[str] = "circuits"

    def check(self, lm: LanguageModel) -> None:
        """Raise ``ModelError`` if ``lm`` cannot be taken apart."""
        check_decomposable(lm)

    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        """How circuits of ``lm`` are found."""
        exact = self.graph(lm).edges <= EXACT_EDGES
        threshold = THRESHOLD if exact else None
        return {"ablation": "zero", "steps": STEPS, "exact": exact, "threshold": threshold}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """How circuits are found, and the tokens."""
        return {**self.settings(lm), "tokens": asked.tokens.content}

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """A ``DecomposedModel``."""
        model, exact = DecomposedModel(lm), self.settings(lm)["exact"]

        def measure(asked: Asked) -> Arrays:
            prompts = [model.prompt(asked.tokens)]
            found = {"eap-ig": attribute_edges(model, prompts, STEPS).values.astype(np.float32)}
            if exact:
                pruned = prune(model, prompts, THRESHOLD)
                found |= {"kept": pruned.circuit.values.numpy(force=True), "scores": pruned.scores}
            return found

        return nullcontext(measure)

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, Circuit]:
        """The circuit that decides, then those of fixed shares of the edges.

        A share is met to the edge: edges on no path stay, which ``EdgeScores.top`` drops, and which can be nearly all.
        """
        graph, size = self.graph(lm), np.abs(arrays["eap-ig"])
        counts = {f"{share:.0%} of the edges": max(1, round(share * graph.edges)) for share in SHARES}
        found = {f"EAP-IG, {name}": _largest(graph, size, count) for name, count in counts.items()}
        if "kept" not in arrays:
            decides = f"EAP-IG, {LARGE_SHARE:.0%} of the edges"
            return {decides: found.pop(decides), **found}
        kept = np.asarray(arrays["kept"], bool)
        scores = np.where(kept, arrays["scores"], -np.inf)
        exact = {
            f"exact, the strongest {name}": _largest(graph, scores, min(count, int(kept.sum())))
            for name, count in counts.items()
        }
        return {"exact": Circuit(graph, torch.from_numpy(kept)), **found, **exact}

    @staticmethod
    def graph(lm: LanguageModel) -> Graph:
        """The graph whose edges are located."""
        return graph_of(lm, family_of(str(lm.config.model_type)))


@dataclass(frozen=True)
class MlpEdges(SampleMethod):
    """EAP-IG's scores of the edges that begin or end at an MLP."""

    what: ClassVar[str] = "edges of MLPs"

    @property
    def how(self) -> str:
        return f"EAP-IG in {STEPS} steps, {self.what}"

    def check(self, lm: LanguageModel) -> None:
        """Raise ``ModelError`` if ``lm`` cannot be taken apart."""
        check_decomposable(lm)

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The steps, the tokens and the id."""
        return {"steps": STEPS, "id": asked.tokens.id, "tokens": asked.tokens.content}

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """A ``DecomposedModel``."""
        model = DecomposedModel(lm)
        touching = mlps_of(model.graph).any(1)

        def measure(asked: Asked) -> Arrays:
            scores = attribute_edges(model, [model.prompt(asked.tokens)], STEPS)
            return {"values": scores.values[touching].astype(np.float32)}

        return nullcontext(measure)

    def evidence(self, lm: LanguageModel, arrays: Arrays) -> Float[np.ndarray, " edges"]:
        """The scores."""
        return arrays["values"].astype(np.float64)

    def rank(self, lm: LanguageModel, means: Float[np.ndarray, "rows ..."]) -> np.ndarray:
        """How much each layer's MLP matters: its edges' |mean score|, summed."""
        at = mlps_of(graph_of(lm, family_of(str(lm.config.model_type))))
        strength: np.ndarray = np.abs(means) @ at[at.any(1)].astype(np.float64)
        return strength


def _largest(graph: Graph, scores: np.ndarray, count: int) -> Circuit:
    """The ``count`` edges of the largest ``scores [edges]``; of equal ones the first."""
    chosen = np.zeros(graph.edges, bool)
    chosen[np.argsort(-scores, kind="stable")[:count]] = True
    return Circuit(graph, torch.from_numpy(chosen))
