"""Circuits of facts, run alone (section 3.2): the located ones, other cuts of them, and random ones as large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from caploc.circuits import Circuit, DecomposedModel, Graph, Prompt, prune
from caploc.experiments.facts import FactSet
from caploc.experiments.fidelity.circuits import FactCircuits, circuits
from caploc.experiments.fidelity.prompts import for_each_prompt
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.study import Study
from caploc.streams import Stream, derived_seeds, stream

LOCATED, WHOLE = "located", "the whole model"
UNIFORM, DEGREES, NODES = "uniform", "same degrees", "random nodes"
RANDOM_ARMS = (UNIFORM, DEGREES, NODES)
RANDOM_CIRCUITS = 10
THRESHOLDS = (0.1, 1.0)
"""Nats an edge may cost, where graphs are small enough for exact pruning: beside the default of 0.01."""

_COLUMNS = ("first", "worst", "candidate", "shared", "share")
# Tokens x circuits in one pass, as in caploc.circuits.circuit.
_CHUNK_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Alone:
    """What circuits that run alone make of F answers: ``values[arm] [F, circuits, 5]``, an arm a kind of circuit.

    Ranks are from 1; tokens with an equal logit count as ranked before.

    ``first``      the rank of the answer's first token in the whole vocabulary
    ``worst``      the worst rank of the answer's tokens, each after those before it
    ``candidate``  the rank of the first token among the first tokens of all the facts' answers
    ``shared``     the share of the located edges that the circuit has
    ``share``      the share of the model's parameters in the circuit's nodes
    """

    values: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values[LOCATED])

    def of(self, column: str, arm: str = LOCATED) -> np.ndarray:
        """``[F, circuits]`` one of the columns."""
        return np.asarray(self.values[arm][:, :, _COLUMNS.index(column)])

    def recalled(self, arm: str = LOCATED, top: int = 1, ranked: str = "first") -> np.ndarray:
        """``[F, circuits]`` 1 where the answer is ranked among the ``top``, else 0."""
        return (self.of(ranked, arm) <= top).astype(float)

    @property
    def cuts(self) -> list[str]:
        """The arms that are other circuits located for the same fact."""
        return [arm for arm in self.values if arm not in (LOCATED, WHOLE, *RANDOM_ARMS)]

    def only(self, chosen: np.ndarray) -> Alone:
        """Some of the facts, chosen by a bool for each."""
        return Alone({arm: values[chosen] for arm, values in self.values.items()})


def run_facts_alone(study: Study, facts: FactSet, control: str = "", compared: bool = True) -> Alone:
    """Locates and runs the circuits of every prompt of ``facts``, made once, and stored.

    Without ``compared`` there are no random circuits and no further thresholds. ``control`` as in ``circuits``, which
    says what is raised.
    """

    def make() -> Alone:
        return _run(study, facts, control, compared)

    return study.once(("alone", facts.data_fingerprint, control, compared), make)


def _run(study: Study, facts: FactSet, control: str, compared: bool) -> Alone:
    found = circuits(study, facts, control)
    lm, seed = study.model_for(control), study.settings.seed
    model = DecomposedModel(lm)
    candidates = sorted({int(prompt.answer_ids[0]) for prompt in facts.prompts})

    def make(number: int) -> Mapping[str, np.ndarray]:
        prompt = model.prompt(facts.prompts[number])
        arms = dict(_located(model.graph, found, number))
        arms[WHOLE] = [Circuit.whole(model.graph)]
        if compared:
            if found.settings["exact"]:
                arms |= {f"exact, {cut} nats": [prune(model, [prompt], cut).circuit] for cut in THRESHOLDS}
            arms |= _random(arms[LOCATED][0], seed, number)
        return {
            arm: _measure(model, prompt, listed, arms[LOCATED][0], candidates) for arm, listed in arms.items()
        }

    keys = [
        {
            **found.settings,
            "tokens": prompt.content,
            "candidates": candidates,
            "compared": [RANDOM_CIRCUITS, THRESHOLDS, seed, number] if compared else None,
        }
        for number, prompt in enumerate(facts.prompts)
    ]
    rows = list(for_each_prompt(study, lm, "circuits alone", keys, make))
    return Alone({arm: np.stack([row[arm] for row in rows]) for arm in rows[0]})


def _located(graph: Graph, found: FactCircuits, number: int) -> Iterator[tuple[str, list[Circuit]]]:
    for name, sets in {LOCATED: found.sets, **found.variants}.items():
        yield name, [_circuit(graph, sets, number)]


def _circuit(graph: Graph, sets: LocatedSets, number: int) -> Circuit:
    values = torch.zeros(graph.edges, dtype=torch.bool)
    values[torch.from_numpy(sets.members[number].indices.astype(np.int64))] = True
    return Circuit(graph, values)


def _random(located: Circuit, seed: int, number: int) -> dict[str, list[Circuit]]:
    drawn = derived_seeds(Stream.CIRCUITS, seed, number, count=RANDOM_CIRCUITS)
    return {
        UNIFORM: [located.random_like(one) for one in drawn],
        DEGREES: [located.random_like(one, "degree") for one in drawn],
        NODES: [random_nodes(located, one) for one in drawn],
    }


def random_nodes(located: Circuit, seed: int) -> Circuit:
    """As many heads and MLPs as in ``located``, any of them, with the embedding and all edges between them."""
    graph = located.graph
    count = len(located.nodes - {graph.sender_names[0]})
    chosen = np.zeros(graph.senders, bool)
    chosen[0] = True
    chosen[1 + stream(Stream.CIRCUIT_NODES, seed).choice(graph.senders - 1, count, replace=False)] = True
    reading = np.any(graph.feeds[:, chosen], axis=1)
    reading[graph.output] = True
    return Circuit.of(graph, graph.possible & chosen & reading[:, None])


def _measure(
    model: DecomposedModel,
    prompt: Prompt,
    listed: Sequence[Circuit],
    located: Circuit,
    candidates: Sequence[int],
) -> np.ndarray:
    """``[circuits, 5]`` the columns of `Alone`."""
    kept = torch.from_numpy(np.stack([circuit.matrix for circuit in listed]))
    chunks = kept.split(max(1, _CHUNK_TOKENS // prompt.tokens))
    logits = torch.cat([model.run(prompt, chunk) for chunk in chunks])  # [circuits, rows, vocabulary]
    answer = logits.gather(2, prompt.targets.expand(len(logits), -1)[..., None])
    ranks = (logits >= answer).sum(2)
    columns = [
        ranks[:, 0].tolist(),
        ranks.amax(1).tolist(),
        (logits[:, 0, candidates] >= answer[:, 0]).sum(1).tolist(),
        [int((circuit.values & located.values).sum()) / max(located.count, 1) for circuit in listed],
        [circuit.parameter_share(model.lm) for circuit in listed],
    ]
    return np.array(columns, np.float64).T
