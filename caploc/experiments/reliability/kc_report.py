"""What every claim about circuits that run alone is measured on, and what its finding shows beside its own numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from caploc.experiments.facts import FactSet, facts_of
from caploc.experiments.facts.report import finding_of, require_known
from caploc.experiments.fidelity.circuits import FactCircuits, circuits, notes_of
from caploc.experiments.fidelity.prompts import fewer
from caploc.experiments.reliability.kc_alone import (
    DEGREES,
    LOCATED,
    RANDOM_ARMS,
    RANDOM_CIRCUITS,
    UNIFORM,
    WHOLE,
    Alone,
    run_facts_alone,
)
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import defined_mean

CONTROL_FACTS = 8
WRONG, UNTRAINED = "wrong answers", "an untrained model"


@dataclass(frozen=True, eq=False)
class MeasuredCircuits:
    """The facts, what circuits make of all of them (``every``) and of those that the model knows, and of answers that
    the model does not hold (``controls``), for which circuits are located as well. ``clusters`` and ``entered``, the
    share of the parameters in the matrices that edges enter, are those of the known facts."""

    facts: FactSet
    every: Alone
    known: Alone
    controls: Mapping[str, Alone]
    clusters: np.ndarray
    entered: np.ndarray


def measured_circuits(study: Study, cell: Cell) -> MeasuredCircuits:
    """What circuits make of the facts of the cell's dataset, in their original wording.

    Raises:
        NotRunError, FloorError: they cannot be had, or are not known.
    """
    facts = require_known(fewer(study, facts_of(study, cell.dataset or "", wordings=1)))
    every = run_facts_alone(study, facts)
    entered = circuits(study, facts).entered[facts.known]
    few = facts.head(CONTROL_FACTS)
    wrong = with_wrong_answers(few, study.model_for().max_length)
    controls = {WRONG: run_facts_alone(study, wrong, compared=False)} if len(wrong) else {}
    controls[UNTRAINED] = run_facts_alone(study, few, "untrained", compared=False)
    return MeasuredCircuits(
        facts, every, every.only(facts.known), controls, facts.clusters[facts.known], entered
    )


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
        facts=[facts.facts[number] for number in found],
        prompts=list(found.values()),
        fact=np.arange(len(found)),
        rank=facts.rank[chosen],
        log_prob=facts.log_prob[chosen],
    )


def circuit_finding(
    study: Study, found: MeasuredCircuits, cell: Cell, claim: str, quantity: str, **fields: Any
) -> Finding:
    """`finding_of` with what every claim about circuits that run alone shows beside its own numbers."""
    located = circuits(study, found.facts)
    quantities = {name: value for name, value in fields.pop("quantities").items() if math.isfinite(value)}
    return finding_of(
        study,
        found.facts,
        cell,
        claim,
        quantity,
        n=fields.pop("n", len(found.known)),
        quantities=quantities,
        settings={**located.settings, "random_circuits": RANDOM_CIRCUITS, "control_facts": CONTROL_FACTS},
        notes=[*notes_of(located), *_notes(found, located)],
        **fields,
    )


def recall_readings(found: MeasuredCircuits, top: int = 1) -> dict[str, float]:
    """The recall of the located circuits under other readings, and that of other cuts."""
    known, every = found.known, found.every
    return {
        "every token of the answer": defined_mean(known.recalled(top=top, ranked="worst")),
        "among the facts' answers": defined_mean(known.recalled(top=top, ranked="candidate")),
        "all facts, those not known too": defined_mean(every.recalled(top=top)),
        f"rank {1 if top > 1 else 10} or better": defined_mean(known.recalled(top=1 if top > 1 else 10)),
        **{cut: defined_mean(known.recalled(cut, top)) for cut in known.cuts},
        "median rank": float(np.median(known.of("first"))),
    }


def recall_controls(found: MeasuredCircuits, top: int = 1) -> dict[str, float]:
    """The recall of random circuits, and of circuits located for answers that the model does not hold."""
    shown = {f"random circuits, {arm}": defined_mean(found.known.recalled(arm, top)) for arm in RANDOM_ARMS}
    for name, alone in found.controls.items():
        shown[f"circuits located for {_of(name)}"] = defined_mean(alone.recalled(LOCATED, top))
        shown[f"the whole model, {_of(name)}"] = defined_mean(alone.recalled(WHOLE, top))
    for arm in (UNIFORM, DEGREES):
        shown[f"located edges in random circuits, {arm}"] = defined_mean(found.known.of("shared", arm))
    return shown


def _of(control: str) -> str:
    return control if control == WRONG else f"the answers in {control}"


def _notes(found: MeasuredCircuits, located: FactCircuits) -> list[str]:
    shared = {arm: defined_mean(found.known.of("shared", arm)) for arm in (UNIFORM, DEGREES)}
    notes = [
        f"random circuits with the degrees of the located ones have {shared[DEGREES]:.0%} of their edges, uniform ones "
        f"{shared[UNIFORM]:.0%}: the former are a weak control, the latter an easy one (random-circuit)"
    ]
    for name, alone in found.controls.items():
        own, whole = (int(alone.recalled(arm).sum()) for arm in (LOCATED, WHOLE))
        note = f"circuits located for {_of(name)} recall {own} of {len(alone)}, the whole model {whole}"
        gives = 2 * (own - whole) > len(alone)
        notes.append(f"{note}: a circuit gives what it was located for, known or not" if gives else note)
    if not located.settings["exact"]:
        notes.append(
            "EAP-IG estimates what edges do: in small models circuits of as many edges recall far less than exactly "
            "pruned ones, so that low recall may be the estimate's doing"
        )
    return notes
