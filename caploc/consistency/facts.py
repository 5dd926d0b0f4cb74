"""Sections 1, 3 and 4 and the poster on single facts: paraphrases, IPP and the coincidence rate of two tasks."""

from __future__ import annotations

import math
from fractions import Fraction

from caploc.consistency.arithmetic import difference, fewest_trials, rounding
from caploc.consistency.printed import (
    all_neurons,
    check,
    consistent,
    listed,
    model_name,
    number,
    numbers,
    place,
    share,
    whole,
)
from caploc.findings import Effect, Measurement
from caploc.model.registry import REGISTRY
from caploc.papers import Claim, Paper, PrintedNumber

CHANGES = ("doubled", "zeroed")
WHICH = ("located", "random")
PREDICTED = {"doubled": "rising", "zeroed": "falling"}
"""What the target's probability should do if the neurons express the fact."""
_OPPOSITE = {"rising": "falling", "falling": "rising"}
DECOUPLING_MODEL = "gptj-6b"
"""Section 4 names no model; section 3, whose method it uses, names this one."""


def disagreements(claim: Claim) -> tuple[int, list[str]]:
    """How many keys of a claim's numbers are printed in several places, and a sentence for each that differs there."""
    keys = list(dict.fromkeys(item.key for item in claim.numbers))
    repeated = [found for key in keys if len(found := numbers(claim, key)) > 1]
    violations = []
    for found in repeated:
        if len({item.value for item in found}) > 1:
            by_value: dict[str, list[PrintedNumber]] = {}
            for item in found:
                by_value.setdefault(item.printed, []).append(item)
            said = [f"{printed} in {listed(map(place, items))}" for printed, items in by_value.items()]
            key = found[0].key
            violations.append(f"{key[0].upper()}{key[1:]}: {listed(said)}.")
    return len(repeated), violations


@check("print-fidelity-numbers")
def fidelity_numbers(paper: Paper, claim: Claim) -> Measurement:
    """The overlaps of the three methods are the same in the introduction, section 3.1 and the poster."""
    checked, violations = disagreements(claim)
    by_place: dict[str, list[PrintedNumber]] = {}
    for item in claim.numbers:
        by_place.setdefault(place(item), []).append(item)
    best = {where: max(items, key=lambda item: item.value).key for where, items in by_place.items()}
    ranks = [
        f"{method} in {listed(w for w in best if best[w] == method)}"
        for method in dict.fromkeys(best.values())
    ]
    remarks = [f"The method with the largest overlap is {listed(ranks)}."] if len(ranks) > 1 else []
    return consistent(claim, checked, violations, remarks)


@check("print-fidelity-chance")
def fidelity_chance(paper: Paper, claim: Claim) -> Measurement:
    """KN's and ROME's overlaps stand on one scale: about the same would be expected by chance."""
    model = REGISTRY["gptj-6b"]
    kn, rome = share(number(claim, "KN overlap")), share(number(claim, "ROME overlap"))
    located, layers = number(claim, "KN neurons"), number(claim, "ROME layers")
    kn_chance = Fraction(located.printed) / all_neurons(model.name)
    rome_chance = Fraction(layers.printed) / model.layers
    ratio = float(rome_chance / kn_chance)
    margin = claim.margin.value if claim.margin else 1.0
    violations = [
        f"By chance ROME's {layers.printed} of {model.layers} layers overlap "
        f"{100 * float(rome_chance):.1f} % and KN's {located.printed} of {all_neurons(model.name)} neurons "
        f"{100 * float(kn_chance):.4f} %, {ratio:.0f} times less: the two overlaps cannot be compared."
    ]
    remarks = [
        f"KN's {float(100 * kn):.1f} % is {float(kn / kn_chance):.0f} times its chance level, ROME's "
        f"{float(100 * rome):.1f} % {float(rome / rome_chance):.1f} times its own. Neither chance level is "
        "printed, nor an overlap of unrelated facts."
    ]
    asides = {"kn_chance": float(kn_chance), "rome_chance": float(rome_chance)}
    agree = 1 / margin <= ratio <= margin
    return consistent(claim, 1, [] if agree else violations, remarks, asides)


@check("print-rewrites")
def rewrites(paper: Paper, claim: Claim) -> Measurement:
    """How often a fact is reworded is the same throughout section 3.1."""
    checked, violations = disagreements(claim)
    least = min(numbers(claim, "rewrites"), key=lambda item: item.value)
    variants = number(claim, "variants")
    remark = f"The original and {least.printed} rewrites are the {variants.printed} variants compared."
    explained = violations and whole(least) + 1 == whole(variants)
    return consistent(claim, checked, violations, [remark] if explained else [])


