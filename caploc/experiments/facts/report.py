"""Put a measurement on facts into a Finding, with everything a reader needs to judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from caploc.experiments.endings import FloorError
from caploc.experiments.facts.fact_set import FEWEST_FACTS, PAPER_FACTS, FactSet
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.papers import load_paper
from caploc.statistics import Interval
from caploc.statistics.bootstrap import RESAMPLES

PAPER = "capability_localization"
NO_NUMBER = "the paper prints no number for this model"
PRINTED_FOR: Mapping[str, tuple[tuple[str, ...], str]] = {
    "A-fidelity": (("gptj-6b",), "counterfact"),
    "B-reliability": (("gptj-6b",), "zsre"),
    "C-decoupling": (("gptj-6b", "llama2-7b"), "decoupling"),
}
"""Group of claims -> the models and the dataset that its numbers are printed for (sections 3.1, 3.2; section 4 names no
model: ambiguity ``decoupling-model``)."""

OF_EQUATION_8 = ("dispersion", "scope", "deviation", "gsm8k-form")


def require_known(facts: FactSet) -> FactSet:
    """``facts``, if the model knows enough of them. Raises FloorError."""
    known = int(facts.known.sum())
    if known < FEWEST_FACTS:
        raise FloorError(f"the model does not know the facts ({known} of {len(facts)})")
    return facts


def finding_of(study: Study, facts: FactSet, cell: Cell, claim: str, quantity: str, **fields: Any) -> Finding:
    """A Finding with the study's settings, what is known and what was left out, and the paper's number filled in."""
    settings = {name: value for name, value in study.record().items() if name not in OF_EQUATION_8}
    settings |= {
        "data_fingerprint": facts.data_fingerprint,
        "facts": len(facts),
        "prompts": len(facts.prompts),
    }
    numbers = load_paper(PAPER).claim(claim).numbers
    return Finding(
        claim=claim,
        cell=cell,
        quantity=quantity,
        n=fields.pop("n", len(facts)),
        draws=fields.pop("draws", RESAMPLES),
        published=numbers[0].printed if numbers and number_is_printed(claim, cell) else None,
        controls={name: value for name, value in fields.pop("controls", {}).items() if math.isfinite(value)},
        settings={**settings, **fields.pop("settings", {})},
        notes=[*fields.pop("notes", ()), *_of_the_facts(facts), *_of_the_reading(study)],
        **fields,
    )


def number_is_printed(claim: str, cell: Cell) -> bool:
    """Whether the numbers that the paper prints for a claim are about this cell."""
    models, dataset = PRINTED_FOR.get(load_paper(PAPER).claim(claim).group, ((), ""))
    return cell.model in models and cell.dataset == dataset


def printed_floor(claim: str, cell: Cell) -> str | None:
    """Why a claim that is nothing but a printed number cannot be judged here; None where it can."""
    return None if number_is_printed(claim, cell) else NO_NUMBER


def interval_parts(
    claim: str, cell: Cell, found: Mapping[str, tuple[float, Interval]], prefix: str = "number"
) -> dict[str, float]:
    """Estimates and 95 % intervals as quantities ``PREFIX:KEY:low`` and so on, which the claim's rule reads, where the
    paper's numbers are about this cell, else the same without the prefix."""
    start = f"{prefix}:" if number_is_printed(claim, cell) else ""
    named: dict[str, float] = {}
    for key, (estimate, interval) in found.items():
        ends = {"estimate": estimate, "low": interval.low, "high": interval.high}
        named |= {f"{start}{key}:{end}": value for end, value in ends.items()}
    return named


def _of_the_facts(facts: FactSet) -> list[str]:
    known, notes = int(facts.known.sum()), list(facts.notes)
    if known < len(facts):
        notes.append(f"{len(facts) - known} of {len(facts)} facts left out: the model does not know them")
    lost = int((facts.known[facts.fact] & ~facts.right).sum())
    if lost:
        notes.append(f"{lost} further wordings of known facts left out: they change the model's answer")
    if len(facts) < PAPER_FACTS:
        notes.append(f"{len(facts)} facts; the paper takes {PAPER_FACTS}")
    return notes


def _of_the_reading(study: Study) -> list[str]:
    departures = study.settings.reading.departures()
    return [f"another reading of the paper than the default: {', '.join(departures)}"] if departures else []
