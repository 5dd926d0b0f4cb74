"""The circuits benchmark: how much faster is exact pruning than one forward pass an edge, what does each way to locate
a circuit cost a fact, and how far do pruning in blocks and EAP-IG agree with exact pruning?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from scipy import stats

import caploc
from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Rounds, disagreement, timed
from caploc.benchmarks.models import DATA, random_examples, random_llama
from caploc.benchmarks.tables import Table, Value, at_least
from caploc.circuits import (
    Circuit,
    DecomposedModel,
    EdgeScores,
    Prompt,
    Pruning,
    attribute_edges,
    edge_effects,
    faithful,
    prune,
)
from caploc.circuits.pruning import RESOLUTION
from caploc.examples import TokenizedExample, tokenize
from caploc.locators.knowledge_circuit import THRESHOLD
from caploc.model.loading import LanguageModel, load_model
from caploc.statistics import defined_mean
from caploc.tests.oracles.circuits import prune_directly

T = TypeVar("T")

# An effect this many resolutions from the threshold is a tie, which rounding may decide either way.
_TIE = 3

_THRESHOLDS = (0.1, 0.01, 0.001)
_FAITHFULNESS = (0.5, 0.8, 0.9)
_STEPS = (1, 5, 20)
_SHARE = 0.05


@dataclass(frozen=True)
class Sizes:
    """``layers`` of the random Llama; prompts of about ``tokens``; ``facts`` behind each row on methods.

    ``least_ratio`` by (model, threshold) is what caploc promises.
    """

    layers: int
    embedded: tuple[str, ...]
    thresholds: tuple[float, ...]
    tokens: int
    facts: int
    least_ratio: Mapping[tuple[str, float], float]


FULL = Sizes(
    layers=6,
    embedded=("tiny-llama", "tiny-gptj"),
    thresholds=(0.1, 0.01, 0.001, 0.0),
    tokens=12,
    facts=12,
    least_ratio=MappingProxyType({("tiny-llama", 0.01): 8.0, ("tiny-gptj", 0.01): 8.0}),
)

QUICK = Sizes(
    layers=2,
    embedded=(),
    thresholds=(0.01,),
    tokens=4,
    facts=1,
    least_ratio=MappingProxyType({}),
)


@dataclass(frozen=True)
class Case:
    """One model and the facts it is measured on."""

    name: str
    lm: LanguageModel
    examples: list[TokenizedExample]


def cases(table: Table, sizes: Sizes, facts: int) -> list[Case]:
    """A random Llama of the embedded one's shape and the embedded models, with ``facts`` facts each.

    The table notes which are missing, and why.
    """
    found = [table.made(name, partial(_embedded_case, name, sizes, facts)) for name in sizes.embedded]
    return [_random_case(sizes, facts), *(case for case in found if case is not None)]


def _embedded_case(name: str, sizes: Sizes, facts: int) -> Case:
    lm = load_model(name)
    examples = caploc.load_examples("counterfact", path=DATA, split="locate")
    tokenized = [tokenize(lm, example) for example in examples]
    # stable: the same on every call
    tokenized.sort(key=lambda example: abs(example.answer_start - sizes.tokens))
    return Case(name, lm, tokenized[:facts])


def _random_case(sizes: Sizes, facts: int) -> Case:
    lm = random_llama(
        sizes.layers,
        width=96,
        vocab_size=1280,
        intermediate_size=512,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        initializer_range=0.05,
    )
    return Case(f"random-{lm.name}", lm, random_examples(facts, sizes.tokens, 1))


def measure_speed(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per model and threshold."""
    table = Table(
        "speed",
        "Exact pruning of one fact, float32: CPU time of one forward pass an edge over caploc's",
        notes=[
            (
                "direct: caploc.tests.oracles.circuits, every edge one whole forward pass of the decomposed model; "
                "exact: caploc.circuits.prune, the prompt's clean pass included; every round takes another fact"
            ),
            (
                "left: edges of the circuit; differ: edges that only one of the two circuits has, over all rounds: an "
                "effect within rounding of the threshold may be decided either way, and later edges follow"
            ),
            (
                "forwards: the direct way's; states: circuits whose log probability caploc computed; = forwards: the "
                "heads and MLPs run for them, as whole forward passes (all are means over rounds)"
            ),
        ],
    )
    for case in cases(table, sizes, options.repeat):
        for threshold in sizes.thresholds:
            least = sizes.least_ratio.get((case.name, threshold))
            table.rows.append(_speed_row(case, threshold, least))
    yield table


def _speed_row(case: Case, threshold: float, least: float | None) -> dict[str, Value]:
    model, rounds = DecomposedModel(case.lm), Rounds()
    found: list[Pruning] = []
    differ = 0

    def exact(example: TokenizedExample) -> Pruning:
        return prune(model, [model.prompt(example)], threshold)

    def directly(example: TokenizedExample) -> Circuit:
        return prune_directly(model, [model.prompt(example)], threshold)

    exact(case.examples[0])  # untimed
    for example in rounds.over(case.examples, f"{case.name} {threshold:g}"):
        circuit = rounds.time("direct", partial(directly, example))
        found.append(rounds.time("exact", partial(exact, example)))
        differ += _differing(found[-1], circuit, RESOLUTION[case.lm.dtype])
    ratio, edges = rounds.ratio("direct", "exact"), model.graph.edges
    senders = sum(pruning.work.senders for pruning in found) / len(found)
    return {
        "model": case.name,
        "tokens": case.examples[0].answer_start,
        "threshold": f"{threshold:g}",
        "direct / exact": ratio,
        **at_least(ratio, least),
        "edges": edges,
        "left": round(sum(pruning.circuit.count for pruning in found) / len(found)),
        "differ": differ,
        "forwards": edges + 1,
        "states": round(sum(pruning.work.states for pruning in found) / len(found)),
        "= forwards": senders / (model.graph.senders - 1),
        "direct s": rounds.seconds("direct"),
        "exact s": rounds.seconds("exact"),
    }


