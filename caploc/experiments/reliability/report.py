"""What every claim about scaled activations is measured on, and what its finding shows beside its own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from caploc.experiments.facts.kn import DEFAULT
from caploc.experiments.facts.report import finding_of
from caploc.experiments.reliability.shares import require_change

from caploc.experiments.fact_methods import CUTS
from caploc.experiments.facts import FEWEST_FACTS, FactSet, facts_of, require_known
from caploc.experiments.scaled_facts import (
    ARMS,
    DOUBLED,
    LARGEST,
    LOCATED,
    RANDOM_ARMS,
    RANDOM_SETS,
    ZEROED,
    Scaled,
    scaled_facts,
)
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import defined_mean

DONE = {DOUBLED: "doubled", ZEROED: "zeroed"}


@dataclass(frozen=True, eq=False)
class Measured:
    """The facts, what scaling does to all of them (``every``), and to those that the model knows."""

    facts: FactSet
    every: Scaled
    known: Scaled


def measured(study: Study, cell: Cell) -> Measured:
    """What scaling does to the facts of the cell's dataset.

    Raises:
        NotRunError, FloorError: they cannot be had, or it says nothing.
    """
    facts = require_known(facts_of(study, cell.dataset or "", wordings=1))
    every = scaled_facts(study, facts)
    known, count = every.only(every.known), int(facts.known.sum())
    if len(known) < FEWEST_FACTS:
        raise FloorError(f"floor effect: KN locates nothing for {count - len(known)} of {count} known facts")
    return Measured(facts, every, require_change(known))


def reliability_finding(
    study: Study, found: Measured, cell: Cell, claim: str, quantity: str, **fields: Any
) -> Finding:
    """`finding_of` with what every claim about scaled activations shows beside its own numbers."""
    known = found.known
    notes = [
        f"the answers have P {np.exp(known.clean).mean():.3f} on average, so that log P can rise by {known.room:.2g} "
        "nats at most: the less, the less doubling can show"
    ]
    if len(found.every) < len(found.facts):
        notes.append(f"{len(found.facts) - len(found.every)} facts left out: no neuron is located for them")
    return finding_of(
        study,
        found.facts,
        cell,
        claim,
        quantity,
        n=len(known),
        quantities={**fields.pop("quantities", {}), **_beside(found)},
        controls=_controls(known),
        notes=[*notes, *fields.pop("notes", ())],
        settings={
            "threshold": CUTS[DEFAULT].threshold,
            "random_sets": RANDOM_SETS,
            "resolution_nats": float(known.resolution.max()),
        },
        **fields,
    )


def _beside(found: Measured) -> dict[str, float]:
    numbers = {
        f"nats, {name}, {arm}": defined_mean(found.known.change[:, done, ARMS[arm]])
        for done, name in DONE.items()
        for arm in ARMS
    }
    for done, name in DONE.items():
        numbers[f"as predicted, {name}, all facts"] = defined_mean(found.every.as_predicted(done, LOCATED))
    return {**numbers, "neurons located, mean": float(found.known.count.mean())}


def _controls(scaled: Scaled) -> dict[str, float]:
    """Shares that move as predicted under other neurons, and how well these match the located ones in magnitude."""
    found = {}
    for arm in (*RANDOM_ARMS, LARGEST):
        for done, name in DONE.items():
            found[f"as predicted, {name}, {arm}"] = defined_mean(scaled.as_predicted(done, arm))
    own = defined_mean(scaled.magnitude[:, ARMS[LOCATED]])
    for arm in (*RANDOM_ARMS, LARGEST):
        found[f"magnitude over that of the located, {arm}"] = (
            defined_mean(scaled.magnitude[:, ARMS[arm]]) / own
        )
    return found
