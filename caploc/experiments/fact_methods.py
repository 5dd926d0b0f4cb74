"""The methods that locate single facts: what each measures on a prompt, and how it locates from that.

A method is one small class and one entry of ``FACT_METHODS``; experiments know neither, only the key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.engine import Attributor, Method
from caploc.circuits import Circuit, DecomposedModel, Graph, attribute_edges, prune
from caploc.circuits.weights import family_of, graph_of
from caploc.errors import ModelError
from caploc.examples import Example, TokenizedExample, subject_tokens
from caploc.experiments.specs import Arrays
from caploc.fingerprints import fingerprint
from caploc.locators.causal_tracing.trace import Tracing
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.knowledge_neurons import Cut
from caploc.locators.layers import LayerSet
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask

CUTS: Mapping[str, Cut] = MappingProxyType(
    {
        "threshold 0.2": Cut(),
        "threshold 0.1": Cut(0.1),
        "threshold 0.3": Cut(0.3),
        "top 15": Cut(top_k=15),
    }
)
"""KN's cut that verdicts rest on, and those that show how much hangs on it (ambiguity ``kn-threshold``)."""
DEFAULT_CUT = CUTS["threshold 0.2"]

TOP_K = 3
"""Section 3.1's number of layers."""

EDGE_THRESHOLD = 0.01
SHARES = (0.01, 0.02, 0.05)
LARGE_SHARE = 0.02
"""Of the edges, kept where a graph is too large for exact pruning."""
EXACT_EDGES = 20_000
STEPS = 5


class Location(Protocol):
    """What a method located in a model: a set of neurons, of layers, or of edges."""

    @property
    def values(self) -> Tensor: ...

    def parameter_share(self, lm: Any) -> float: ...


class Asked(NamedTuple):
    """A prompt with its answer, as a method is given it."""

    tokens: TokenizedExample
    example: Example


@dataclass(frozen=True)
class Conditions:
    """What a study sets for all methods alike: the seed of their noise, and how eq. (7) is read."""

    seed: int
    attribution: Method


class FactMethod(ABC):
    """What a method measures on one prompt. Subclasses are frozen dataclasses: equal where they measure the same.

    Attributes:
        what: names the measurement, in the store's keys.
        code: part of every key: raise it when a change of the code changes numbers by more than rounding.
    """

    what: ClassVar[str]
    code: ClassVar[int] = 1

    def check(self, lm: LanguageModel) -> None:  # noqa: B027  most methods apply to every model
        """Raise ``ModelError`` if the method cannot be applied to ``lm``, whatever the prompt."""

    @abstractmethod
    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        """How ``lm`` is measured and cut, for whoever reads a finding."""

    @abstractmethod
    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """What the measurement depends on, besides the model's weights, dtype and device. Reads no weight."""

    @abstractmethod
    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """The model made ready: inside ``with`` a function from a prompt to what is kept of it."""

    @abstractmethod
    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, Location]:
        """What is located, by the name of the cut; the first one decides. Of ``lm`` only its shape is read."""

    @abstractmethod
    def strata(self, location: Any) -> np.ndarray:
        """The layer of each place, within which random sets must match; all 0 where there is none."""

    def key(self, lm: LanguageModel, asked: Asked) -> str:
        """By what the store finds the measurement."""
        return fingerprint(
            {
                "what": self.what,
                "code": self.code,
                "model": lm.fingerprint,
                "dtype": str(lm.dtype),
                "device": lm.device.type,
                **self.content(lm, asked),
            }
        )


@dataclass(frozen=True)
class KnowledgeNeuronScores(FactMethod):
    """KN (section 2.1): eq. (2)'s scores of every neuron, kept as float32."""

    what: ClassVar[str] = "neuron scores of one example"

    method: Method

    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        return {"threshold": DEFAULT_CUT.threshold}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        return {"method": self.method.settings, "example": asked.tokens.content}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        with Attributor(lm, self.method) as attributor:

            def measure(asked: Asked) -> Arrays:
                sums = attributor.one(asked.tokens)
                arrays = {"values": sums.total.astype(np.float32), "completeness": sums.completeness}
                return {**arrays, "gap": sums.gap, "points": sums.points}

            yield measure

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, NeuronMask]:
        values = torch.from_numpy(np.array(arrays["values"]))
        return {name: cut.locate(values) for name, cut in CUTS.items()}

    def strata(self, location: NeuronMask) -> np.ndarray:
        layers, neurons = location.values.shape
        return np.repeat(np.arange(layers), neurons)


