"""What an experiment returns (Finding) and what a rule, fixed before the run, makes of it (Verdict).

Both are plain data: numbers, strings and small mappings, so that they cross process borders (pytest-xdist), go into
the ledger as JSON and can be judged again later by the same or another rule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PRINTED = "printed"
"""The model named in cells of checks that no model takes part in: the paper's printed numbers against each other."""
TOGETHER = "+"
"""Joins the labels of models that one cell compares."""


class Outcome(StrEnum):
    """The four ways a claim can end in one cell."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True)
class Verdict:
    """An outcome and the one sentence that says why, with the numbers that decided it."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Cell:
    """Where a claim was tested. ``dataset`` and ``sigma`` are None for claims that range over all of them.

    ``variant`` names the reading of the paper in a sensitivity run, such as ``quadrature=adaptive``; it is empty for
    the readings taken by default. A cell that compares models names them all, as in ``tiny-gptj+tiny-llama``.
    """

    model: str
    dataset: str | None = None
    sigma: float | None = None
    variant: str = ""

    @property
    def models(self) -> list[str]:
        """The model, or the models that the cell compares."""
        return self.model.split(TOGETHER)

    @property
    def label(self) -> str:
        """ASCII name used in test ids, plots and reports, such as ``llama2-7b-gsm8k-s6``."""
        parts = [self.model] + ([self.dataset] if self.dataset else [])
        parts += [f"s{self.sigma:g}"] if self.sigma is not None else []
        return "-".join(parts + ([self.variant.replace("=", "-")] if self.variant else []))


@dataclass(frozen=True)
class Plot:
    """One figure's data; ``kind`` names a drawing function of ``caploc.audit.plots``."""

    kind: str
    title: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One measurement of one claim in one cell.

    ``estimate``, ``interval``, ``chance`` and ``controls`` share ``unit``: "fraction", "count", or "share" for a
    fraction that is small by nature, or a name of its own such as "nats". ``quantities`` holds further named numbers
    that the claim's rule reads (the rule names them). ``p_values`` are corrected within the claim where it makes
    several comparisons; correction across cells is the auditor's business. ``not_run`` is a reason a user can act on;
    a Finding with it has no estimate. ``floor`` names a floor or ceiling effect that makes the measurement
    uninformative.
    """

    claim: str
    cell: Cell
    quantity: str
    unit: str = "fraction"
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    interval_kind: str = ""
    chance: float | None = None
    effect_size: float | None = None
    p_values: Mapping[str, float] = field(default_factory=dict)
    quantities: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    n: int = 0
    draws: int = 0
    published: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    not_run: str | None = None
    floor: str | None = None

    def to_json(self) -> dict[str, Any]:
        """This finding as JSON data; nan and infinities become None, numpy scalars become Python's."""
        return plain(dataclasses.asdict(self))


def plain(value: Any) -> Any:
    """``value`` as strict JSON data (no nan, no numpy, no tuples), for the ledger and for xdist's wire."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
