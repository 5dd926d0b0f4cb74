"""What each way to locate a circuit costs a fact, how far EAP-IG agrees with exact ablation, and who recalls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from scipy import stats

from caploc.benchmarks import Options
from caploc.benchmarks import circuits as cases
from caploc.benchmarks.circuits import Case, Sizes
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.tables import Table, Value
from caploc.circuits import Circuit, DecomposedModel, EdgeScores, Prompt, attribute_edges, edge_effects, prune

T = TypeVar("T")

_THRESHOLDS = (0.1, 0.01, 0.001)
_STEPS = (1, 5, 20)
_SHARE = 0.05


def measure_methods(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Rows of exact pruning, then of the scores of single edges."""
    table = Table(
        "methods",
        f"Locating one fact's circuit: time and agreement, means over {sizes.facts} facts",
        {
            "model": "model",
            "method": "method",
            "seconds": "CPU s a fact",
            "edges": "edges kept",
            "recall": "recalled first",
            "spearman": "Spearman",
            "lowest": "lowest",
            "magnitude": "of sizes",
        },
        notes=[
            f"recalled first: share of facts whose answer a circuit alone ranks first; of scores the top {_SHARE:.0%}",
            (
                "Spearman: rank correlation, over a fact's edges, with the exact effect of pruning each edge alone "
                "from the whole model; of sizes: of the absolute values"
            ),
        ],
    )
    made, missing = cases(sizes, sizes.facts)
    table.notes += missing
    for case in made:
        table.rows += _rows(case)
    yield table


def _rows(case: Case) -> Iterator[dict[str, Value]]:
    model = DecomposedModel(case.lm)
    prompts = [model.prompt(example) for example in case.examples]
    for threshold in _THRESHOLDS:
        locate = partial(_pruned, model, threshold)
        circuits, seconds = _timed(locate, prompts)
        yield _row(case, f"exact, threshold {threshold:g}", model, prompts, circuits, seconds)
    exact, seconds = _timed(lambda prompt: edge_effects(model, [prompt]), prompts)
    yield _scored(case, "exact, edge by edge", model, prompts, exact, seconds, exact)
    for steps in _STEPS:
        attribute = partial(_attributed, model, steps)
        scores, seconds = _timed(attribute, prompts)
        yield _scored(
            case, f"EAP-IG, {steps} steps" if steps > 1 else "EAP", model, prompts, scores, seconds, exact
        )


def _pruned(model: DecomposedModel, threshold: float, prompt: Prompt) -> Circuit:
    return prune(model, [prompt], threshold).circuit


def _attributed(model: DecomposedModel, steps: int, prompt: Prompt) -> EdgeScores:
    return attribute_edges(model, [prompt], steps)


def _timed(work: Callable[[Prompt], T], prompts: Sequence[Prompt]) -> tuple[list[T], float]:
    """What ``work`` makes of each prompt, and its CPU seconds a prompt."""
    made: list[T] = []
    work(prompts[0])  # untimed
    seconds = cpu_seconds(lambda: made.extend(map(work, prompts)))
    return made, seconds / len(prompts)


def _row(
    case: Case,
    method: str,
    model: DecomposedModel,
    prompts: list[Prompt],
    circuits: list[Circuit],
    seconds: float,
) -> dict[str, Value]:
    ranks = [
        int(model.ranks(prompt, model.run(prompt, torch.from_numpy(circuit.matrix)[None])))
        for prompt, circuit in zip(prompts, circuits, strict=True)
    ]
    return {
        "model": case.lm.name,
        "method": method,
        "seconds": seconds,
        "edges": float(np.mean([circuit.count for circuit in circuits])),
        "recall": float(np.mean([rank == 1 for rank in ranks])),
    }


def _scored(
    case: Case,
    method: str,
    model: DecomposedModel,
    prompts: list[Prompt],
    scores: list[EdgeScores],
    seconds: float,
    exact: list[EdgeScores],
) -> dict[str, Value]:
    pairs = [(one.values, other.values) for one, other in zip(scores, exact, strict=True)]
    signed = [float(stats.spearmanr(one, other).statistic) for one, other in pairs]
    sizes = [float(stats.spearmanr(abs(one), abs(other)).statistic) for one, other in pairs]
    circuits = [one.top(round(_SHARE * model.graph.edges)) for one in scores]
    return {
        **_row(case, method, model, prompts, circuits, seconds),
        "spearman": float(np.mean(signed)),
        "lowest": min(signed),
        "magnitude": float(np.mean(sizes)),
    }
