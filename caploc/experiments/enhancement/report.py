"""Put a measurement of trained arms into a Finding, with everything a reader needs to judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from caploc.datasets import DATASETS
from caploc.experiments.enhancement.arms import LOCATED, RANDOM, RUNS, SEEDS
from caploc.experiments.enhancement.rates import GRID, HELD_OUT_EVERY, PRINTED_RATE
from caploc.experiments.enhancement.runs import EPOCHS, PAPER_DATASETS, Enhancements
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.fingerprints import fingerprint
from caploc.papers import PrintedCell, load_paper
from caploc.statistics import Effect, Interval

PAPER = "capability_localization"
LAST = EPOCHS[-1]

Trained = Mapping[str, Enhancements]
"""By dataset trained on."""


def finding_of(
    study: Study,
    trained: Trained,
    cell: Cell,
    claim: str,
    quantity: str,
    arms: Sequence[str] = (),
    **fields: Any,
) -> Finding:
    """A Finding with how the arms were trained, what they started from, and what is to be known of them.

    ``arms`` are those that the verdict rests on: where one of their runs diverged it is left out, and the verdict is
    INCONCLUSIVE, since leaving out what went wrong would favour the arm.
    """
    one = next(iter(trained.values()))
    beside = {f"base, {name}": float(values.mean()) for name, values in one.base_score.items()}
    beside |= {f"located on {name}": float(found.located.count) for name, found in trained.items()}
    return Finding(
        claim=claim,
        cell=cell,
        quantity=quantity,
        n=fields.pop("n", sum(len(one.base_score[name]) for name in trained)),
        draws=RUNS[RANDOM],
        quantities={**fields.pop("quantities", {}), **beside},
        p_values={name: p for name, p in fields.pop("p_values", {}).items() if math.isfinite(p)},
        settings={
            **one.study.record(),
            "sigma": cell.sigma,
            **_recipe(trained),
            **fields.pop("settings", {}),
        },
        notes=[*fields.pop("notes", ()), *_notes(study, trained)],
        floor=fields.pop("floor", None) or _divergence(trained, arms),
        **fields,
    )


def estimate_of(effect: Effect) -> dict[str, Any]:
    """The fields of a Finding that show one effect as its estimate."""
    return {
        "estimate": effect.estimate,
        "interval": (effect.interval.low, effect.interval.high),
        "interval_kind": f"95 %, {effect.interval.kind}",
        "effect_size": effect.effect_size,
    }


def beside(prefix: str, effects: Mapping[str, Effect]) -> dict[str, float]:
    """Quantities of effects that no rule reads."""
    return {
        name: value
        for part, effect in effects.items()
        for name, value in effect.quantities(f"{prefix}, {part}").items()
        if not name.endswith("90")
    }


def printed_cells(claim: str, cell: Cell) -> list[PrintedCell]:
    """The printed cells that a claim has for this model and sigma."""
    return [
        one
        for one in load_paper(PAPER).claim(claim).cells
        if one.matches({"model": cell.model, "sigma": cell.sigma})
    ]


def number_parts(
    cells: Sequence[PrintedCell], found: Mapping[tuple[str, int | None, str], tuple[float, Interval]]
) -> dict[str, float]:
    """Measured numbers by (method, epoch, dataset) as quantities: ``number:ID`` where the paper prints a cell for it,
    which the rule reads, and by their own name where it does not."""
    ids = {(one.method, one.epoch, one.dataset): one.id for one in cells}
    named: dict[str, float] = {}
    for key, (estimate, interval) in found.items():
        method, epoch, dataset = key
        words = ", ".join([str(method), *([f"{epoch} epochs"] if epoch else []), dataset])
        start = f"number:{ids[key]}" if key in ids else words
        ends = {"estimate": estimate, "low": interval.low, "high": interval.high}
        named |= {f"{start}:{end}": value for end, value in ends.items()}
    return named


def _recipe(trained: Trained) -> dict[str, Any]:
    one = next(iter(trained.values()))
    found: dict[str, Any] = {
        "checkpoint": one.study.model,
        "trained_on": list(trained),
        "evaluated_on": one.datasets,
        "optimizer": "Adam, constant rate, no decay",
        "trained_weights": "rows into the MLP, column out of it",
        "training_examples": {name: entry.examples for name, entry in trained.items()},
        "runs": dict(RUNS),
        "learning_rates": {name: dict(entry.rates.chosen) for name, entry in trained.items()},
        "data_fingerprint": fingerprint([entry.data_fingerprint for entry in trained.values()])[:16],
        **{name: value for name, value in one.recipe.items() if name not in ("lr", "seed")},
    }
    if one.rates.pilots:
        found["rate_grid"] = list(GRID)
        found["rate_pilots"] = {name: entry.rates.pilots for name, entry in trained.items()}
        found["pilot_of_located_at_printed_rate"] = {
            name: entry.rates.printed for name, entry in trained.items()
        }
    return found


def _notes(study: Study, trained: Trained) -> list[str]:
    one = next(iter(trained.values()))
    notes = []
    if one.study is not study:
        notes.append(
            f"{one.study.model}, an early checkpoint, is located and trained in place of {study.model}, which leaves "
            "nothing to learn"
        )
    if one.rates.pilots:
        notes.append(
            f"the printed rate {PRINTED_RATE:g} hardly moves so small a model: each arm has that rate of the grid with "
            f"the lowest loss on every {HELD_OUT_EVERY}th locating example in a pilot of as many epochs"
        )
    for name, entry in trained.items():
        paper = DATASETS[name].paper_samples if name in DATASETS else None
        if paper is not None and entry.examples < paper:
            notes.append(
                f"trained on {entry.examples} examples of {name}, the paper on {paper} (section 5.3)"
            )
        for run, step in zip(entry.runs, entry.diverged, strict=True):
            if step is not None:
                notes.append(
                    f"diverged on {name}: {run.arm}, set {run.draw}, seed {run.seed}, at step {step}"
                )
    if not set(PAPER_DATASETS) <= set(trained):
        notes.append(f"trained on {', '.join(trained)}; Table 2 has {', '.join(PAPER_DATASETS)}")
    departures = study.settings.reading.departures()
    if departures:
        notes.append(f"another reading of the paper than the default: {', '.join(departures)}")
    notes.append(f"{SEEDS} seeds of {LOCATED} and of the others, {RUNS[RANDOM]} random draws")
    return notes


def _divergence(trained: Trained, arms: Sequence[str]) -> str | None:
    lost = [
        f"{run.arm} on {name}"
        for name, entry in trained.items()
        for run, step in zip(entry.runs, entry.diverged, strict=True)
        if step is not None and run.arm in arms
    ]
    if not lost:
        return None
    return f"training diverged in {len(lost)} runs ({', '.join(dict.fromkeys(lost))}): the rate is too high"
