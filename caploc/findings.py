"""What an experiment returns (Measurement), what becomes of it for a claim (Finding), and the claim's Verdict.

Evidence is typed. A measurement has ``parts``, the numbers that its claim's rule judges, each an `Effect`, a `Bound`, a
`Count`...; apart from them stands what a reader may like to see: asides, controls, plots. A rule reads parts and
nothing else.

All of it is plain data: numbers, strings and small mappings, so that it crosses process borders (pytest-xdist), goes
into the ledger as JSON and can be judged again later by the same or another rule.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeVar

PRINTED = "printed"
"""The model named in cells of checks that no model takes part in: the paper's printed numbers against each other."""
TOGETHER = "+"
"""Joins the labels of models that one cell compares."""

Range = tuple[float, float]


class Outcome(StrEnum):
    """The ways a claim can end in one cell: three verdicts; a number without anything to hold it against; not run."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    MEASURED = "MEASURED"
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
        if self.sigma is not None:
            short = f"{self.sigma:g}"
            parts.append(f"s{short if float(short) == self.sigma else self.sigma}")
        return "-".join(parts + ([self.variant.replace("=", "-")] if self.variant else []))


@dataclass(frozen=True)
class Plot:
    """One figure's data; ``kind`` names a drawing function of ``caploc.audit.plots``."""

    kind: str
    title: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One number that a rule may judge.

    Attributes:
        estimate: in ``unit``; None where only a p value or an interval is judged.
        interval: its 95 % interval (low, high).
        interval90: its 90 % interval, whose place within a margin shows equivalence (two one-sided tests).
        p: corrected within the measurement where that makes several comparisons.
        unit: "fraction", "count", "share" for a fraction that is small by nature, or a name such as "nats".
        n: how many units (items, facts, prompts) the number rests on; 0 where that is not counted.
        method: how the interval was made, in words.
    """

    kind: ClassVar[str] = "part"

    estimate: float | None = None
    interval: Range | None = None
    interval90: Range | None = None
    p: float | None = None
    unit: str = "fraction"
    n: int = 0
    method: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, and the kind."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        set_ = {
            name: value for name, value in values.items() if value not in (None, "", 0) or name == "estimate"
        }
        return plain({"kind": self.kind, **set_})


class Effect(Part):
    """A difference, positive where it speaks for the claim: located against something else."""

    kind = "effect"


class Bound(Part):
    """A level that the rule holds against thresholds."""

    kind = "bound"


class Count(Part):
    """A number without sampling error: a share of neurons, a count of contradictions."""

    kind = "count"


class Test(Part):
    """A p value that decides by itself; the estimate, if any, is its statistic."""

    __test__ = False  # pytest collects classes of this name
    kind = "test"


class Reading(Part):
    """A number under one reading of an equation, held against the claim's printed number."""

    kind = "reading"


@dataclass(frozen=True)
class Number(Part):
    """A number held against a printed one.

    Attributes:
        at: the coordinates of the printed cell, such as ``{"method": "located", "epoch": 10, "dataset": "gsm8k"}``;
            empty where the part's name is the key of one of the claim's printed numbers.
    """

    kind: ClassVar[str] = "number"

    at: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chance(Part):
    """An overlap of two sets and whether chance explains it.

    Attributes:
        p: hypergeometric, in the whole model.
        p_by_layer: against random sets with the same count in every layer.
    """

    kind: ClassVar[str] = "chance"

    p_by_layer: float | None = None


AnyPart = TypeVar("AnyPart", bound=Part)
Aside = float | Part
"""What stands beside a verdict: a plain number, or one with its interval."""


class Basis(Protocol):
    """What a measurement rests on, such as the items evaluated: it says itself what a reader must know of it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Fingerprints, counts and options that a repetition needs."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was left out and why, in sentences."""
        ...