def _differing(exact: Pruning, direct: Circuit, resolution: float) -> int:
    """How many edges only one of the two circuits has.

    Edges are visited in the reverse of their order, so the last one that differs was the first that was decided
    differently, on the same circuit: its effect must be a tie.
    """
    differing = torch.nonzero(exact.circuit.values != direct.values).flatten().tolist()
    if differing and abs(exact.scores[differing[-1]] - exact.threshold) > _TIE * resolution:
        effect = exact.scores[differing[-1]]
        raise disagreement(
            f"the two ways to prune decide differently on an edge of effect {effect:.2g}", "circuits"
        )
    return len(differing)


def measure_methods(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Rows of exact pruning, of pruning in blocks, then of the scores of single edges."""
    table = Table(
        "methods",
        f"Locating one fact's circuit: time and agreement, means over {sizes.facts} facts",
        notes=[
            f"recalled first: share of facts whose answer a circuit alone ranks first; of scores the top {_SHARE:.0%}",
            (
                "among exact: share of a circuit's edges that exact pruning at 0.01 nats keeps; by chance: of all "
                "edges that it keeps; overlap: eq. (9)'s with its circuit"
            ),
            (
                "Spearman: rank correlation, over a fact's edges, with the exact effect of pruning each edge alone "
                "from the whole model; of sizes: of the absolute values"
            ),
        ],
    )
    for case in cases(table, sizes, sizes.facts):
        table.rows += ({"model": case.name, **row} for row in _method_rows(case))
    yield table


def _method_rows(case: Case) -> Iterator[dict[str, Value]]:
    model = DecomposedModel(case.lm)
    prompts = [model.prompt(example) for example in case.examples]

    def pruned(threshold: float, prompt: Prompt) -> Circuit:
        return prune(model, [prompt], threshold).circuit

    def kept(share: float, prompt: Prompt) -> Circuit:
        return faithful(model, [prompt], share).circuit

    def attributed(steps: int, prompt: Prompt) -> EdgeScores:
        return attribute_edges(model, [prompt], steps)

    oracle = [pruned(THRESHOLD, prompt) for prompt in prompts]
    for threshold in _THRESHOLDS:
        circuits, seconds = _located(partial(pruned, threshold), prompts)
        method = f"exact, threshold {threshold:g}"
        yield {"method": method, "CPU s a fact": seconds, **_recall(model, prompts, circuits, oracle)}
    for share in _FAITHFULNESS:
        circuits, seconds = _located(partial(kept, share), prompts)
        method = f"blocks, {share:.0%} of log P"
        yield {"method": method, "CPU s a fact": seconds, **_recall(model, prompts, circuits, oracle)}
    exact, seconds = _located(lambda prompt: edge_effects(model, [prompt]), prompts)
    method = "exact, edge by edge"
    yield {"method": method, "CPU s a fact": seconds, **_agreement(model, prompts, exact, exact, oracle)}
    for steps in _STEPS:
        scores, seconds = _located(partial(attributed, steps), prompts)
        method = f"EAP-IG, {steps} steps" if steps > 1 else "EAP"
        yield {"method": method, "CPU s a fact": seconds, **_agreement(model, prompts, scores, exact, oracle)}


def _located(locate: Callable[[Prompt], T], prompts: Sequence[Prompt]) -> tuple[list[T], float]:
    """What ``locate`` makes of each prompt, and its CPU seconds a prompt."""
    locate(prompts[0])  # untimed
    seconds, made = timed(lambda: [locate(prompt) for prompt in prompts])
    return made, seconds / len(prompts)


def _recall(
    model: DecomposedModel, prompts: list[Prompt], circuits: list[Circuit], oracle: list[Circuit]
) -> dict[str, Value]:
    ranks = [
        int(model.ranks(prompt, model.run(prompt, torch.from_numpy(circuit.matrix)[None])))
        for prompt, circuit in zip(prompts, circuits, strict=True)
    ]
    return {
        "edges kept": float(np.mean([circuit.count for circuit in circuits])),
        "recalled first": float(np.mean([rank == 1 for rank in ranks])),
        "among exact": float(
            np.mean(
                [_common(one, other) / max(one.count, 1) for one, other in zip(circuits, oracle, strict=True)]
            )
        ),
        "by chance": float(np.mean([other.ratio for other in oracle])),
        "overlap": defined_mean(
            np.array([one.overlap(other) for one, other in zip(circuits, oracle, strict=True)])
        ),
    }


def _common(one: Circuit, other: Circuit) -> int:
    return int((one.values & other.values).sum())


def _agreement(
    model: DecomposedModel,
    prompts: list[Prompt],
    scores: list[EdgeScores],
    exact: list[EdgeScores],
    oracle: list[Circuit],
) -> dict[str, Value]:
    pairs = [(one.values, other.values) for one, other in zip(scores, exact, strict=True)]
    signed = [float(stats.spearmanr(one, other).statistic) for one, other in pairs]
    sizes = [float(stats.spearmanr(abs(one), abs(other)).statistic) for one, other in pairs]
    circuits = [one.top(round(_SHARE * model.graph.edges)) for one in scores]
    return {
        **_recall(model, prompts, circuits, oracle),
        "Spearman": float(np.mean(signed)),
        "lowest": min(signed),
        "of sizes": float(np.mean(sizes)),
    }
