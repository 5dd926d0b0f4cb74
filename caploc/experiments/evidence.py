"""How statistics become evidence: estimates with their intervals as the typed parts that rules judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from caploc.findings import AnyPart, Bound, Cell, Effect, Number, Range
from caploc.papers import Claim
from caploc.rules.printed import HUNDREDTHS
from caploc.statistics import Change, Interval, holm_parts
from caploc.statistics import Effect as Compared


def _part(kind: type[AnyPart], estimate: float, interval: Interval, over: str = "", **fields: Any) -> AnyPart:
    method = f"95 %, {interval.kind}" + (f" over {over}" if over else "")
    return kind(float(estimate), _ends(interval), method=method, **fields)


bound = partial(_part, Bound)
"""A level with its 95 % interval; ``over`` says what was resampled, such as "items"."""
difference = partial(_part, Effect)
"""As `bound`, of a difference."""
number = partial(_part, Number)
"""As `bound`, of a number that is held against a printed one, ``at`` the coordinates of a table's cell."""


def printed_mark(claim: Claim, cell: Cell, key: str) -> float | None:
    """What the paper prints for ``key`` in this cell, in the unit of findings, to be drawn into a plot."""
    printed = claim.printed_number(cell, key)
    if printed is None:
        return None
    return float(printed.value) / (100 if printed.unit in HUNDREDTHS else 1)


def effect(change: Change, p: float | None = None, *, unit: str = "fraction") -> Effect:
    """A difference with both its intervals; its own p value, where it has one, unless ``p`` is a corrected one."""
    own, items = (change.p, change.items) if isinstance(change, Compared) else (None, 0)
    return difference(
        change.estimate,
        change.interval,
        interval90=_ends(change.interval90),
        p=own if p is None else p,
        unit=unit,
        n=items,
    )


def effects(found: Mapping[str, Compared], *, unit: str = "fraction") -> dict[str, Effect]:
    """Several effects of one measurement, their p values Holm-corrected over them."""
    corrected = holm_parts(found)
    return {name: effect(one, corrected[name], unit=unit) for name, one in found.items()}


def asides(found: Mapping[str, Change], before: str = "") -> dict[str, Effect]:
    """Effects that stand beside a verdict, each with its own p value."""
    return {f"{before}{name}": effect(one) for name, one in found.items()}


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers: nan and infinities left out."""
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _ends(interval: Interval) -> Range:
    return float(interval.low), float(interval.high)
