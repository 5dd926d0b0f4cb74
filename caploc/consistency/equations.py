"""Equations (7), (8) and (12) as printed: what do they give where the right answer is known?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np

from caploc.consistency.facts import all_neurons, model_name, number, numbers, whole
from caploc.consistency.printed import consistent
from caploc.findings import Finding
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


def eq7_weights(paper: Paper, claim: Claim) -> Finding:
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


def eq8_unit(paper: Paper, claim: Claim) -> Finding:
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
    quantities = {"std": by_deviation} | {
        f"variance at {spread}": selected for spread, selected in share.items()
    }
    return consistent(claim, len(share), violations, remarks, quantities)


def eq12_zero(paper: Paper, claim: Claim) -> Finding:
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
    quantities = {f"score at {probability}": score for probability, score in scores.items()}
    return consistent(claim, len(scores), violations, remarks if violations else [], quantities)


CHECKS = {
    "print-eq7-weights": eq7_weights,
    "print-eq8-unit": eq8_unit,
    "print-eq12-zero": eq12_zero,
}
