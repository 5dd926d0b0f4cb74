"""Section 4 and the poster: what can the coincidence rate C_r of eq. (6) be?"""

from __future__ import annotations

import math
from fractions import Fraction

from caploc.consistency.arithmetic import rounding
from caploc.consistency.facts import all_neurons, listed, model_name, number, numbers, share
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.model.registry import REGISTRY
from caploc.papers import Claim, Paper

MODEL = "gptj-6b"
"""Section 4 names no model; section 3, whose method it uses, names this one."""


def same_task(paper: Paper, claim: Claim) -> Finding:
    """C_r of a task with itself is what eq. (6) gives: every set is compared with itself, which is 100 %."""
    rates = numbers(claim, "rate of a task with itself")
    violations = [
        f"{rate.printed} %: for t = t*, eq. (6) intersects each set with itself, so that every rate is 100 %."
        for rate in rates
        if not rounding(rate.printed).contains(Fraction(100))
    ]
    return consistent(claim, len(rates), violations)


def bound(paper: Paper, claim: Claim) -> Finding:
    """No rate exceeds what the poster's denominator, all neurons of the model, allows."""
    located = number(claim, "neurons per sample")
    samples = number(claim, "samples")
    neurons = all_neurons(MODEL)
    most = Fraction(located.printed) / neurons
    pairs, common = numbers(claim, "rate of two tasks"), numbers(claim, "rate of a task with itself")
    violations = []
    for rate in [*pairs, *common]:
        if rounding(rate.printed).low / 100 > most:
            needed = math.ceil(share(rate) * neurons)
            what = "in each sample" if rate in pairs else f"that all {samples.printed} samples have in common"
            violations.append(
                f"{rate.printed} % of {neurons} neurons ({model_name(MODEL)}) are {needed} {what}, "
                f"{float(needed / Fraction(located.printed)):.0f} times the {located.printed} located in "
                "one."
            )
    papers = [model for model, entry in REGISTRY.items() if entry.paper]
    loosest = min(papers, key=all_neurons)
    remarks = [
        f"{located.printed} neurons are {100 * float(most):.5f} % of {neurons}, and at most "
        f"{100 * float(Fraction(located.printed) / all_neurons(loosest)):.5f} % in any of the paper's "
        f"models ({model_name(loosest)}): the printed rates need another denominator, or other sets."
    ]
    quantities = {"largest_rate": float(most)}
    return consistent(claim, len(pairs) + len(common), violations, remarks if violations else [], quantities)


def order(paper: Paper, claim: Claim) -> Finding:
    """The rates that speak for tasks are larger than the one that speaks for subjects."""
    subject = number(claim, "rate of two tasks")
    tasks = numbers(claim, "rate of a task with itself")
    violations = [
        f"{task.printed} %, from which a commonality of the task is concluded, is smaller than "
        f"{subject.printed} %, from which it is concluded that the subject has none."
        for task in tasks
        if task.value <= subject.value
    ]
    remarks = [
        f"{subject.printed} % is a mean over pairs of samples, {listed(task.printed for task in tasks)} % "
        "what all samples have in common: the two are not comparable, and neither has a chance level."
    ]
    return consistent(claim, len(tasks), violations, remarks)


CHECKS = {
    "print-cr-same-task": same_task,
    "print-cr-bound": bound,
    "print-cr-order": order,
}
