"""What the text states: equations (7), (8) and (12) where the right answer is known, constants against the defaults of
this audit, and what one document or section says against another.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction

import numpy as np

from caploc.consistency.printed import (
    all_neurons,
    cell_name,
    check,
    consistent,
    listed,
    model_name,
    number,
    numbers,
    place,
    whole,
)
from caploc.defaults import DEFAULTS
from caploc.findings import Measurement
from caploc.papers import Claim, Paper

SEED = 0
MODEL = "llama2-7b"
DEGREES_OF_FREEDOM = 2.6
"""Student's t with so many has tails about as heavy as Table 1 implies: 0.2 % lie outside 6 standard deviations."""

GRADIENTS: Mapping[str, tuple[Callable[[float], float], float]] = {
    "alpha^2": (lambda alpha: alpha**2, 1 / 3),
    "exp(-5 alpha)": (lambda alpha: math.exp(-5 * alpha), (1 - math.exp(-5)) / 5),
}
"""Gradients along the path, and their integrals from 0 to 1."""
LIMITATIONS_MODEL = "gpt2"
"""The only model that Appendix B says was used."""
_SIZE = re.compile(r"(\d+)b\b")


@check("print-eq7-weights")
def eq7_weights(paper: Paper, claim: Claim) -> Measurement:
    """The weights of eq. (7)'s sum add up to 1, so that a constant gradient gives its integral."""
    steps, first = whole(number(claim, "S")), whole(number(claim, "first n"))
    terms = steps + 1 - first
    total = Fraction(terms, steps)
    violations = [
        f"The sum over n = {first}..{steps} has {terms} terms and is divided by {steps}: a constant "
        f"gradient gives {float(total):.4f} times its integral."
    ]
    factors = {
        name: sum(gradient(n / steps) for n in range(first, steps + 1)) / steps / integral
        for name, (gradient, integral) in GRADIENTS.items()
    }
    remarks = [
        "The factor depends on the gradient's shape, so that neurons may change places: "
        + ", ".join(f"{factor:.3f} for {name}" for name, factor in factors.items())
        + "."
    ]
    return consistent(
        claim, 1, [] if total == 1 else violations, remarks, {"constant": float(total), **factors}
    )


@check("print-eq8-unit")
def eq8_unit(paper: Paper, claim: Claim) -> Measurement:
    """Eq. (8) selects the same neurons when all scores are multiplied by one number."""
    sigma = float(number(claim, "sigma").value)
    scores = np.random.default_rng(SEED).standard_t(DEGREES_OF_FREEDOM, all_neurons(MODEL))
    deviations = np.abs(scores - scores.mean()) / scores.std()
    # with standard deviation s the deviations are s times these and the variance is s^2
    share = {
        item.printed: float((deviations > sigma * float(item.value)).mean())
        for item in numbers(claim, "spread")
    }
    by_deviation = float((deviations > sigma).mean())
    violations = [
        f"With a standard deviation of {spread} of the scores, sigma = {sigma:g} times their variance "
        f"selects {100 * selected:.3f} % of the neurons, instead of {100 * by_deviation:.3f} % with sigma "
        "standard deviations."
        for spread, selected in share.items()
        if selected != by_deviation
    ]
    remarks = [
        f"Simulated: {scores.size} scores, as many as {model_name(MODEL)} has neurons, from Student's t "
        f"with {DEGREES_OF_FREEDOM} degrees of freedom (seed {SEED}). Scores are differences of "
        "probability, so their spread is far below 1: as printed, with the variance, the equation selects "
        "most neurons, and Table 1's ratios fit the standard deviation."
    ]
    asides = {"std": by_deviation} | {f"variance at {spread}": selected for spread, selected in share.items()}
    return consistent(claim, len(share), violations, remarks, asides)


@check("print-eq12-zero")
def eq12_zero(paper: Paper, claim: Claim) -> Measurement:
    """Eq. (12) gives an edge without effect the score 0, whatever the prompt."""
    signs = [whole(number(claim, f"sign of log p {which} the edge")) for which in ("without", "with")]
    scores = {}
    for item in numbers(claim, "probability of the target"):
        log_p = math.log(item.value)  # the same with and without the edge
        scores[item.printed] = sum(sign * log_p for sign in signs)
    violations = [
        f"An edge without effect scores {score:.3f} where the target has probability {probability}."
        for probability, score in scores.items()
        if score != 0
    ]
    remarks = [
        "Both logarithms have the sign minus, so that the score is that of the product, not of the ratio: "
        "a fixed threshold cuts circuits of sure and unsure prompts differently. The order of edges "
        "within one prompt is not affected."
    ]
    asides = {f"score at {probability}": score for probability, score in scores.items()}
    return consistent(claim, len(scores), violations, remarks if violations else [], asides)


