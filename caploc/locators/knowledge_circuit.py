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
from caploc.circuits.faithful import FAITHFULNESS, faithful
from caploc.circuits.graph import Graph, mlps_of
from caploc.circuits.pruning import prune, prune_to
from caploc.circuits.weights import family_of, graph_of
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.locators.method import Arrays, Asked, FactMethod, SampleMethod
from caploc.model.loading import LanguageModel

Search = Literal["blocks", "exact", "eap-ig"]

THRESHOLD = 0.01
"""Nats, of exact pruning."""
LESS = 0.5
"""Of the log probability, shown beside."""
STEPS = 5


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    method: Search = "blocks",
    faithfulness: float | None = None,
    threshold: float | None = None,
    share: float | None = None,
    steps: int = STEPS,
    means: Tensor | None = None,
) -> Circuit:
    """The circuit of one example, or one circuit for several, whose log probabilities are averaged.

    Args:
        method: ``blocks`` prunes the graph to a stated faithfulness (``caploc.circuits.faithful``), in models of any
            size; ``exact`` edge by edge (``caploc.circuits.prune``), its oracle on small ones; ``eap-ig`` by gradients
            (``caploc.circuits.attribute_edges``).
        faithfulness: of ``blocks``: the share of the answer's log probability that is restored; 0.8 if not given.
        threshold: of the others, in nats per answer token: an edge that costs less is pruned; 0.01 if not given.
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
    if threshold is not None and share is not None:
        raise OptionError("threshold and share are two ways to cut one circuit; give one of them")
    others = threshold is not None or share is not None
    if (others and method == "blocks") or (faithfulness is not None and method != "blocks"):
        raise OptionError(
            "method 'blocks' takes a faithfulness, the others a threshold or a share of the edges"
        )
    if not examples:
        raise ExampleError("there is no example to locate a circuit for; give at least one")
    tokenized = [tokenize(lm, example) for example in examples]
    model = DecomposedModel(lm, means)
    prompts = [model.prompt(example) for example in tokenized]
    if method == "blocks":
        return faithful(model, prompts, FAITHFULNESS if faithfulness is None else faithfulness).circuit
    count = None if share is None else max(1, round(share * model.graph.edges))
    cut = THRESHOLD if threshold is None else threshold
    if method == "eap-ig":
        scores = attribute_edges(model, prompts, steps)
        return scores.above(cut) if count is None else scores.top(count)
    return (prune(model, prompts, cut) if count is None else prune_to(model, prompts, count)).circuit


@dataclass(frozen=True)
class FactCircuits(FactMethod):
    """The edges that restore one prompt's answer, by one algorithm whatever the model's size."""

    what: ClassVar[str] = "circuits"

    @property
    def precise(self) -> bool:
        """Circuits are found in float32."""
        return True

    def check(self, lm: LanguageModel) -> None:
        """Raise ``ModelError`` if ``lm`` cannot be taken apart."""
        check_decomposable(lm)

    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        """How circuits of ``lm`` are found."""
        return {"ablation": "zero", "method": "blocks", "faithfulness": FAITHFULNESS, "less": LESS}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """How circuits are found, and the tokens."""
        return {**self.settings(lm), "tokens": asked.tokens.content}

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """A ``DecomposedModel``."""
        model = DecomposedModel(lm)

        def measure(asked: Asked) -> Arrays:
            prompts = [model.prompt(asked.tokens)]
            found = faithful(model, prompts)
            less = faithful(model, prompts, LESS, start=found.circuit)
            return {
                "kept": found.circuit.values.numpy(force=True),
                "less": less.circuit.values.numpy(force=True),
                "faithfulness": np.array(found.faithfulness),
                "bar": np.array(found.bar),
                "runs": np.array(float(found.runs)),
            }

        return nullcontext(measure)

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, Circuit]:
        """The circuit that decides, and what is left of it where less is to be restored."""
        graph, cuts = self.graph(lm), {"kept": FAITHFULNESS, "less": LESS}
        return {
            f"{share:.0%} of log P": Circuit(graph, torch.from_numpy(np.array(arrays[name], bool)))
            for name, share in cuts.items()
        }

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

    @property
    def precise(self) -> bool:
        """Circuits are found in float32."""
        return True

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
