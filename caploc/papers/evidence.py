"""Reading a finding's numbers for a rule: each is there and a number, or it is said which is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from caploc.findings import Finding


class IncompleteFindingError(ValueError):
    """A finding lacks a number that the claim's rule reads: a defect of the experiment, not a result."""


class NotANumberError(Exception):
    """A number that the rule reads is nan; the message says which."""


@dataclass(frozen=True)
class Part:
    """One of the comparisons that a finding makes: its 95 % interval, or its 90 % one where the rule reads that."""

    name: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} [{num(self.low)}, {num(self.high)}]"

    def shown(self, *thresholds: float) -> str:
        """Name and interval, with digits enough to tell its ends from the thresholds."""
        return f"{self.name} {span(self.low, self.high, *thresholds)}"

    def within(self, margin: float) -> bool:
        """Whether it lies strictly closer to 0 than ``margin``."""
        return -margin < self.low <= self.high < margin


def estimate(finding: Finding) -> float:
    """The finding's estimate. Raises `NotANumberError` where it is missing, nan or infinite."""
    if finding.estimate is None or not math.isfinite(finding.estimate):
        raise NotANumberError(f"no estimate: {finding.quantity} is undefined here")
    return float(finding.estimate)


def interval(finding: Finding) -> tuple[float, float]:
    """The finding's interval (low, high), in order. Raises `NotANumberError`."""
    if finding.interval is None:
        raise NotANumberError(f"no interval for {finding.quantity}: too few draws or samples to give one")
    low, high = finding.interval
    require_order(low, high, finding.quantity)
    return low, high


def require_order(low: float, high: float, name: str) -> None:
    """Raises `NotANumberError` unless low <= high."""
    if not low <= high:  # nan included
        raise NotANumberError(f"{name}: interval [{num(low)}, {num(high)}] is undefined")


def quantities(finding: Finding, *names: str) -> list[float]:
    """The named quantities. Raises `IncompleteFindingError` and `NotANumberError`."""
    return [_named(finding, finding.quantities, "quantity", name) for name in names]


def part(finding: Finding, name: str, level: int = 95) -> Part:
    """The interval ``NAME:low``, ``NAME:high`` of one part, or its 90 % one. Raises as `quantities` does."""
    suffix = "" if level == 95 else str(level)
    low, high = quantities(finding, f"{name}:low{suffix}", f"{name}:high{suffix}")
    require_order(low, high, name)
    return Part(name.partition(":")[2], low, high)


def part_names(finding: Finding, prefix: str) -> list[str]:
    """Names ``prefix:PART`` of the parts a finding gives numbers for, in its order; there may be none."""
    named = [name.rpartition(":")[0] for name in finding.quantities if name.startswith(f"{prefix}:")]
    return list(dict.fromkeys(name for name in named if ":" in name))


def require_parts(finding: Finding, prefix: str) -> list[str]:
    """As `part_names`, of which there must be one. Raises `IncompleteFindingError`."""
    names = part_names(finding, prefix)
    if not names:
        raise IncompleteFindingError(
            f"the finding of {finding.claim!r} has no quantity '{prefix}:...', which its rule reads"
        )
    return names


def p_value(finding: Finding, name: str) -> float:
    """The named p value. Raises `IncompleteFindingError` and `NotANumberError`."""
    return _named(finding, finding.p_values, "p value", name)


def p_values(finding: Finding, prefix: str) -> list[float]:
    """All p values whose name begins so, at least one. Raises as `p_value` does."""
    names = [name for name in finding.p_values if name.startswith(prefix)]
    if not names:
        raise IncompleteFindingError(
            f"the finding of {finding.claim!r} has no p value '{prefix}...', which its rule reads"
        )
    return [p_value(finding, name) for name in names]


def _named(finding: Finding, numbers: Mapping[str, float], what: str, name: str) -> float:
    if name not in numbers:
        raise IncompleteFindingError(
            f"the finding of {finding.claim!r} lacks the {what} {name!r}, which its rule reads"
        )
    value = numbers[name]
    if value is None or math.isnan(value):
        raise NotANumberError(f"the {what} {name!r} is undefined here")
    return float(value)


def num(value: float, *thresholds: float) -> str:
    """``value`` with as few digits, from four on, as tell it from the thresholds it was compared with."""
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if not any(text == f"{other:.{digits}g}" and value != other for other in thresholds):
            return text
    return repr(float(value))


def span(low: float, high: float, *thresholds: float) -> str:
    """An interval, each end with digits enough to tell it from the thresholds."""
    return f"[{num(low, *thresholds)}, {num(high, *thresholds)}]"


def listed(items: list[str], most: int = 3) -> str:
    """The first few of many, and how many more there are."""
    rest = len(items) - most
    return "; ".join(items[:most]) + (f"; and {rest} more" if rest > 0 else "")
