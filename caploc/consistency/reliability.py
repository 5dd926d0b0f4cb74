"""Section 3.2 and the poster's IPP: does changing what was located do more than changing something at random?"""

from __future__ import annotations

from fractions import Fraction

from caploc.consistency.arithmetic import difference, fewest_trials, rounding
from caploc.consistency.facts import number, place, share, whole
from caploc.consistency.printed import consistent
from caploc.findings import PRINTED, Cell, Finding
from caploc.papers import Claim, Paper, PrintedNumber

CHANGES = ("doubled", "zeroed")
WHICH = ("located", "random")
PREDICTED = {"doubled": "rising", "zeroed": "falling"}
"""What the target's probability should do if the neurons express the fact."""
_OPPOSITE = {"rising": "falling", "falling": "rising"}


def percentages(paper: Paper, claim: Claim) -> Finding:
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


def similar_to_random(paper: Paper, claim: Claim) -> Finding:
    """Located and random neurons act alike: their shares differ by less than the margin (two one-sided tests)."""
    samples = number(claim, "samples")
    margin = claim.rule.parameters["margin"]
    quantities: dict[str, float] = {}
    p_values, notes, estimates = {}, [], []
    for change, way in PREDICTED.items():
        located, random = _located_and_random(claim, change, way)
        found = difference(share(located), share(random), whole(samples))
        test = found.equivalence(margin)
        part = f"effect:{change}"
        estimates.append(found.value)
        p_values[part] = test.p
        ends = {"low": found.interval[0], "high": found.interval[1]}
        ends |= {"low90": test.interval.low, "high90": test.interval.high}
        quantities |= {f"{part}:{end}": value for end, value in ends.items()}
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
    return Finding(
        claim=claim.id,
        cell=Cell(model=PRINTED),
        quantity=claim.quantity,
        estimate=max(estimates, key=abs),
        n=whole(samples),
        p_values=p_values,
        quantities=quantities,
        notes=notes,
    )


def direction(paper: Paper, claim: Claim) -> Finding:
    """Doubling located neurons raises the target, and zeroing them lowers it, more often than random neurons do."""
    samples = whole(number(claim, "samples"))
    violations, quantities = [], {}
    for change, way in PREDICTED.items():
        located, random = _located_and_random(claim, change, way)
        found = difference(share(located), share(random), samples)
        quantities[f"{change}_z"] = found.z
        if found.value <= 0:
            violations.append(
                f"{change.capitalize()}, located neurons leave {located.printed} % of the samples {way}, "
                f"random ones {random.printed} %: {100 * found.value:+.1f} points, against what locating "
                f"predicts (z = {found.z:.1f} at n = {samples})."
            )
    return consistent(claim, len(PREDICTED), violations, (), quantities)


def kn_ipp(paper: Paper, claim: Claim) -> Finding:
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
    quantities = {"difference": float(value), "mean_absolute": float(absolute), "mean_signed": float(towards)}
    return consistent(claim, 1, [] if fits else violations, remarks, quantities)


def rome_ipp(paper: Paper, claim: Claim) -> Finding:
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


def kc_ipp(paper: Paper, claim: Claim) -> Finding:
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


CHECKS = {
    "print-kn-percentages": percentages,
    "print-kn-similar-to-random": similar_to_random,
    "print-kn-direction": direction,
    "print-kn-ipp": kn_ipp,
    "print-rome-ipp": rome_ipp,
    "print-kc-ipp": kc_ipp,
}
