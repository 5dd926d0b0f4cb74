"""The printed coincidence rates (15.6, 7.3 and 8.6 %), and whether that of two tasks about one sum is low."""

from __future__ import annotations

from typing import Any

import numpy as np

from caploc.experiments.decoupling.readings import PAIRWISE, decay, one_task, two_tasks
from caploc.experiments.decoupling.tasks import TASKS, Located, located_of, unrelated_of, untrained_of
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.fact_methods import CUTS
from caploc.experiments.facts.kn import DEFAULT
from caploc.experiments.facts.report import finding_of, interval_parts, number_is_printed, printed_floor
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import bootstrap_mean, compare_pairs, defined_mean, off_diagonal_mean

OF_TASK = {"result": 0, "program": 1}
SAME_WORDS = (
    "prompts of one task share its words, too: what these do alone shows in the untrained twin's overlap"
)


@ends_in_a_finding
def rate_of_two_tasks(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``decoupling-cr12``: C(1, 2) of the prompts about the same sum; beside it that of different sums."""
    located = located_of(study, cell.dataset or "")
    first, second = located.sets
    found = two_tasks(first, second, study.settings.seed)
    estimate, interval = found["overlap"]
    different = {
        f"different sums, {name}": off_diagonal_mean(matrix(first, second))
        for name, matrix in PAIRWISE.items()
    }
    return decoupling_finding(
        study,
        located,
        cell,
        claim,
        "coincidence of two tasks about one sum, as overlap",
        estimate=estimate,
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over pairs",
        chance=defined_mean(np.diagonal(first.chance(second))),
        quantities={**interval_parts(claim, cell, found, "reading"), **different},
        floor=printed_floor(claim, cell),
        plots=[_matrix(located)],
    )


@ends_in_a_finding
def rate_of_a_task(study: Study, cell: Cell, claim: str, task: str) -> Finding:
    """Claims ``decoupling-cr11`` (``task`` "result") and ``decoupling-cr22`` ("program"): C(t, t)."""
    located = located_of(study, cell.dataset or "")
    sets = located.sets[OF_TASK[task]]
    found = one_task(sets, study.settings.seed)
    estimate, interval = found["overlap"]
    curve = decay(sets, study.settings.seed)
    shares = zip(curve["x"], curve["mean"], strict=True)
    return decoupling_finding(
        study,
        located,
        cell,
        claim,
        f"coincidence of different sums under one task ({task}), as overlap",
        estimate=estimate,
        interval=(interval.low, interval.high),
        interval_kind="95 %, bootstrap over prompts",
        chance=off_diagonal_mean(sets.chance()),
        quantities={
            **interval_parts(claim, cell, found, "reading"),
            **{f"in common to {size:g} prompts, of a prompt's own": share for size, share in shares},
        },
        floor=printed_floor(claim, cell),
        plots=[_decay(located, study.settings.seed)] if task == TASKS[0] else (),
    )


@ends_in_a_finding
def individual_low(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``decoupling-individual-low``: overlap of two tasks about one sum; beside it that of different sums."""
    located = located_of(study, cell.dataset or "")
    first, second = located.sets
    matrix = first.overlap(second)
    same = np.diagonal(matrix)
    alone = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    different = np.array(
        [defined_mean(np.concatenate([alone[one], alone[:, one]])) for one in range(len(matrix))]
    )
    usable = np.isfinite(same) & np.isfinite(different)
    spread = bootstrap_mean(same[usable], seed=study.settings.seed)
    gap = compare_pairs(same[usable], different[usable], seed=study.settings.seed)
    return decoupling_finding(
        study,
        located,
        cell,
        claim,
        "overlap of two tasks about one sum",
        n=int(usable.sum()),
        estimate=float(same[usable].mean()),
        interval=(spread.low, spread.high),
        interval_kind=f"95 %, {spread.kind} over pairs",
        chance=defined_mean(np.diagonal(first.chance(second))),
        effect_size=gap.effect_size,
        p_values={"permutation against different sums": gap.p},
        quantities={
            **interval_parts(claim, cell, {"rate": (float(same[usable].mean()), spread)}),
            **gap.quantities("same sum minus different sums"),
            "different sums": float(different[usable].mean()),
        },
        plots=[
            Plot(
                "splits",
                "Overlap of two tasks, same and different sums",
                {
                    "groups": {
                        "same sum": same[usable].tolist(),
                        "different sums": different[usable].tolist(),
                    },
                    "chance": defined_mean(np.diagonal(first.chance(second))),
                    "axis": "overlap, one dot a sum",
                    **({"published": {"same sum": 0.156}} if number_is_printed(claim, cell) else {}),
                },
            )
        ],
    )


def decoupling_finding(
    study: Study, located: Located, cell: Cell, claim: str, quantity: str, **fields: Any
) -> Finding:
    """`finding_of` with what every claim of section 4 shows beside its own numbers."""
    settings = {"threshold": CUTS[DEFAULT].threshold, **fields.pop("settings", {})}
    return finding_of(
        study,
        located.facts,
        cell,
        claim,
        quantity,
        n=fields.pop("n", len(located)),
        quantities={**fields.pop("quantities", {}), **_beside(located)},
        controls=study.once(
            ("decoupling controls", located.facts.data_fingerprint), lambda: _controls(study, located)
        ),
        settings=settings,
        notes=[SAME_WORDS, *fields.pop("notes", ())],
        **fields,
    )


def overlaps(first: LocatedSets, second: LocatedSets) -> dict[str, float]:
    """Mean overlaps of different sums within the tasks and across them, and of the same sums across."""
    across = first.overlap(second)
    return {
        f"{TASKS[0]}, different sums": off_diagonal_mean(first.overlap()),
        f"{TASKS[1]}, different sums": off_diagonal_mean(second.overlap()),
        "two tasks, different sums": off_diagonal_mean(across),
        "two tasks, same sum": defined_mean(np.diagonal(across)),
    }


def _beside(located: Located) -> dict[str, float]:
    found = {
        f"{task}, neurons located, mean": float(sets.counts.mean())
        for task, sets in zip(TASKS, located.sets, strict=True)
    }
    for name, (first, second) in located.variants.items():
        found |= {f"{name}: {which}": value for which, value in overlaps(first, second).items()}
    return found


def _controls(study: Study, located: Located) -> dict[str, float]:
    found = overlaps(*located.sets)
    found |= {
        f"untrained twin: {name}": value for name, value in overlaps(*untrained_of(study, located)).items()
    }
    unrelated = unrelated_of(study)
    if unrelated is not None:
        for task, sets in zip(TASKS, located.sets, strict=True):
            found[f"{task} against unrelated text"] = defined_mean(sets.overlap(unrelated))
    return found


def _matrix(located: Located) -> Plot:
    first, second = located.sets
    values, chance = overlaps(first, second), off_diagonal_mean(first.chance(second))
    across = values["two tasks, different sums"]
    rows = [
        [values[f"{TASKS[0]}, different sums"], across],
        [across, values[f"{TASKS[1]}, different sums"]],
    ]
    title = f"Overlap of neurons located for different sums (same sum, two tasks: {values['two tasks, same sum']:.3f})"
    return Plot("matrix", title, {"labels": list(TASKS), "values": rows, "chance": chance})


def _decay(located: Located, seed: int) -> Plot:
    curves = {task: decay(sets, seed) for task, sets in zip(TASKS, located.sets, strict=True)}
    sizes = curves[TASKS[0]]["x"]
    return Plot(
        "convergence",
        "What n prompts of a task have in common, of a prompt's own",
        {"x": sizes, "curves": curves},
    )
