"""Put a measurement across datasets into a Finding, with everything a reader needs to judge it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caploc.experiments.cross_dataset.matrix import Matrix
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.papers import load_paper

PAPER = "capability_localization"


def finding_of(
    study: Study, matrices: Sequence[Matrix], cell: Cell, claim: str, quantity: str, **fields: Any
) -> Finding:
    """A Finding with the study's settings, those of its matrices, what they leave out and the paper's number."""
    settings = {"sigma": cell.sigma, **study.record(), **fields.pop("settings", {})}
    for matrix in matrices:
        settings |= {f"{matrix.intervention}: {name}": value for name, value in matrix.settings.items()}
    printed = load_paper(PAPER).published(claim, cell.model, "average", sigma=cell.sigma)
    departures = study.settings.reading.departures()
    notes = [*fields.pop("notes", ()), *left_out(matrices)]
    notes += [f"another reading of the paper than the default: {', '.join(departures)}"] if departures else []
    return Finding(
        claim=claim,
        cell=cell,
        quantity=quantity,
        n=fields.pop("n", items_of(matrices)),
        draws=fields.pop("draws", 0),
        published=printed.printed if printed else None,
        settings=settings,
        notes=notes,
        **fields,
    )


def items_of(matrices: Sequence[Matrix]) -> int:
    """How many evaluation items the matrices rest on, each dataset's counted once."""
    items = {column: change.items for one in matrices for (_, column), change in one.changes.items()}
    return sum(items.values())


def left_out(matrices: Sequence[Matrix]) -> list[str]:
    """What the matrices leave out and why, in the words of each."""
    return [
        f"{matrix.intervention}, {place}: left out, {why}"
        for matrix in matrices
        for place, why in matrix.left_out.items()
    ]


def require_others(matrix: Matrix) -> Matrix:
    """``matrix``, if it has a cell off the diagonal.

    Raises:
        FloorError: floor or ceiling effects have left none.
        NotRunError: there is one dataset only.
    """
    if matrix.others:
        return matrix
    if matrix.left_out:
        raise FloorError("; ".join(left_out([matrix])))
    raise NotRunError("needs a second dataset to test on; give another --dataset")
