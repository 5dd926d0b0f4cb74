"""Circuits of facts: how they are cut, and what each makes of the answer when it runs alone (section 3.2).

``RunAlone(facts)`` names what the located circuits do, other cuts of them, and random ones as large; ``ControlAlone``
what circuits located for answers that the model does not hold do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from caploc.circuits import FAITHFULNESS, Circuit, DecomposedModel, Graph, Prompt, faithful
from caploc.examples import TokenizedExample
from caploc.experiments.facts import Chosen, Fact, FactSet, passes_flops, prompt_task
from caploc.experiments.locating_facts import PASSES, FactLocations, LocatedFacts, LocatedSets
from caploc.experiments.specs import Arrays, Spec, Task
from caploc.experiments.study import Study
from caploc.locators.knowledge_circuit import FactCircuits
from caploc.store import Entry
from caploc.streams import Stream, derived_seeds, stream

LOCATED, WHOLE = "located", "the whole model"
UNIFORM, DEGREES, NODES = "uniform", "same degrees", "random nodes"
RANDOM_ARMS = (UNIFORM, DEGREES, NODES)
RANDOM_CIRCUITS = 10

COLUMNS = ("first", "worst", "candidate", "shared", "share")
# Tokens x circuits in one pass, as in caploc.circuits.circuit.
CHUNK_TOKENS = 2048


# -------------------------------------------------------------------------------------------------- how they are cut


def cut_settings(found: FactLocations) -> dict[str, Any]:
    """How circuits were found and cut."""
    return {**found.settings, "cut": found.cut, "edges": found.sets.places}


def cut_notes(found: FactLocations) -> list[str]:
    """How edges were cut, in a sentence."""
    held = found.numbers.get("faithfulness")
    restored = "" if held is None else f" ({np.nanmean(held):.0%} on average)"
    return [
        f"edges are pruned in blocks as long as the circuit alone restores {FAITHFULNESS:.0%} of the answer's log "
        f"probability{restored}, in models of every size (kc-faithfulness): "
        f"{found.sets.counts.mean() / found.sets.places:.1%} of {found.sets.places} edges on average"
    ]


def circuit_of(graph: Graph, sets: LocatedSets, number: int) -> Circuit:
    """One of the sets, as a circuit."""
    values = torch.zeros(graph.edges, dtype=torch.bool)
    values[torch.from_numpy(sets.members[number].indices.astype(np.int64))] = True
    return Circuit(graph, values)


@dataclass(frozen=True)
class EnteredShare(Spec[np.ndarray]):
    """``[P]`` the share of the model's parameters in the matrices that each located circuit's edges enter."""

    located: LocatedFacts

    def read(self, study: Study, entries: Iterator[Entry]) -> np.ndarray:
        graph, sets = FactCircuits.graph(study.lm), study.result(self.located).sets
        circuits = (circuit_of(graph, sets, number) for number in range(len(sets)))
        return np.array([one.parameter_share(study.lm, "entered") for one in circuits])


@dataclass(frozen=True)
class WithWrongAnswers(Chosen):
    """As `with_wrong_answers`: answers that the model does not hold."""

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        return with_wrong_answers(facts, study.lm.max_length)


def with_wrong_answers(facts: FactSet, longest: int) -> FactSet:
    """Every fact in its original wording with the answer of the next that begins with another token, and with which it
    is not longer than ``longest`` tokens; facts without one are left out."""
    prompts = [facts.prompts[one] for one in facts.first]
    found = {}
    for number, prompt in enumerate(prompts):
        for other in prompts[number + 1 :] + prompts[:number]:
            ids = torch.cat([prompt.prompt_ids, other.answer_ids])
            if other.answer_ids[0] != prompt.answer_ids[0] and len(ids) <= longest:
                found[number] = replace(prompt, input_ids=ids)
                break
    chosen = facts.first[list(found)]
    return replace(
        facts,
        facts=[Fact(facts.facts[number].id, facts.facts[number].wordings[:1]) for number in found],
        prompts=list(found.values()),
        fact=np.arange(len(found)),
        rank=facts.rank[chosen],
        log_prob=facts.log_prob[chosen],
    )


# ----------------------------------------------------------------------------------------- what they do when run alone


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
        return np.asarray(self.values[arm][:, :, COLUMNS.index(column)])

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


@dataclass(frozen=True)
class RunAlone(Spec[Alone]):
    """The circuits of every prompt of ``facts`` run alone, beside other cuts and random circuits as large."""

    facts: Spec[FactSet]

    @property
    def located(self) -> LocatedFacts:
        """What the circuits are."""
        return LocatedFacts("kc", self.facts)

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self.facts, self.located)

    def tasks(self, study: Study) -> Iterable[Task]:
        prompts = study.result(self.facts).prompts
        if not prompts:
            return
        found, seed = study.result(self.located), study.settings.seed
        candidates = first_tokens(prompts)
        for number, prompt in enumerate(prompts):
            depends_on = {
                **cut_settings(found),
                "tokens": prompt.content,
                "candidates": candidates,
                "compared": [RANDOM_CIRCUITS, seed, number],
            }
            make = partial(self._run, study, number, candidates)
            yield prompt_task(study, study.precise(), "circuits alone", depends_on, make)

    def read(self, study: Study, entries: Iterator[Entry]) -> Alone:
        return _alone(entries)

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, PASSES["kc"] / 2)

    def _run(self, study: Study, number: int, candidates: Sequence[int]) -> Arrays:
        found, facts = study.result(self.located), study.result(self.facts)
        model = study.hold(DecomposedModel, study.precise(), lambda lm: nullcontext(DecomposedModel(lm)))
        prompt = model.prompt(facts.prompts[number])
        located = circuit_of(model.graph, found.sets, number)
        arms = {LOCATED: [located], WHOLE: [Circuit.whole(model.graph)]}
        arms |= {name: [circuit_of(model.graph, sets, number)] for name, sets in found.variants.items()}
        arms |= random_circuits(located, study.settings.seed, number)
        return {arm: _measured(model, prompt, listed, located, candidates) for arm, listed in arms.items()}


@dataclass(frozen=True)
class ControlAlone(Spec[Alone]):
    """Circuits that must recall less if recall is about facts: located for answers that the model does not hold, by the
    same algorithm, which is to bring them to the log probability that the circuit of the same fact keeps (``like``).

    ``facts`` are some of those of ``like``, with other answers or, under ``control`` "untrained", the same ones asked
    of a model that learned nothing.
    """

    facts: Spec[FactSet]
    like: LocatedFacts
    control: str = ""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self.facts, self.like)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, like = study.result(self.facts), study.result(self.like)
        numbers = places_of(facts, study.result(self.like.facts))
        candidates = first_tokens(facts.prompts)
        for prompt, number in zip(facts.prompts, numbers, strict=True):
            bar = float(like.numbers["bar"][number])
            depends_on = {**like.settings, "tokens": prompt.content, "candidates": candidates, "bar": bar}
            make = partial(self._run, study, prompt, bar, candidates)
            yield prompt_task(study, study.precise(self.control), "control circuits alone", depends_on, make)

    def read(self, study: Study, entries: Iterator[Entry]) -> Alone:
        return _alone(entries)

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, PASSES["kc"])

    def _run(self, study: Study, tokens: TokenizedExample, bar: float, candidates: Sequence[int]) -> Arrays:
        model = study.hold(
            DecomposedModel, study.precise(self.control), lambda lm: nullcontext(DecomposedModel(lm))
        )
        prompt = model.prompt(tokens)
        located = faithful(model, [prompt], bar=bar).circuit
        arms = {LOCATED: located, WHOLE: Circuit.whole(model.graph)}
        return {arm: _measured(model, prompt, [one], located, candidates) for arm, one in arms.items()}


def places_of(some: FactSet, facts: FactSet) -> np.ndarray:
    """``[F]`` where in ``facts``, in one wording each, the facts of ``some`` stand, by their ids."""
    places = {fact.id: number for number, fact in enumerate(facts.facts)}
    return np.array([places[fact.id] for fact in some.facts], np.int64)


def first_tokens(prompts: Sequence[TokenizedExample]) -> list[int]:
    """The first tokens of all answers, among which ``candidate`` ranks."""
    return sorted({int(prompt.answer_ids[0]) for prompt in prompts})


def _alone(entries: Iterator[Entry]) -> Alone:
    rows = [entry.arrays for entry in entries]
    return Alone({arm: np.stack([row[arm] for row in rows]) for arm in (rows[0] if rows else ())})


def random_circuits(located: Circuit, seed: int, number: int) -> dict[str, list[Circuit]]:
    """Random circuits in the place of the one located for prompt ``number``, by arm."""
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


def _measured(
    model: DecomposedModel,
    prompt: Prompt,
    listed: Sequence[Circuit],
    located: Circuit,
    candidates: Sequence[int],
) -> np.ndarray:
    """``[circuits, 5]`` the columns of `Alone`."""
    kept = torch.from_numpy(np.stack([circuit.matrix for circuit in listed]))
    at_once = max(1, CHUNK_TOKENS // prompt.tokens)
    logits = model.run_each(prompt, kept, at_once)  # [circuits, rows, vocabulary]
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
