"""What every claim about scaled activations is measured on, and what its finding shows beside its own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caploc.experiments.facts.agreement import mean_of
from caploc.experiments.facts.fact_set import FEWEST_FACTS, FactSet, facts_of
from caploc.experiments.facts.kn import CUTS, DEFAULT
from caploc.experiments.facts.report import FloorError, finding_of, require_known
from caploc.experiments.facts.scaling import (
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
from caploc.experiments.reliability.shares import require_change
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding

DONE = {DOUBLED: "doubled", ZEROED: "zeroed"}


def measured(study: Study, cell: Cell) -> tuple[FactSet, Scaled, Scaled]:
    """The facts, what scaling does to all of them, and to those that are known. Raises NotRunError and FloorError."""
    facts = require_known(facts_of(study, cell.dataset or "", wordings=1))
    every = scaled_facts(study, facts)
    known = every.only(every.known)
    if len(known) < FEWEST_FACTS:
        raise FloorError(
            f"no neuron is located for {int(facts.known.sum()) - len(known)} of {int(facts.known.sum())} known facts"
        )
    return facts, every, require_change(known)


def reliability_finding(
    study: Study,
    facts: FactSet,
    every: Scaled,
    scaled: Scaled,
    cell: Cell,
    claim: str,
    quantity: str,
    **fields: Any,
) -> Finding:
    """`finding_of` with what every claim about scaled activations shows beside its own numbers."""
    notes = [
        f"log P(answer) could rise by {scaled.room:.2g} nats on average (mean P {np.exp(scaled.clean).mean():.3f}): the "
        "less, the less doubling can show"
    ]
    if len(every) < len(facts):
        notes.append(f"{len(facts) - len(every)} facts left out: no neuron is located for them")
    settings = {
        "threshold": CUTS[DEFAULT].threshold,
        "random_sets": RANDOM_SETS,
        "resolution_nats": float(scaled.resolution.max()),
    }
    return finding_of(
        study,
        facts,
        cell,
        claim,
        quantity,
        n=len(scaled),
        quantities={**fields.pop("quantities", {}), **_beside(every, scaled)},
        controls=_controls(scaled),
        notes=[*notes, *fields.pop("notes", ())],
        settings=settings,
        **fields,
    )


def _beside(every: Scaled, scaled: Scaled) -> Mapping[str, float]:
    found = {
        f"nats, {name}, {arm}": mean_of(scaled.change[:, done, ARMS[arm]])
        for done, name in DONE.items()
        for arm in ARMS
    }
    for done, name in DONE.items():
        found[f"as predicted, {name}, all facts"] = mean_of(every.as_predicted(done, LOCATED))
    return {**found, "neurons located, mean": float(scaled.count.mean())}


def _controls(scaled: Scaled) -> dict[str, float]:
    """Shares that move as predicted under other neurons, and how well these match the located ones in magnitude."""
    found = {}
    for arm in (*RANDOM_ARMS, LARGEST):
        for done, name in DONE.items():
            found[f"as predicted, {name}, {arm}"] = mean_of(scaled.as_predicted(done, arm))
    own = mean_of(scaled.magnitude[:, ARMS[LOCATED]])
    for arm in (*RANDOM_ARMS, LARGEST):
        found[f"magnitude over that of the located, {arm}"] = mean_of(scaled.magnitude[:, ARMS[arm]]) / own
    return found


def _is_there(scaled: Scaled, arm: str) -> bool:
    return bool(np.isfinite(scaled.change[:, :, ARMS[arm]]).all())
