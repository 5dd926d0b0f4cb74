"""How much less CPU time exact pruning takes than the direct way, for the same circuit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks import circuits as cases
from caploc.benchmarks.circuits import Case, Sizes
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.tables import Spread, Table, Value, at_least
from caploc.circuits import Circuit, DecomposedModel, Pruning, prune
from caploc.circuits.pruning import RESOLUTION
from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.tests.oracles.circuits import prune_directly

# An effect this many resolutions from the threshold is a tie, which rounding may decide either way.
_TIE = 3


def measure_speed(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per model and threshold."""
    table = Table(
        "speed",
        "Exact pruning of one fact, float32: CPU time of one forward pass an edge over caploc's",
        {
            "model": "model",
            "tokens": "tokens",
            "threshold": "threshold",
            "ratio": "direct / exact",
            "asked": "asked",
            "met": "met",
            "edges": "edges",
            "left": "left",
            "differ": "differ",
            "forwards": "forwards",
            "states": "states",
            "worth": "= forwards",
            "direct": "direct s",
            "exact": "exact s",
        },
        notes=[
            (
                "direct: caploc.circuits.reference, every edge one whole forward pass of the decomposed model; exact: "
                "caploc.circuits.prune, the prompt's clean pass included; every round takes another fact"
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
    made, missing = cases(sizes, options.repeat)
    table.notes += missing
    for case in made:
        for threshold in sizes.thresholds:
            table.rows.append(_row(case, threshold, sizes))
    yield table


def _row(case: Case, threshold: float, sizes: Sizes) -> dict[str, Value]:
    model = DecomposedModel(case.lm)
    found: list[Pruning] = []
    direct: list[Circuit] = []

    def exact(example: TokenizedExample) -> None:
        found.append(prune(model, [model.prompt(example)], threshold))

    def directly(example: TokenizedExample) -> None:
        direct.append(prune_directly(model, [model.prompt(example)], threshold))

    exact(case.examples[0])  # untimed
    found.clear()
    fast, slow = [], []
    title = f"{case.lm.name} {threshold:g}"
    for example in tqdm(case.examples, desc=title, unit="round", disable=None, leave=False):
        slow.append(cpu_seconds(partial(directly, example)))
        fast.append(cpu_seconds(partial(exact, example)))
    differ = sum(
        _differing(one, other, RESOLUTION[case.lm.dtype]) for one, other in zip(found, direct, strict=True)
    )
    rounds, edges = len(found), model.graph.edges
    ratio = Spread.of([one / other for one, other in zip(slow, fast, strict=True)])
    senders = sum(pruning.work.senders for pruning in found) / rounds
    return {
        "model": case.lm.name,
        "tokens": case.examples[0].answer_start,
        "threshold": f"{threshold:g}",
        "ratio": ratio,
        **at_least(ratio, sizes.least_ratio.get((case.lm.name, threshold))),
        "edges": edges,
        "left": round(sum(pruning.circuit.count for pruning in found) / rounds),
        "differ": differ,
        "forwards": edges + 1,
        "states": round(sum(pruning.work.states for pruning in found) / rounds),
        "worth": senders / (model.graph.senders - 1),
        "direct": Spread.of(slow),
        "exact": Spread.of(fast),
    }


def _differing(exact: Pruning, direct: Circuit, resolution: float) -> int:
    """How many edges only one of the two circuits has.

    Edges are visited in the reverse of their order, so the last one that differs was the first that was decided
    differently, on the same circuit: its effect must be a tie.
    """
    differing = torch.nonzero(exact.circuit.values != direct.values).flatten().tolist()
    if differing and abs(exact.scores[differing[-1]] - exact.threshold) > _TIE * resolution:
        raise ModelError(
            f"the two ways to prune decide differently on an edge of effect {exact.scores[differing[-1]]:.2g}, so "
            "their times say nothing; run `python -m pytest caploc/tests/circuits`"
        )
    return len(differing)
