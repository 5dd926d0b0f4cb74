"""How statistics become evidence, the typed parts that rules judge, and a measurement a finding: claim, printed number,
provenance, exclusions and readings are added in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from caploc.experiments.specs import NotRunError
from caploc.experiments.study import Study
from caploc.findings import AnyPart, Bound, Cell, Effect, Finding, Measurement, Number, Range
from caploc.model.loading import DTYPES
from caploc.papers import Claim
from caploc.rows.clean import HALF, how_checked
from caploc.rules.printed import HUNDREDTHS
from caploc.statistics import Change, Interval, holm_parts
from caploc.statistics import Effect as Compared


def _part(kind: type[AnyPart], estimate: float, interval: Interval, over: str = "", **fields: Any) -> AnyPart:
    method = f"{100 * interval.level:.4g} %, {interval.kind}" + (f" over {over}" if over else "")
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


def assemble(claim: Claim, cell: Cell, measurement: Measurement, studies: Sequence[Study] = ()) -> Finding:
    """The finding on ``claim`` in ``cell``.

    Args:
        studies: of the models measured; none for checks of what is printed. Where there are several, the settings of
            each are named after its model, and one that cannot be had here, which was left out, has none.
    """
    if measurement.not_run is not None:
        return Finding(claim.id, cell, measurement)
    settings: dict[str, Any] = {} if cell.sigma is None else {"sigma": cell.sigma}
    for study in studies:
        before = f"{study.model}: " if len(studies) > 1 else ""
        with suppress(NotRunError):
            settings |= {
                f"{before}{name}": value
                for name, value in study.record.items()
                if name not in measurement.unused
            }
    notes = list(measurement.notes)
    for basis in measurement.basis:
        settings |= basis.settings
        notes += basis.notes
    notes += _on_the_reading(studies[0]) if studies else []
    return Finding(
        claim.id,
        cell,
        measurement,
        published=claim.published(cell, measurement.column),
        settings={**settings, **measurement.settings},
        notes=list(dict.fromkeys(notes)),
    )


def _on_the_reading(study: Study) -> list[str]:
    """How the study reads the paper otherwise than by default, and how half precision is checked."""
    departures, most = study.settings.reading.departures(), study.settings.neuron_path_samples
    notes = [f"another reading of the paper than the default: {', '.join(departures)}"] if departures else []
    if DTYPES[study.settings.dtype] in HALF:
        notes.append(how_checked(DTYPES[study.settings.dtype]))
        notes.append("circuits, rank-one edits and neurons one at a time are measured in float32")
    if study.settings.attribution.path == "neuron" and most is not None:
        notes.append(
            f"at most {most} samples a dataset (neuron_path_samples), since each neuron is a run of its own; overlap "
            "grows with their number, so compare with other readings at the same number"
        )
    return notes