@check("print-chain-share")
def chain_share(paper: Paper, claim: Claim) -> Measurement:
    """The share of a circuit in all parameters is the same in the introduction and in section 3."""
    checked, violations = disagreements(claim)
    recalling = number(claim, "share of the chains that recall")
    remarks = [
        f"{place(recalling)} prints {recalling.printed} % for the chains that recall their fact, which may "
        f"be larger than others; {place(item)} prints it without that condition."
        for item in numbers(claim, "share of a chain")
        if violations and item.value == recalling.value
    ]
    return consistent(claim, checked, violations, remarks)


@check("print-kn-percentages")
def percentages(paper: Paper, claim: Claim) -> Measurement:
    """Samples whose target rises and samples whose target falls are all samples."""
    violations, remarks, sums = [], [], {}
    for change in CHANGES:
        for which in WHICH:
            rising, falling = (number(claim, f"{which} {change}, {way}") for way in _OPPOSITE)
            total = Fraction(rising.printed) + Fraction(falling.printed)
            reach = rounding(rising.printed) + rounding(falling.printed)
            what = f"{which} neurons {change}: {rising.printed} % rising and {falling.printed} % falling"
            sums[f"{which}_{change}"] = float(total)
            if reach.low > 100:
                violations.append(f"{what} add up to {float(total):.1f} %, more than rounding can.")
            elif total != 100:
                why = "rounding" if reach.high >= 100 else f"{float(100 - total):.1f} % of unchanged samples"
                remarks.append(f"{what} add up to {float(total):.1f} %, which {why} would explain.")
    remarks += _swapped_digits(claim)
    return consistent(claim, len(sums), violations, remarks, sums)


def _swapped_digits(claim: Claim) -> list[str]:
    """Where located and random would both add up to 100 with their last digits exchanged."""
    found = []
    for change in CHANGES:
        for way, other in _OPPOSITE.items():
            first, second = _located_and_random(claim, change, way)
            kept = _located_and_random(claim, change, other)
            swapped = first.printed[:-1] + second.printed[-1], second.printed[:-1] + first.printed[-1]
            sums = [Fraction(a) + Fraction(b.printed) for a, b in zip(swapped, kept, strict=True)]
            if swapped[0] != first.printed and sums == [100, 100]:
                found.append(
                    f"With their last digits exchanged, {first.printed} and {second.printed} would be "
                    f"{swapped[0]} and {swapped[1]}, and both rows would add up to 100 %."
                )
    return found


@check("print-kn-similar-to-random")
def similar_to_random(paper: Paper, claim: Claim) -> Measurement:
    """Located and random neurons act alike: their shares differ by less than the margin (two one-sided tests)."""
    samples = number(claim, "samples")
    margin = claim.rule.parameters["margin"]
    parts: dict[str, Effect] = {}
    notes = []
    for change, way in PREDICTED.items():
        located, random = _located_and_random(claim, change, way)
        found = difference(share(located), share(random), whole(samples))
        test = found.equivalence(margin)
        parts[change] = Effect(
            found.value,
            found.interval,
            (test.interval.low, test.interval.high),
            test.p,
            n=whole(samples),
            method="95 %, normal, unpaired",
        )
        note = (
            f"{change.capitalize()}: the target is {way} in {located.printed} % of the samples with "
            f"located and in {random.printed} % with random neurons, {100 * found.value:+.1f} points; at n "
            f"= {samples.printed} z is {found.z:.1f}, and the p value of equivalence within "
            f"{100 * margin:g} points {_p(test.p)}."
        )
        fewest = fewest_trials(share(located), share(random), claim.level)
        notes.append(f"{note} The interval leaves out 0 from n = {fewest} on." if fewest else note)
    notes.append(
        f"{place(samples)} prints the number of samples, for another experiment; here none is printed."
    )
    largest = max((one.estimate or 0.0 for one in parts.values()), key=abs)
    return Measurement(claim.quantity, Effect(largest), parts, n=whole(samples), notes=notes)


@check("print-kn-direction")
def direction(paper: Paper, claim: Claim) -> Measurement:
    """Doubling located neurons raises the target, and zeroing them lowers it, more often than random neurons do."""
    samples = whole(number(claim, "samples"))
    violations, asides = [], {}
    for change, way in PREDICTED.items():
        located, random = _located_and_random(claim, change, way)
        found = difference(share(located), share(random), samples)
        asides[f"{change}_z"] = found.z
        if found.value <= 0:
            violations.append(
                f"{change.capitalize()}, located neurons leave {located.printed} % of the samples {way}, "
                f"random ones {random.printed} %: {100 * found.value:+.1f} points, against what locating "
                f"predicts (z = {found.z:.1f} at n = {samples})."
            )
    return consistent(claim, len(PREDICTED), violations, (), asides)


