"""Put a commonality measurement into a Finding, with everything a reader needs to judge it."""

from __future__ import annotations

from typing import Any

from caploc.datasets import DATASETS
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.papers import load_paper

PAPER = "capability_localization"


def finding_of(study: Study, cell: Cell, claim: str, quantity: str, **fields: Any) -> Finding:
    """A Finding with the study's settings, sample count, exclusions and the paper's printed number filled in."""
    settings = {"sigma": cell.sigma, **study.record(cell.dataset), **fields.pop("settings", {})}
    notes = [*fields.pop("notes", ()), *_of_the_reading(study)]
    n = 0
    for dataset in [cell.dataset] if cell.dataset else study.available():
        located = study.located(dataset)
        n += len(located.tokenized)
        paper = DATASETS[dataset].paper_samples if dataset in DATASETS else None
        if paper is not None and len(located.tokenized) < paper:
            notes.append(
                f"{len(located.tokenized)} examples of {dataset}, the paper locates with {paper} (section 5.3); "
                "overlap grows with their number"
            )
        if located.excluded:
            notes.append(
                f"{len(located.excluded)} examples of {dataset} left out: longer than the model's context"
            )
    printed = load_paper(PAPER).published(claim, cell.model, cell.dataset, sigma=cell.sigma)
    return Finding(
        claim=claim,
        cell=cell,
        quantity=quantity,
        n=n,
        draws=study.settings.draws,
        published=printed.printed if printed else None,
        settings=settings,
        notes=notes,
        **fields,
    )


def _of_the_reading(study: Study) -> list[str]:
    departures, most = study.settings.reading.departures(), study.settings.neuron_path_samples
    notes = [f"another reading of the paper than the default: {', '.join(departures)}"] if departures else []
    if study.settings.attribution.path == "neuron" and most is not None:
        notes.append(
            f"at most {most} samples a dataset (neuron_path_samples), since each neuron is a run of its own; overlap "
            "grows with their number, so compare with other readings at the same number"
        )
    return notes
