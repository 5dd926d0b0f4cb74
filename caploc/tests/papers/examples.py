"""A claim of every kind of rule, with thresholds of its own, and findings that such a claim can be judged by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from caploc import findings
from caploc.findings import Bound, Cell, Chance, Count, Effect, Finding, Measurement, Number, Part, Reading
from caploc.papers import Claim, Margin, PrintedCell, PrintedFor, PrintedNumber, RuleText
from caploc.rules import RULES, Derived, Rule
from caploc.rules.levels import AboveTwin

CELL = Cell("tiny-llama", "gsm8k", 6.0)
NAN = math.nan

THRESHOLDS: Mapping[str, Mapping[str, Any]] = {
    "lower_bound": {"supported_above": 0.8, "refuted_below": 0.5},
    "upper_bound": {"supported_below": 0.01, "refuted_above": 0.02},
    "interval_below": {"supported_below": 0.4, "refuted_above": 0.5},
    "within": {"supported_low": 10, "supported_high": 20, "refuted_low": 5, "refuted_high": 50},
    "lower_bounds": {"supported_above": 0.05, "refuted_below": 0.05},
    "above_twin": {"supported_above": 0.8, "refuted_below": 0.5},
    "both": {
        "overlap_claim": "an-overlap",
        "iou_claim": "an-iou",
        "overlap": AboveTwin(supported_above=0.8, refuted_below=0.5),
        "iou": AboveTwin(supported_above=0.7, refuted_below=0.33),
    },
    "agreement": {},
    "readings": {"decides": "mean"},
    "no_more": {"margin": 0.1},
    "printed_or_direction": {"equivalence_margin": 0.05},
    "difference": {"equivalence_margin": 0.05},
    "beyond_twins": {},
    "plain_difference": {"equivalence_margin": 0.05},
    "comparison": {"equivalence_margin": 0.05},
    "best_of": {"share": 0.66},
    "specificity": {"equivalence_margin": 0.05, "other_margin": 0.02, "other_refuted": 0.05},
    "equivalence": {"margin": 0.05, "share": 0.5},
    "non_inferiority": {"margin": 0.02},
    "above_chance": {"pair_level": 0.01, "refuted_level": 0.05},
    "partition": {"margin": 0.1},
    "trend": {"last_supported_below": 0.02, "last_refuted_above": 0.05},
    "monotone": {},
    "one_reading": {"low": 0.0005, "high": 0.006},
    "vanishing_error": {"supported_below": 0.01},
    "consistent": {},
    "corrected_overlap": {"supported_below": 0.8, "refuted_above": 0.8},
    "untestable": {},
    "measured": {},
    "identity_below": {"identical": 0.5, "similar": 0.8},
    "recall_below": {"supported_below": 0.25, "refuted_above": 0.5},
}
COMPARISONS = (
    "difference",
    "beyond_twins",
    "plain_difference",
    "comparison",
    "best_of",
    "specificity",
    "above_chance",
    "printed_or_direction",
)
"""Rules that set located against something else; their claims state the effect that they are meant to detect."""
JUDGED = tuple(THRESHOLDS)


def rule_of(kind: str) -> Rule:
    """A rule of this kind with its thresholds above."""
    detectable = {"detectable": 0.1} if kind in COMPARISONS else {}
    return RULES[kind](**THRESHOLDS[kind], **detectable)


def claim_of(kind: str, **fields: Any) -> Claim:
    """A claim whose rule is of this kind; ``fields`` replace the claim's own."""
    return Claim(
        **{
            "id": f"a-{kind.replace('_', '-')}",
            "group": "A",
            "kind": "bound",
            "statement": "something is so",
            "sources": (),
            "quantity": "a quantity",
            "formula": "a formula",
            "direction": "high",
            "test": "a test",
            "cells": (PrintedCell("t/m/d", "table1", "96.42", "%", "tiny-llama", "gsm8k", "overlap", 6),),
            "numbers": (
                PrintedNumber("rise", "85.1", "%", "paper", "section 3.2"),
                PrintedNumber("fall", "14.9", "%", "paper", "section 3.2"),
                PrintedNumber("count", "15.3", "neurons", "paper", "section 3.1"),
            ),
            "printed_for": PrintedFor(("tiny-llama",), "gsm8k"),
            "margin": Margin("absolute", 0.05),
            "level": 0.05,
            "rule": rule_of(kind) if "rule" not in fields else fields["rule"],
            "rule_text": RuleText("so", "not so", "otherwise"),
            "ambiguities": (),
            "controls": (),
            **fields,
        }
    )


def derived_of(*sources: str, universal: bool = False) -> Claim:
    """A claim that follows from others."""
    return claim_of("untestable", id="a-derived", rule=Derived(claims=sources, universal=universal))


def effect(low: float, high: float, p: float = 0.01) -> Effect:
    """An effect whose two intervals are the same."""
    return Effect((low + high) / 2, (low, high), (low, high), p)


def bound(low: float, high: float) -> Bound:
    return Bound((low + high) / 2, (low, high))


def a_test(p: float, estimate: float | None = None) -> findings.Test:
    return findings.Test(estimate, p=p)


def pair(p: float, p_by_layer: float) -> Chance:
    return Chance(0.5, p=p, p_by_layer=p_by_layer)


