"""Sections 1 and 3.1 and the poster on paraphrases of single facts: do their numbers agree?"""

from __future__ import annotations

from fractions import Fraction

from caploc.consistency.facts import all_neurons, listed, number, numbers, place, share, whole
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.model.registry import REGISTRY
from caploc.papers import Claim, Paper, PrintedNumber


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


def fidelity_numbers(paper: Paper, claim: Claim) -> Finding:
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


def fidelity_chance(paper: Paper, claim: Claim) -> Finding:
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
    quantities = {"kn_chance": float(kn_chance), "rome_chance": float(rome_chance)}
    agree = 1 / margin <= ratio <= margin
    return consistent(claim, 1, [] if agree else violations, remarks, quantities)


def rewrites(paper: Paper, claim: Claim) -> Finding:
    """How often a fact is reworded is the same throughout section 3.1."""
    checked, violations = disagreements(claim)
    least = min(numbers(claim, "rewrites"), key=lambda item: item.value)
    variants = number(claim, "variants")
    remark = f"The original and {least.printed} rewrites are the {variants.printed} variants compared."
    explained = violations and whole(least) + 1 == whole(variants)
    return consistent(claim, checked, violations, [remark] if explained else [])


def chain_share(paper: Paper, claim: Claim) -> Finding:
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


CHECKS = {
    "print-fidelity-numbers": fidelity_numbers,
    "print-fidelity-chance": fidelity_chance,
    "print-rewrites": rewrites,
    "print-chain-share": chain_share,
}
