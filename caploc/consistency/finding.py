"""The finding of a check: how many things it looked at, and a sentence on each that does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from caploc.findings import PRINTED, Cell, Finding
from caploc.papers import Claim


def consistent(
    claim: Claim,
    checked: int,
    violations: Sequence[str],
    remarks: Sequence[str] = (),
    quantities: dict[str, float] | None = None,
) -> Finding:
    """The finding for a claim whose rule is ``consistent``: its estimate is the number of violations.

    ``violations`` and ``remarks`` are whole sentences for the report; remarks explain, and count for nothing.
    """
    return Finding(
        claim=claim.id,
        cell=Cell(model=PRINTED),
        quantity=claim.quantity,
        unit="count",
        estimate=float(len(violations)),
        n=checked,
        quantities=quantities or {},
        notes=[*violations, *remarks],
    )