def our_defaults() -> dict[str, Decimal]:
    """Our default for each printed constant that is a setting here, by the key of the claim's number."""
    # imported when it is asked for: the experiments bring torch, which no other check needs
    from caploc.datasets.loading import DATASETS
    from caploc.experiments.enhancement_arms import PRINTED_RATE
    from caploc.experiments.facts import PAPER_FACTS, PAPER_WORDINGS
    from caploc.experiments.premises import FIRST
    from caploc.locators.traced_layers import TOP_K
    from caploc.neurons import NeuronScores

    sigma = inspect.signature(NeuronScores.mask).parameters["sigma"].default
    samples = {
        f"{name.replace('_', '-')}-samples": Decimal(dataset.paper_samples)
        for name, dataset in DATASETS.items()
        if dataset.paper_samples is not None
    }
    return {
        "facts": Decimal(PAPER_FACTS),
        # pairs of prompts are facts of the dataset named decoupling
        "comparative-samples": Decimal(PAPER_FACTS),
        "wordings": Decimal(PAPER_WORDINGS),
        "rewrites": Decimal(PAPER_WORDINGS - 1),  # beside the prompt itself
        "top-layers": Decimal(TOP_K),
        "top-tokens": Decimal(FIRST),
        "steps": Decimal(DEFAULTS["steps"]),
        "sigma": Decimal(str(sigma)),
        "learning-rate": Decimal(str(PRINTED_RATE)),
        **samples,
    }


@check("general-protocol-counts")
def protocol(paper: Paper, claim: Claim) -> Measurement:
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
    remarks += [f"Of data and figures that no setting here chooses: {listed(rest)}."] if rest else []
    return consistent(claim, len(compared), violations, remarks)


@check("print-tables-agree")
def tables_agree(paper: Paper, claim: Claim) -> Measurement:
    """Paper and poster print the same digits in every cell of Tables 1, 2 and 3, and the same differences."""
    poster = {item.key: item for item in claim.numbers}
    violations, checked = [], 0
    for cell in paper.cells:
        for key, printed in ((cell.id, cell.printed), (f"{cell.id} change", cell.change)):
            if printed is None or cell.table == "table4":  # the poster has no Table 4
                continue
            checked += 1
            if key not in poster:
                violations.append(f"{cell_name(cell)}: {printed} is missing from the poster.")
            elif poster[key].printed != printed:
                violations.append(f"{cell_name(cell)}: {printed}, but {poster[key].printed} in the poster.")
    return consistent(claim, checked, violations)


@check("print-models-in-tables")
def models_in_tables(paper: Paper, claim: Claim) -> Measurement:
    """Every model of Table 1 has results in the other tables."""
    tables = list(dict.fromkeys(cell.table for cell in paper.cells))
    models = [list(dict.fromkeys(cell.model for cell in paper.table(table))) for table in tables]
    pairs = [(table, model) for table in tables[1:] for model in models[0]]
    violations = [
        f"{model_name(model)} is missing from Table {table.removeprefix('table')}."
        for table, model in pairs
        if model not in models[tables.index(table)]
    ]
    return consistent(claim, len(pairs), violations)


@check("print-other-datasets")
def other_datasets(paper: Paper, claim: Claim) -> Measurement:
    """Table 4 shows the little effect on other datasets that the poster states."""
    little = claim.margin.value if claim.margin else 0.0
    located = paper.table("table4", method="located")
    violations = [
        f"{cell.printed} points ({cell_name(cell)}) is no little effect, and the text of section 5.4 calls "
        "it a benefit."
        for cell in located
        if abs(cell.value) > 100 * little
    ]
    rest = [cell for cell in paper.table("table4") if cell.method == "all but located"]
    signs = {cell.value > 0 for cell in rest}
    said = listed(f"{cell.printed} ({model_name(cell.model)}, sigma {cell.sigma:g})" for cell in rest)
    remarks = [f"Training all but the located neurons gives {said}: the models share no pattern."]
    return consistent(claim, len(located), violations, remarks if len(signs) > 1 else [])


@check("general-limitations-models")
def limitations(paper: Paper, claim: Claim) -> Measurement:
    """The models that the limitations name are those of the tables."""
    largest = claim.numbers[0]
    models = list(dict.fromkeys(cell.model for cell in paper.cells))
    violations = []
    for model in models:
        size = _SIZE.search(model)
        said = ["that no model but GPT2 was tried"] if model != LIMITATIONS_MODEL else []
        if size and int(size[1]) > largest.value:
            said.append(f"that none has more than {largest.printed} billion parameters")
        if said:
            violations.append(
                f"The tables have {model_name(model)}, though the limitations say {listed(said)}."
            )
    remarks = [] if LIMITATIONS_MODEL in models else ["No table has a result of GPT2."]
    return consistent(claim, len(models), violations, remarks)
