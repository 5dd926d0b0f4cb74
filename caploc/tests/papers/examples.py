"""A claim of every kind of rule, with thresholds of its own, and findings that such a claim can be judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from caploc.findings import Cell, Finding
from caploc.papers import Claim, Margin, PrintedCell, PrintedNumber, Rule, RuleText
from caploc.papers.kinds import DERIVED, PARAMETERS

CELL = Cell("tiny-llama", "gsm8k", 6.0)
NAN = math.nan

THRESHOLDS: Mapping[str, Mapping[str, float]] = {
    "lower_bound": {"supported_above": 0.8, "refuted_below": 0.5},
    "upper_bound": {"supported_below": 0.01, "refuted_above": 0.02},
    "interval_below": {"supported_below": 0.4, "refuted_above": 0.5},
    "overlap_below": {"supported_below": 0.4, "refuted_above": 0.5},
    "within": {"supported_low": 10, "supported_high": 20, "refuted_low": 5, "refuted_high": 50},
    "lower_bounds": {"supported_above": 0.05, "refuted_below": 0.05},
    "both": {
        "overlap_supported_above": 0.8,
        "overlap_refuted_below": 0.5,
        "iou_supported_above": 0.7,
        "iou_refuted_below": 0.33,
    },
    "agreement": {},
    "readings": {},
    "difference": {"equivalence_margin": 0.05},
    "plain_difference": {"equivalence_margin": 0.05},
    "comparison": {"equivalence_margin": 0.05},
    "best_of": {"share": 0.66},
    "specificity": {"equivalence_margin": 0.05, "other_margin": 0.02, "other_refuted": 0.05},
    "equivalence": {"margin": 0.05, "share": 0.5},
    "non_inferiority": {"margin": 0.02},
    "above_chance": {"pair_level": 0.01, "refuted_level": 0.05},
    "partition": {"supported_below": 0.05, "refuted_above": 0.1},
    "trend": {"last_supported_below": 0.02, "last_refuted_above": 0.05},
    "monotone": {},
    "one_reading": {"low": 0.0005, "high": 0.006},
    "vanishing_error": {"supported_below": 0.01},
    "consistent": {},
    "untestable": {},
}
JUDGED = tuple(kind for kind in PARAMETERS if kind not in DERIVED)


def claim_of(kind: str, **fields: Any) -> Claim:
    """A claim whose rule is of this kind; ``fields`` replace the claim's own."""
    return Claim(
        **{
            "id": f"a-{kind}",
            "group": "A",
            "kind": "bound",
            "statement": "something is so",
            "sources": (),
            "quantity": "a quantity",
            "formula": "a formula",
            "direction": "high",
            "test": "a test",
            "cells": (PrintedCell("t/m/d", "table1", "96.42", "%", "tiny-llama", "gsm8k", "overlap"),),
            "numbers": (
                PrintedNumber("rise", "85.1", "%", "paper", "section 3.2"),
                PrintedNumber("fall", "14.9", "%", "paper", "section 3.2"),
                PrintedNumber("count", "15.3", "neurons", "paper", "section 3.1"),
            ),
            "margin": Margin("absolute", 0.05),
            "level": 0.05,
            "rule": Rule(kind, THRESHOLDS[kind]),
            "rule_text": RuleText("so", "not so", "otherwise"),
            "ambiguities": (),
            "controls": (),
            **fields,
        }
    )


def derived_of(*sources: str, universal: bool = False) -> Claim:
    """A claim that follows from others."""
    rule = Rule("derived", {"universal": float(universal)}, claims=sources)
    return claim_of("untestable", id="a-derived", rule=rule)


# numbers of which each rule says SUPPORTED, for its own part of them
WELL: Mapping[str, float] = {
    "baseline_gap:low": 0.05,
    "bound:rise:low": 0.1,
    "bound:rise:high": 0.2,
    "overlap_low": 0.9,
    "overlap_high": 0.95,
    "iou_low": 0.8,
    "iou_high": 0.9,
    "number:rise:low": 0.84,
    "number:rise:high": 0.86,
    "reading:mean:low": 0.84,
    "reading:mean:high": 0.86,
    "random_text_gap_low": 0.1,
    "random_text_gap_high": 0.3,
    "random_text_gap90_low": 0.12,
    "random_text_gap90_high": 0.28,
    "gap90_low": 0.1,
    "gap90_high": 0.2,
    "range_random_structured": 0.04,
    "worst_structured_gap_low": -0.01,
    "worst_structured_gap_high": 0.03,
    "trend_tau": 0.9,
    "rise": 0.3,
    "last_increment_low": -0.01,
    "last_increment90_high": 0.01,
    "ratio_std": 0.002,
    "ratio_variance": 0.9,
    "coarse": 0.9,
}
WELL_P: Mapping[str, float] = {
    "permutation": 0.001,
    "best": 0.01,
    "trend": 0.001,
    "reversal": 0.9,
    "pair:a": 0.001,
    "layer:a": 0.01,
}
INTERVALS: Mapping[str, tuple[float, float]] = {
    "lower_bound": (0.81, 0.9),
    "interval_below": (0.3, 0.39),
    "overlap_below": (0.3, 0.39),
    "within": (11, 19),
}
ESTIMATES: Mapping[str, float] = {"upper_bound": 0.009, "vanishing_error": 0.005, "consistent": 0}
PARTS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "comparison": {"one": (0.1, 0.2), "two": (0.06, 0.3)},
    "best_of": {"one": (0.1, 0.2), "two": (0.06, 0.3), "three": (-0.1, 0.1)},
    "specificity": {"own": (0.1, 0.2), "other": (-0.015, 0.01)},
    "equivalence": {"one": (-0.04, 0.01), "two": (0.02, 0.3)},
    "non_inferiority": {"one": (-0.01, 0.01), "two": (0.02, 0.3)},
}


def part_of(name: str, low: float, high: float, p: float = 0.01) -> dict[str, float]:
    """What a finding says of one part: estimate, both intervals (here the same) and p."""
    return {
        f"{name}:estimate": (low + high) / 2,
        f"{name}:low": low,
        f"{name}:high": high,
        f"{name}:low90": low,
        f"{name}:high90": high,
        name: p,
    }


def finding_of(kind: str, **numbers: Any) -> Finding:
    """A well supported finding of `claim_of`'s claim, in which the named numbers differ.

    A number of None is left out; a pair is a part's interval, such as ``**{"effect:one": (0.1, 0.2)}``.
    """
    fields: dict[str, Any] = {
        "estimate": ESTIMATES.get(kind, 0.5),
        "interval": INTERVALS.get(kind, (0.1, 0.2)),
        "published": None,
        "floor": None,
        "not_run": None,
    }
    fields |= {name: numbers.pop(name) for name in list(numbers) if name in fields}
    every: dict[str, float | None] = {**WELL, **WELL_P}
    for name, (low, high) in PARTS.get(kind, {}).items():
        every |= part_of(f"effect:{name}", low, high)
    for name, value in numbers.items():
        every |= part_of(name, *value) if isinstance(value, tuple) else {name: value}
    is_p = {name for name in every if name in WELL_P or (":" in name and not _is_quantity(name))}
    return Finding(
        f"a-{kind}",
        CELL,
        "overlap",
        quantities={name: value for name, value in every.items() if name not in is_p and value is not None},
        p_values={name: value for name, value in every.items() if name in is_p and value is not None},
        **fields,
    )


def _is_quantity(name: str) -> bool:
    return name.rpartition(":")[2] in ("low", "high", "low90", "high90", "estimate")
