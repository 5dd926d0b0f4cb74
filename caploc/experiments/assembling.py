"""The one place where a measurement becomes a finding: claim, printed number, provenance, exclusions and readings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from caploc.experiments.specs import NotRunError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Measurement
from caploc.papers import Claim


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
    """How the study reads the paper otherwise than by default."""
    departures, most = study.settings.reading.departures(), study.settings.neuron_path_samples
    notes = [f"another reading of the paper than the default: {', '.join(departures)}"] if departures else []
    if study.settings.attribution.path == "neuron" and most is not None:
        notes.append(
            f"at most {most} samples a dataset (neuron_path_samples), since each neuron is a run of its own; overlap "
            "grows with their number, so compare with other readings at the same number"
        )
    return notes
