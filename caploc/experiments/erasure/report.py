"""Put an erasure into a Finding, with everything a reader needs to judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caploc.experiments.erasure.arms import LARGEST, LAYER, LOCATED, TWIN
from caploc.experiments.erasure.measured import Erasures
from caploc.experiments.evaluation_data import EvaluationItems
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.papers import load_paper

PAPER = "capability_localization"
WHOSE = (
    "Table 3 does not say whose neurons a column erases: here each dataset is evaluated without the neurons located on "
    "its own locating part"
)


def finding_of(
    study: Study,
    items: Sequence[EvaluationItems],
    cell: Cell,
    claim: str,
    quantity: str,
    *,
    printed_for: str | None = None,
    printed_sigma: float | None = None,
    **fields: Any,
) -> Finding:
    """A Finding with the study's settings, the items and what was left out, and the number printed in Table 3.

    ``printed_for`` names the column of the table, a dataset or ``average``; None where no one number is quoted.
    """
    printed = None
    if printed_for is not None:
        printed = load_paper(PAPER).published(claim, cell.model, printed_for, sigma=printed_sigma)
    settings = {"sigma": cell.sigma, **study.record(), **fields.pop("settings", {})}
    for one in items:
        settings |= {f"{name}, {one.dataset}": value for name, value in one.prepared.settings.items()}
        settings[f"items, {one.dataset}"] = one.fingerprint[:16]
    finite = {
        name: float(value) for name, value in fields.pop("controls", {}).items() if math.isfinite(value)
    }
    if printed is None and printed_for is not None:  # nothing is compared with a printed number
        fields.setdefault("floor", next((one.floor for one in items if one.floor), None))
    departures = study.settings.reading.departures()
    return Finding(
        claim=claim,
        cell=cell,
        quantity=quantity,
        n=sum(len(one) for one in items),
        draws=fields.pop("draws", study.settings.draws),
        published=printed.printed if printed else None,
        settings=settings,
        controls=finite,
        notes=[
            *fields.pop("notes", ()),
            *(f"{len(one)} items of {one.dataset}" for one in items),
            *(note for one in items for note in one.notes),
            *(
                [f"another reading of the paper than the default: {', '.join(departures)}"]
                if departures
                else []
            ),
        ],
        **fields,
    )


def beside(one: Erasures) -> dict[str, float]:
    """Counts, losses and mean magnitudes of an erasure on the dataset it was located on, by names that end in it."""
    name = one.located_on
    base = one.own.base
    found = {
        f"neurons located, {name}": float(one.arms.located.count),
        f"base score, {name}": float(base["score"].mean()),
        f"chance, {name}": one.own.chance,
    }
    for arm in one.arms.sets:
        found[f"score, {arm}, {name}"] = float(one.of(name, arm).mean())
        found[f"nats lost, {arm}, {name}"] = float((one.of(name, arm, "nll") - base["nll"]).mean())
    for arm in (LOCATED, LAYER, LARGEST):
        if one.text:
            lost = float((one.text[arm] - one.text["base"]).mean())
            found[f"nats lost on general text, {arm}, {name}"] = lost
    found[f"answers that do not end, located, {name}"] = float(1 - one.of(name, LOCATED, "ended").mean())
    return found


def magnitudes(one: Erasures) -> dict[str, float]:
    """How large the neurons of every arm's sets are, over those located."""
    own = float(one.arms.magnitude[LOCATED][0])
    return {
        f"magnitude over that of the located, {arm}, {one.located_on}": float(np.mean(values)) / own
        for arm, values in one.arms.magnitude.items()
        if arm != LOCATED
    }


def plot_of(found: Mapping[str, Erasures], title: str) -> Plot:
    """Scores of every random set matched by layer, and those of the single sets, dataset by dataset."""
    marks: dict[str, dict[str, float]] = {}
    for dataset, one in found.items():
        marks.setdefault("untouched", {})[dataset] = float(one.own.base["score"].mean())
        for arm in (LOCATED, LARGEST, TWIN):
            if arm in one.arms.sets:
                marks.setdefault(arm, {})[dataset] = float(one.of(dataset, arm).mean())
    return Plot(
        "splits",
        title,
        {
            "groups": {dataset: one.of(dataset, LAYER).mean(1).tolist() for dataset, one in found.items()},
            "marks": marks,
            "chance": {dataset: one.own.chance for dataset, one in found.items()},
            "axis": "score; one dot a random set matched by layer",
        },
    )