@check("print-kn-ipp")
def kn_ipp(paper: Paper, claim: Claim) -> Measurement:
    """The poster's IPP of KN is located minus random, as its formula says."""
    ipp = number(claim, "IPP of KN")
    located, random = _located_and_random(claim, "doubled", PREDICTED["doubled"])
    value = Fraction(located.printed) - Fraction(random.printed)
    fits = rounding(ipp.printed).meets(rounding(located.printed) - rounding(random.printed))
    best_random = Fraction(located.printed) - Fraction(ipp.printed)
    violations = [
        f"{ipp.printed} is not {located.printed} minus {random.printed}, which is {float(value):.1f}; with "
        f"the best of several random sets it would be, had that one scored {float(best_random):.1f}."
    ]
    absolute, towards = Fraction(0), Fraction(0)
    for change in CHANGES:
        for way in _OPPOSITE:
            first, second = _located_and_random(claim, change, way)
            gap = Fraction(first.printed) - Fraction(second.printed)
            absolute += abs(gap) / 4
            towards += (gap if way == PREDICTED[change] else -gap) / 4
    remarks = [
        f"The mean of the four absolute differences is {float(absolute):.2f}; with the sign that locating "
        f"predicts, so that a change the wrong way counts against it, the mean is {float(towards):.1f}."
    ]
    asides = {"difference": float(value), "mean_absolute": float(absolute), "mean_signed": float(towards)}
    return consistent(claim, 1, [] if fits else violations, remarks, asides)


@check("print-rome-ipp")
def rome_ipp(paper: Paper, claim: Claim) -> Measurement:
    """ROME's IPP is possible: at most 0, as the layer that it edits is among those that it is compared with."""
    ipp = number(claim, "IPP of ROME")
    possible = rounding(ipp.printed).low <= 0
    violations = [
        f"{ipp.printed} is positive, though the best of all layers is at least as good as one of them."
    ]
    remarks = [
        "All layers are edited, the located one too, and the best of them is subtracted: this IPP is 0 or "
        "less whichever layer holds the fact, and so says nothing of it."
    ]
    return consistent(claim, 1, [] if possible else violations, remarks)


@check("print-kc-ipp")
def kc_ipp(paper: Paper, claim: Claim) -> Measurement:
    """KC's IPP is possible given its recall: the random circuit that it implies recalls between none and all."""
    ipp, recall = number(claim, "IPP of KC"), number(claim, "recall")
    baseline = Fraction(recall.printed) - Fraction(ipp.printed)
    reach = rounding(recall.printed) - rounding(ipp.printed)
    possible = reach.high >= 0 and reach.low <= 100
    violations = [
        f"{recall.printed} minus {ipp.printed} leaves the best random circuit {float(baseline):.1f} %."
    ]
    remarks = [
        f"{recall.printed} minus {ipp.printed} leaves {float(baseline):.1f} % for the best random circuit, "
        "which neither document describes: a missing detail, not an error."
    ]
    return consistent(claim, 1, [] if possible else violations, remarks if possible and baseline else [])


def _located_and_random(claim: Claim, change: str, way: str) -> tuple[PrintedNumber, PrintedNumber]:
    """The shares of samples whose target moves this ``way``, "rising" or "falling", under a change."""
    return number(claim, f"located {change}, {way}"), number(claim, f"random {change}, {way}")


def _p(value: float) -> str:
    return f"is {value:.3f}" if value >= 0.0005 else "is below 0.001"


@check("print-cr-same-task")
def same_task(paper: Paper, claim: Claim) -> Measurement:
    """C_r of a task with itself is what eq. (6) gives: every set is compared with itself, which is 100 %."""
    rates = numbers(claim, "rate of a task with itself")
    violations = [
        f"{rate.printed} %: for t = t*, eq. (6) intersects each set with itself, so that every rate is 100 %."
        for rate in rates
        if not rounding(rate.printed).contains(Fraction(100))
    ]
    return consistent(claim, len(rates), violations)


@check("print-cr-bound")
def bound(paper: Paper, claim: Claim) -> Measurement:
    """No rate exceeds what the poster's denominator, all neurons of the model, allows."""
    located = number(claim, "neurons per sample")
    samples = number(claim, "samples")
    neurons = all_neurons(DECOUPLING_MODEL)
    most = Fraction(located.printed) / neurons
    pairs, common = numbers(claim, "rate of two tasks"), numbers(claim, "rate of a task with itself")
    violations = []
    for rate in [*pairs, *common]:
        if rounding(rate.printed).low / 100 > most:
            needed = math.ceil(share(rate) * neurons)
            what = "in each sample" if rate in pairs else f"that all {samples.printed} samples have in common"
            violations.append(
                f"{rate.printed} % of {neurons} neurons ({model_name(DECOUPLING_MODEL)}) are {needed} {what}, "
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
    asides = {"largest_rate": float(most)}
    return consistent(claim, len(pairs) + len(common), violations, remarks if violations else [], asides)


@check("print-cr-order")
def order(paper: Paper, claim: Claim) -> Measurement:
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