@dataclass(frozen=True)
class Measurement:
    """What an experiment found in one cell, whatever claim is judged by it.

    Attributes:
        quantity: what ``value`` is, in words.
        value: the number that the report shows for the cell, and that rules of one number judge. None where nothing
            could be measured.
        parts: further named numbers that the rule judges.
        chance, effect_size: of ``value``: its level by chance, and a standardized size.
        asides: what a reader may like to see and no rule reads.
        controls: the same quantity under controls.
        n: how many samples, items or facts ``value`` rests on; ``draws``: how many random sets or splits.
        basis: what it rests on, whose settings and notes the finding takes over.
        settings: further settings of this measurement; ``unused``: names of the study's settings that play no part.
        notes: sentences that a reader needs.
        column: the column of the printed table that the number belongs to, where that is not the cell's dataset.
        floor: a floor or ceiling effect that makes the measurement uninformative.
        not_run: why nothing was measured: a reason that a user can act on.
    """

    quantity: str
    value: Part | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    chance: float | None = None
    effect_size: float | None = None
    asides: Mapping[str, Aside] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    n: int = 0
    draws: int = 0
    basis: Sequence[Basis] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    unused: Collection[str] = ()
    notes: Sequence[str] = ()
    column: str | None = None
    plots: Sequence[Plot] = ()
    floor: str | None = None
    not_run: str | None = None

    def of(self, kind: type[AnyPart]) -> dict[str, AnyPart]:
        """The parts of one kind, by name, in order."""
        return {name: part for name, part in self.parts.items() if isinstance(part, kind)}


@dataclass(frozen=True)
class Finding:
    """A measurement as evidence on one claim in one cell, with its provenance.

    Attributes:
        published: the number that the paper prints for the cell, as printed; None where it prints none.
        settings: all that a repetition needs.
        notes: what a reader must know, in sentences.
    """

    claim: str
    cell: Cell
    measurement: Measurement
    published: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def dumps(self) -> str:
        """This finding as text that `loads` reads, nan and infinities included; without its basis, which its settings
        and notes speak of."""
        without = dataclasses.replace(self, measurement=dataclasses.replace(self.measurement, basis=()))
        return json.dumps(plain(without, finite=False))

    @classmethod
    def loads(cls, text: str) -> Finding:
        """Reads what `dumps` wrote."""
        data = json.loads(text)
        found = data["measurement"]
        found["value"] = _part(found["value"])
        for name in ("parts", "asides"):
            found[name] = {key: _part(one) for key, one in found[name].items()}
        found["plots"] = [Plot(**plot) for plot in found["plots"]]
        return cls(**{**data, "cell": Cell(**data["cell"]), "measurement": Measurement(**found)})

    def to_json(self) -> dict[str, Any]:
        """This finding as JSON data; nan and infinities become None, numpy scalars become Python's."""
        found = self.measurement
        value = found.value or Part(unit="")
        return plain(
            {
                "claim": self.claim,
                "cell": dataclasses.asdict(self.cell),
                "quantity": found.quantity,
                "unit": value.unit,
                "estimate": value.estimate,
                "interval": value.interval,
                "interval_kind": value.method,
                "interval90": value.interval90,
                "p": value.p,
                "chance": found.chance,
                "effect_size": found.effect_size,
                "parts": {name: part.to_json() for name, part in found.parts.items()},
                "asides": {
                    name: aside.to_json() if isinstance(aside, Part) else aside
                    for name, aside in found.asides.items()
                },
                "controls": {
                    name: control for name, control in found.controls.items() if math.isfinite(control)
                },
                "n": found.n,
                "draws": found.draws,
                "published": self.published,
                "settings": self.settings,
                "notes": self.notes,
                "plots": [dataclasses.asdict(plot) for plot in found.plots],
                "not_run": found.not_run,
                "floor": found.floor,
            }
        )


_KINDS: dict[str, type[Part]] = {
    one.kind: one for one in (Part, Effect, Bound, Count, Test, Reading, Number, Chance)
}


def _part(data: Any) -> Any:
    """A part from what `plain` made of it; anything else as it is."""
    if not isinstance(data, dict):
        return data
    ranges = {name: tuple(data[name]) for name in ("interval", "interval90") if data[name] is not None}
    values = {**data, **ranges}
    return _KINDS[values.pop("kind")](**values)


def plain(value: Any, finite: bool = True) -> Any:
    """``value`` as JSON data (no numpy, no tuples), for the ledger and for xdist's wire; strict, with None for nan and
    infinities, if ``finite``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": value.kind} if isinstance(value, Part) else {}
        value = kind | {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, finite) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return plain(value.tolist(), finite)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, finite) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) or not finite else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
