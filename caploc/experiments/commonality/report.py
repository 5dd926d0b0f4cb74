"""Put a commonality measurement into a Finding, with everything a reader needs to judge it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from caploc.datasets import DATASETS
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.papers import load_paper

PAPER = "capability_localization"

_Experiment = TypeVar("_Experiment", bound=Callable[..., Finding])


def finding_of(study: Study, cell: Cell, claim: str, quantity: str, **fields: Any) -> Finding:
    """A Finding with the study's settings, sample count, exclusions and the paper's printed number filled in."""
    settings = {"sigma": cell.sigma, **study.record(cell.dataset), **fields.pop("settings", {})}
    notes = list(fields.pop("notes", ()))
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
    return Finding(
        claim=claim,
        cell=cell,
        quantity=quantity,
        n=n,
        draws=study.settings.draws,
        published=load_paper(PAPER).published(claim, cell.model, cell.dataset),
        settings=settings,
        notes=notes,
        **fields,
    )


def not_run_if_unavailable(experiment: _Experiment) -> _Experiment:
    """Turn a NotRunError of ``experiment(study, cell, claim, ...)`` into a Finding that says so."""

    @functools.wraps(experiment)
    def run(study: Study, cell: Cell, claim: str, **options: Any) -> Finding:
        try:
            return experiment(study, cell, claim, **options)
        except NotRunError as error:
            return Finding(claim=claim, cell=cell, quantity=claim, not_run=str(error))

    return run  # type: ignore[return-value]
