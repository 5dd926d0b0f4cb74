"""The counts and constants that the paper prints, against the defaults of this audit."""

from __future__ import annotations

import inspect
from decimal import Decimal

from caploc.consistency.facts import listed, place
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper


def our_defaults() -> dict[str, Decimal]:
    """Our default for each printed constant that is a setting here, by the key of the claim's number."""
    # imported when it is asked for: the datasets bring torch, which no other check needs
    from caploc.datasets.loading import DATASETS
    from caploc.defaults import DEFAULTS
    from caploc.neurons import NeuronScores

    sigma = inspect.signature(NeuronScores.mask).parameters["sigma"].default
    samples = {
        f"{name.replace('_', '-')}-samples": Decimal(dataset.paper_samples)
        for name, dataset in DATASETS.items()
        if dataset.paper_samples is not None
    }
    return {"steps": Decimal(DEFAULTS["steps"]), "sigma": Decimal(str(sigma)), **samples}


def protocol(paper: Paper, claim: Claim) -> Finding:
    """Every printed constant that is a setting of this audit is its default for the paper's models."""
    ours = our_defaults()
    compared = [item for item in claim.numbers if item.key in ours]
    violations = [
        f"{item.key}: our default is {ours[item.key]}, {place(item)} prints {item.printed}."
        for item in compared
        if ours[item.key] != item.value
    ]
    rest = [f"{item.key} {item.printed}" for item in claim.numbers if item.key not in ours]
    remarks = [
        f"Equal to the printed ones are {len(compared) - len(violations)} of {len(compared)} defaults."
    ]
    remarks += [f"Not compared, as they are no settings here: {listed(rest)}."] if rest else []
    return consistent(claim, len(compared), violations, remarks)


CHECKS = {"general-protocol-counts": protocol}
