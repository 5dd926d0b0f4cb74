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

from caploc.circuits.attribution import EdgeScores, attribute_edges
from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, check_decomposable
from caploc.circuits.faithful import FAITHFULNESS, faithful
from caploc.circuits.graph import Graph, mlps_of
from caploc.circuits.pruning import prune, prune_to
from caploc.circuits.weights import family_of, graph_of
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.locators.method import Arrays, Asked, FactMethod, SampleMethod
from caploc.model.loading import LanguageModel

Search = Literal["eap-ig", "exact"]

THRESHOLD = 0.01
"""Nats, of exact pruning."""
STRICTER = (0.8, 0.9)
SHARES = (0.01, 0.02, 0.05)
"""Other cuts, shown beside: shares of the log probability, then of the edges."""
STEPS = 5


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    method: Search = "eap-ig",
    faithfulness: float | None = None,
    threshold: float | None = None,
    share: float | None = None,
    steps: int = STEPS,
    means: Tensor | None = None,
) -> Circuit:
    """The circuit of one example, or one circuit for several, whose log probabilities are averaged.

    Args:
        method: ``eap-ig`` scores edges by gradients (``caploc.circuits.attribute_edges``), for models of any size;
            ``exact`` prunes edge by edge (``caploc.circuits.prune``), its oracle on small ones.
        faithfulness: of ``eap-ig``: as many edges as restore this share of the answer's log probability when they run
            alone (``caploc.circuits.faithful``); half, where no other cut is asked for.
        threshold: instead, in nats per answer token; an edge that costs less is pruned. 0.01 for ``exact``.
        share: instead, the fraction of all edges to keep. With ``exact`` it is met roughly, by search for a threshold;
            with ``eap-ig`` before edges on no path are dropped.
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
    asked = {"faithfulness": faithfulness, "threshold": threshold, "share": share}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} are ways to cut one circuit; give one of them")
    if method == "exact" and faithfulness is not None:
        raise OptionError("exact pruning takes a threshold or a share of the edges, no faithfulness")
    if not examples:
        raise ExampleError("there is no example to locate a circuit for; give at least one")
    tokenized = [tokenize(lm, example) for example in examples]
    model = DecomposedModel(lm, means)
    prompts = [model.prompt(example) for example in tokenized]
    count = None if share is None else max(1, round(share * model.graph.edges))
    if method == "exact":
        if count is not None:
            return prune_to(model, prompts, count).circuit
        return prune(model, prompts, THRESHOLD if threshold is None else threshold).circuit
    scores = attribute_edges(model, prompts, steps)
    if count is not None:
        return scores.top(count)
    if threshold is not None:
        return scores.above(threshold)
    wanted = FAITHFULNESS if faithfulness is None else faithfulness
    return faithful(model, prompts, scores, [wanted])[0].circuit


@dataclass(frozen=True)
class FactCircuits(FactMethod):
    """Every edge's EAP-IG score of one prompt, and how many of the strongest restore its answer: one algorithm, whatever
    the model's size."""

    what: ClassVar[str] = "circuits"

    def check(self, lm: LanguageModel) -> None:
        """Raise ``ModelError`` if ``lm`` cannot be taken apart."""
        check_decomposable(lm)

    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        """How circuits of ``lm`` are found."""
        return {"ablation": "zero", "steps": STEPS, "faithfulness": [FAITHFULNESS, *STRICTER]}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """How circuits are found, and the tokens."""
        return {**self.settings(lm), "tokens": asked.tokens.content}

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """A ``DecomposedModel``."""
        model = DecomposedModel(lm)

        def measure(asked: Asked) -> Arrays:
            prompts = [model.prompt(asked.tokens)]
            # in the precision that is kept, so that what is cut from it later is what ran
            scores = attribute_edges(model, prompts, STEPS).values.astype(np.float32)
            kept = EdgeScores(model.graph, scores)
            found = faithful(model, prompts, kept, [FAITHFULNESS, *STRICTER])
            return {
                "eap-ig": scores,
                "counts": np.array([one.count for one in found]),
                "faithfulness": np.array(found[0].faithfulness),
            }

        return nullcontext(measure)

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, Circuit]:
        """The circuit that decides, those that restore more, and those of fixed shares of the edges.

        A share of the edges is met to the edge: edges on no path stay, which ``EdgeScores.top`` drops, and which can be
        nearly all.
        """
        graph = self.graph(lm)
        scores = EdgeScores(graph, arrays["eap-ig"])
        found = {
            f"EAP-IG, {share:.0%} of log p": scores.top(int(count))
            for share, count in zip((FAITHFULNESS, *STRICTER), arrays["counts"], strict=True)
        }
        for share in SHARES:
            count = max(1, round(share * graph.edges))
            found[f"EAP-IG, {share:.0%} of the edges"] = _largest(graph, np.abs(arrays["eap-ig"]), count)
        return found

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