# parts of which each rule says SUPPORTED
WELL: Mapping[str, Mapping[str, Part]] = {
    "lower_bounds": {"rise": bound(0.1, 0.2)},
    "above_twin": {"at full size": bound(0.9, 0.95), "beyond twins": effect(0.15, 0.3)},
    "both": {
        "overlap at full size": bound(0.9, 0.95),
        "overlap beyond twins": effect(0.15, 0.3),
        "iou at full size": bound(0.8, 0.9),
        "iou beyond twins": effect(0.15, 0.3),
    },
    "agreement": {"rise": Number(0.85, (0.84, 0.86))},
    "printed_or_direction": {"rise": Number(0.85, (0.84, 0.86)), "more": effect(0.1, 0.2)},
    "no_more": {"more": effect(-0.02, 0.03), "above chance": effect(0.1, 0.2)},
    "readings": {"mean": Reading(0.85, (0.84, 0.86))},
    "difference": {
        "scrambled gap": Effect(0.2, (0.1, 0.3), (0.12, 0.28)),
        "beyond twins": effect(0.15, 0.3),
        "permutation": a_test(0.001),
    },
    "comparison": {"one": effect(0.1, 0.2), "two": effect(0.06, 0.3)},
    "best_of": {
        "one": effect(0.1, 0.2),
        "two": effect(0.06, 0.3),
        "three": effect(-0.1, 0.1),
        "best": a_test(0.01),
    },
    "specificity": {"own": effect(0.1, 0.2), "other": effect(-0.015, 0.01)},
    "equivalence": {"one": effect(-0.04, 0.01), "two": effect(0.02, 0.3)},
    "non_inferiority": {"one": effect(-0.01, 0.01), "two": effect(0.02, 0.3)},
    "above_chance": {"a": pair(0.001, 0.01)},
    "partition": {"by length": effect(-0.02, 0.12), "by answer": effect(-0.1, 0.05)},
    "trend": {
        "rise": effect(0.1, 0.3),
        "last increment": Effect(0.0, (-0.01, 0.02), (-0.005, 0.01)),
        "smallest": bound(0.5, 0.7),
    },
    "monotone": {"trend": a_test(0.001), "reversal": a_test(0.9)},
    "one_reading": {"std": Count(0.002), "variance": Count(0.9)},
    "vanishing_error": {"coarse": Count(0.9)},
    "corrected_overlap": {"corrected overlap": bound(0.3, 0.4), "baseline gap": effect(0.05, 0.2)},
    "identity_below": {"corrected overlap": bound(0.2, 0.4), "baseline gap": effect(0.05, 0.2)},
    "recall_below": {"wrong answers": effect(0.05, 0.2), "an untrained model": effect(-0.1, 0.2)},
}
INTERVALS: Mapping[str, tuple[float, float]] = {
    "lower_bound": (0.81, 0.9),
    "interval_below": (0.3, 0.39),
    "within": (11, 19),
    "identity_below": (0.0, 0.1),
    "recall_below": (0.05, 0.2),
}
INTERVALS90: Mapping[str, tuple[float, float]] = {"partition": (-0.05, 0.09)}
ESTIMATES: Mapping[str, float] = {"upper_bound": 0.009, "vanishing_error": 0.005, "consistent": 0}


def finding_of(kind: str, parts: Mapping[str, Part | None] | None = None, **numbers: Any) -> Finding:
    """A well supported finding of `claim_of`'s claim, in which the named parts and numbers of the value differ.

    A part of None is left out.
    """
    every = {**WELL.get(kind, {}), **(parts or {})}
    value = (Effect if kind == "beyond_twins" else Part)(
        estimate=numbers.get("estimate", ESTIMATES.get(kind, 0.5)),
        interval=numbers.get("interval", INTERVALS.get(kind, (0.1, 0.2))),
        interval90=numbers.get("interval90", INTERVALS90.get(kind, (0.1, 0.2))),
    )
    found = Measurement(
        "overlap",
        value,
        {name: one for name, one in every.items() if one is not None},
        floor=numbers.get("floor"),
        not_run=numbers.get("not_run"),
    )
    return Finding(f"a-{kind.replace('_', '-')}", CELL, found, published=numbers.get("published"))


Place = tuple[str, str, int | None]
"""A part's name ("" for the value), a field, and which end of an interval."""


def places(finding: Finding) -> Iterator[Place]:
    """Where the finding's parts and its value have numbers."""
    found = finding.measurement
    for name, one in {**found.parts, "": found.value or Part()}.items():
        for field in fields(one):
            value = getattr(one, field.name)
            if isinstance(value, tuple):
                yield from ((name, field.name, end) for end in (0, 1))
            elif isinstance(value, float):
                yield name, field.name, None


def with_numbers(finding: Finding, numbers: Mapping[Place, float | None]) -> Finding:
    """The finding with other numbers in these places; one of None takes its field away."""
    found = finding.measurement
    every = {**found.parts, "": found.value or Part()}
    for (name, field, end), value in numbers.items():
        new: Any = value
        ends = getattr(every[name], field)
        if end is not None and value is not None and ends is not None:
            new = (value, ends[1]) if end == 0 else (ends[0], value)
        every[name] = replace(every[name], **{field: new})
    value_ = every.pop("")
    return replace(finding, measurement=replace(found, value=value_, parts=every))