@dataclass(frozen=True)
class TracedLayers(FactMethod):
    """ROME (section 2.2): ``restored [layers]`` the answer's probability with a layer's MLP restored at the subject's
    last token; ``clean`` without noise and ``corrupted`` with it, means over draws."""

    what: ClassVar[str] = "layers by causal tracing"

    tracing: Tracing

    def check(self, lm: LanguageModel) -> None:
        if lm.num_layers <= TOP_K:
            raise ModelError(f"{lm.name} has {lm.num_layers} layers, and {TOP_K} are to be chosen of more")

    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        return {"top_k": TOP_K, **self.tracing.settings}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        tokens, subject = asked.tokens, subject_tokens(lm, asked.example)
        place = [subject.start, subject.stop]
        # the noise is drawn from the example's id
        return {"tracing": self.tracing.settings, "tokens": tokens.content, "subject": place, "id": tokens.id}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        with Tracer(lm, self.tracing) as tracer:

            def measure(asked: Asked) -> Arrays:
                trace = tracer.one(asked.tokens, subject_tokens(lm, asked.example))
                return {
                    "restored": trace.by_layer().numpy(),
                    "clean": np.array(trace.clean),
                    "corrupted": np.array(float(trace.corrupted.mean())),
                }

            yield measure

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, LayerSet]:
        """The three best layers; the best one and the two best show how much hangs on it."""
        scores = arrays["restored"].tolist()
        return {f"top {count}": LayerSet.best(scores, count) for count in (TOP_K, 1, 2)}

    def strata(self, location: LayerSet) -> np.ndarray:
        return np.zeros(location.num_layers, np.int64)


@dataclass(frozen=True)
class FactCircuits(FactMethod):
    """KC (section 2.3): every edge's EAP-IG score; of a small graph also which edges exact pruning keeps, and scores.

    Large graphs, of which pruning takes hours a prompt, are cut at a fixed share of EAP-IG's scores.
    """

    what: ClassVar[str] = "circuits"

    def check(self, lm: LanguageModel) -> None:
        DecomposedModel(lm)

    def settings(self, lm: LanguageModel) -> dict[str, Any]:
        exact = self.graph(lm).edges <= EXACT_EDGES
        threshold = EDGE_THRESHOLD if exact else None
        return {"ablation": "zero", "steps": STEPS, "exact": exact, "threshold": threshold}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        return {**self.settings(lm), "tokens": asked.tokens.content}

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        model, exact = DecomposedModel(lm), self.settings(lm)["exact"]

        def measure(asked: Asked) -> Arrays:
            prompts = [model.prompt(asked.tokens)]
            found = {"eap-ig": attribute_edges(model, prompts, STEPS).values.astype(np.float32)}
            if exact:
                pruned = prune(model, prompts, EDGE_THRESHOLD)
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

    def strata(self, location: Circuit) -> np.ndarray:
        graph = location.graph
        return np.array([graph.layer_of(int(receiver)) for receiver in np.nonzero(graph.possible)[0]])

    @staticmethod
    def graph(lm: LanguageModel) -> Graph:
        """The graph of ``lm``, whose edges are located."""
        return graph_of(lm, family_of(str(lm.model.config.model_type)))


def _largest(graph: Graph, scores: np.ndarray, count: int) -> Circuit:
    """The ``count`` edges of the largest ``scores [edges]``; of equal ones the first."""
    chosen = np.zeros(graph.edges, bool)
    chosen[np.argsort(-scores, kind="stable")[:count]] = True
    return Circuit(graph, torch.from_numpy(chosen))


FACT_METHODS: Mapping[str, Callable[[Conditions], FactMethod]] = MappingProxyType(
    {
        "kn": lambda conditions: KnowledgeNeuronScores(conditions.attribution),
        "rome": lambda conditions: TracedLayers(Tracing(seed=conditions.seed)),
        "kc": lambda conditions: FactCircuits(),
    }
)
