"""Section 5.3: is what neurons are located for a commonality of the dataset (Table 1, Fig. 4, 5, 7, 8)?

The experiments of Table 1's numbers, of the comparisons with other text and with an untrained model, of partitions and
growing samples, and of the neurons that datasets share. `caploc.experiments.commonality_halves` names what they rest
on, and draws the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import numpy as np

from caploc.datasets import DATASETS
from caploc.experiments.commonality_halves import (
    BOOTSTRAP,
    LEAST_AGREEMENT,
    ORDERS,
    Across,
    Beyond,
    Exchanged,
    Growth,
    Halves,
    beyond_twins,
    bound_beyond,
    bound_of,
    bound_over,
    difference_of,
    empty_control,
    empty_masks,
    gained,
    mean,
    model_plots,
    pairwise,
    partition_plot,
    structured_overlaps,
    twins_of,
)
from caploc.experiments.dataset_types import types_of
from caploc.experiments.locating import LocatedOn, Scores, to_split, whole_mask, whole_ratio
from caploc.experiments.specs import NotRunError, Spec
from caploc.experiments.study import TWINS, Study, experiment
from caploc.findings import Aside, Bound, Cell, Chance, Count, Effect, Measurement, Part, Test
from caploc.neurons import Dispersion
from caploc.papers import Claim
from caploc.statistics import (
    Bootstrapped,
    OneMore,
    holm,
    hypergeometric_p,
    layer_matched_p,
    matched_overlaps,
    permutation_p,
    resampled_masks,
    subset_overlaps,
)
from caploc.statistics.splits import EXCHANGES
from caploc.streams import Stream, stream

PAPER_SIGMAS = (3.0, 6.0, 12.0)
FEWEST_SIZES = 3
SHARES = (0.125, 0.25)  # smaller subsets than half of the data, which stand beside
Quantity = Literal["overlap", "iou"]
Specs = Iterator[Spec[Any]]


# ------------------------------------------------------------------------------------------ the numbers of Table 1


def _needs_agreement(study: Study, cell: Cell, claim: Claim) -> Specs:
    dataset, sigma = _where(cell)
    yield from (Halves(dataset, sigma), Halves(dataset, sigma, "scrambled"))
    yield from _needs_twins(study, cell, claim)
    yield from (Across(dataset, other, sigma) for other in _others(study, dataset))


def _needs_twins(study: Study, cell: Cell, claim: Claim) -> Specs:
    """Twins' spread is that of all datasets."""
    dataset, sigma = _where(cell)
    yield Growth(dataset, sigma)
    yield from (Halves(name, sigma, twin) for name in _with(study, dataset) for twin in TWINS)


@experiment(_needs_agreement)
def overlap(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claims ``table1-overlap`` and ``abstract-gsm8k-overlap``: the overlap of the two halves' masks."""
    return _agreement(study, cell, "overlap")


@experiment(_needs_agreement)
def iou(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table1-iou``: the IoU of the two halves' masks."""
    return _agreement(study, cell, "iou")


@experiment(_needs_agreement)
def both_high(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table1-both-high``: overlap and IoU of ONE cell, both high. The value shown is the overlap."""
    found = _agreement(study, cell, "overlap")
    parts = {
        f"{quantity} {name}": part
        for quantity in get_args(Quantity)
        for name, part in at_full_size(study, cell, quantity).items()
    }
    return dataclasses.replace(found, parts=parts)


def _agreement(study: Study, cell: Cell, quantity: Quantity) -> Measurement:
    dataset, sigma = _where(cell)
    settings, shards = study.settings, study.result(Scores(dataset))
    halves = study.result(Halves(dataset, sigma))
    found = halves.mean(quantity)
    mask = whole_mask(shards, settings.threshold(sigma))
    null = matched_overlaps(mask.sum(1), shards.neurons, settings.seed, quantity)
    shown: dict[str, Aside] = {"located": float(mask.sum())}
    if np.isfinite(found.value) and np.isfinite(null).all():
        shown["matched random sets"] = Test(p=permutation_p(found.value, null))
    controls = {
        **_twins_shown(study, cell, quantity),
        "scrambled text": study.result(Halves(dataset, sigma, "scrambled")).mean(quantity).value,
    }
    for other in _others(study, dataset):
        controls[f"text of {other}"] = study.result(Across(dataset, other, sigma)).mean(quantity).value
    return Measurement(
        "IoU of two halves" if quantity == "iou" else "overlap of two halves",
        bound_of(found, _halves_of(study)),
        at_full_size(study, cell, quantity),
        chance=float(null.mean()),
        asides=shown,
        controls=controls,
        n=_samples(study, dataset),
        draws=settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        floor=empty_masks(halves, sigma),
    )


def at_full_size(study: Study, cell: Cell, quantity: Quantity = "overlap") -> dict[str, Part]:
    """Parts ``at full size``: how two halves agree at the paper's number of samples, by their curve where there are
    fewer, since these would refute its numbers by being few; and ``beyond twins`` (`over_twins`)."""
    dataset, sigma = _where(cell)
    size, there = _full_size(study, dataset)
    full = Beyond.of(study.result(Growth(dataset, sigma)), size, quantity)
    return {"at full size": bound_beyond(full, there), "beyond twins": over_twins(study, cell, quantity)}


def over_twins(study: Study, cell: Cell, quantity: Quantity = "overlap") -> Effect:
    """By how much halves agree more than those of 95 % of untrained twins, on as many examples as the twins have:
    agreement rises with their number in random weights, too, and two curves that nothing bounds cannot be subtracted.
    """
    dataset, sigma = _where(cell)
    names, curve = _with(study, dataset), study.result(Growth(dataset, sigma))
    twins = OneMore.of(twins_of(study, names, sigma, quantity), names.index(dataset))
    unbounded = Beyond.of(curve, _full_size(study, dataset)[0], quantity).unbounded
    few = _control_samples(study, dataset)
    of = f"{len(TWINS)} untrained twins, {few} samples, the twins' spread on {len(names)} datasets"
    return beyond_twins(curve.at(few, quantity), twins, unbounded, of)


def _twins_shown(study: Study, cell: Cell, quantity: Quantity = "overlap") -> dict[str, float]:
    """Controls: what halves of as many samples as the twins have agree by, of the model itself and of each twin."""
    dataset, sigma = _where(cell)
    few, (twins,) = _control_samples(study, dataset), twins_of(study, [dataset], sigma, quantity)
    return {
        f"itself at {few} samples": study.result(Growth(dataset, sigma)).at(few, quantity).value,
        **{f"twin {number} at {few} samples": float(one) for number, one in enumerate(twins, 1)},
    }


def _full_size(study: Study, dataset: str) -> tuple[int, str]:
    """The paper's number of samples, or that which is there where it is not smaller or the paper has none."""
    have = _samples(study, dataset)
    wanted = DATASETS[dataset].paper_samples if dataset in DATASETS else None
    if wanted is None or wanted <= have:
        return have, f"at {have} samples"
    return wanted, f"at the paper's {wanted} samples by the curve up to {have}"


def _needs_ratio(study: Study, cell: Cell, claim: Claim, dispersion: str | None = None) -> Specs:
    yield Scores(cell.dataset or "")


@experiment(_needs_ratio)
def neuron_ratio(study: Study, cell: Cell, claim: Claim, dispersion: str | None = None) -> Measurement:
    """Claims ``table1-neuron`` and ``eq8-literal-variance``: located over all neurons, on the whole set.

    ``dispersion`` is that of the study's reading unless given. The interval is a bootstrap over shards. Under "std" no
    more than 1/sigma^2 can pass (Chebyshev).
    """
    return _ratio(study, cell, cast(Dispersion | None, dispersion))


@experiment(_needs_ratio)
def default_sigma(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``method-default-sigma6``: which reading of eq. (8) selects as few neurons as Table 1 prints.

    The value shown is the share under the standard deviation; the shares under it at the other sigmas that the paper
    uses stand beside.
    """
    found = _ratio(study, cell, "std")
    shards, threshold = study.result(Scores(cell.dataset or "")), study.settings.threshold(_where(cell)[1])
    parts = {
        dispersion: Count(whole_ratio(shards, dataclasses.replace(threshold, dispersion=dispersion)))
        for dispersion in get_args(Dispersion)
    }
    swept = {
        f"std at sigma {sigma:g}": whole_ratio(
            shards, dataclasses.replace(threshold, sigma=sigma, dispersion="std")
        )
        for sigma in PAPER_SIGMAS
    }
    return dataclasses.replace(found, parts=parts, asides={**found.asides, **found.parts, **swept})


def _ratio(study: Study, cell: Cell, dispersion: Dispersion | None) -> Measurement:
    dataset, sigma = _where(cell)
    settings, shards = study.settings, study.result(Scores(dataset))
    threshold = settings.threshold(sigma)
    if dispersion is not None:
        threshold = dataclasses.replace(threshold, dispersion=dispersion)
    generator = stream(Stream.SHARDS, settings.seed)
    located = resampled_masks(to_split(shards, threshold), settings.draws, generator).sum((1, 2))
    ratios = located / shards.totals.shape[1]
    std = threshold.dispersion == "std"
    return Measurement(
        f"neuron ratio under {'the standard deviation' if std else 'the literal variance'}",
        dataclasses.replace(
            bound_over(ratios[1:], f"{settings.draws} bootstraps over shards"),
            estimate=float(ratios[0]),
            unit="share",
        ),
        {"Chebyshev bound": Count(1 / sigma**2)} if std else {},
        asides={"located": float(located[0]), "neurons": float(shards.totals.shape[1])},
        n=_samples(study, dataset),
        draws=settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        settings={"dispersion": threshold.dispersion},
        floor=None if located[0] else f"floor effect: no neuron passes sigma {sigma:g} on the whole set",
    )


# ------------------------------------------------------------------ against other text, and against an untrained model


def _needs_commonality(study: Study, cell: Cell, claim: Claim) -> Specs:
    dataset, sigma = _where(cell)
    yield from (Halves(dataset, sigma), Halves(dataset, sigma, "scrambled"))
    yield from _needs_twins(study, cell, claim)
    yield from (Across(dataset, other, sigma) for other in _others(study, dataset))
    yield from (Exchanged.of(dataset, other, sigma) for other in _of_another_kind(study, dataset))


@experiment(_needs_commonality)
def commonality(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table1-commonality``: two halves of one dataset overlap more than halves of two datasets of different
    kinds, more than two halves of scrambled text, and more than those of untrained twins.

    The value is the difference to the *nearest* dataset of another kind (math, program, language: section 5.2; any
    other dataset where there is none). Its p value comes from permuting shards between the two datasets; the largest
    over those datasets counts, which needs no correction, since every one must differ (an intersection-union test,
    Berger 1982).
    """
    dataset, sigma = _where(cell)
    within = study.result(Halves(dataset, sigma))
    others = _others(study, dataset)
    if not others:
        raise NotRunError("needs a second dataset to compare with; give another --dataset")
    between = {name: study.result(Across(dataset, name, sigma)) for name in others}
    means = {name: result.mean().value for name, result in between.items()}
    different = _of_another_kind(study, dataset)
    nearest = max(different, key=lambda name: np.nan_to_num(means[name], nan=-1.0))
    random_text = study.result(Halves(dataset, sigma, "scrambled"))
    few = _control_samples(study, dataset, "scrambled")
    own = study.result(Growth(dataset, sigma)).at(few)
    p = {name: study.result(Exchanged.of(dataset, name, sigma))[dataset] for name in different}
    return Measurement(
        "overlap within the dataset minus overlap with the nearest of another kind",
        difference_of(within.mean() - between[nearest].mean(), _halves_of(study)),
        {
            "scrambled gap": difference_of(own - random_text.mean(), f"halves of {few} samples"),
            "beyond twins": over_twins(study, cell),
            "permutation": Test(p=float(np.max(list(p.values())))),  # nan where one of them is
        },
        chance=mean(within.all.chance),
        asides={
            "within": within.mean().value,
            **{f"against {name}": Test(p=value) for name, value in p.items()},
        },
        controls={
            **{f"text of {name}": value for name, value in means.items()},
            "scrambled text": random_text.mean().value,
            **_twins_shown(study, cell),
        },
        n=_samples(study, dataset),
        draws=study.settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        settings={"nearest": nearest, "permutations": EXCHANGES},
        floor=empty_masks(within, sigma) or empty_control([random_text, between[nearest]], sigma),
    )


@experiment(_needs_twins)
def trained_minus_untrained(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Control ``control-untrained-overlap``: is a trained model's overlap above that of random weights?"""
    dataset, sigma = _where(cell)
    curve, shown = study.result(Growth(dataset, sigma)), _twins_shown(study, cell)
    twins = [study.result(Halves(dataset, sigma, twin)) for twin in TWINS]
    return Measurement(
        "half-split overlap of the model minus what 95 % of untrained twins stay below",
        over_twins(study, cell),
        chance=mean(np.concatenate([one.all.chance for one in twins])),
        asides={"trained": curve.at(_samples(study, dataset)).value},
        controls=shown,
        n=_control_samples(study, dataset),
        draws=study.settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        floor=empty_masks(curve.found[-1], sigma) or empty_control(twins, sigma),
    )


# ---------------------------------------------------------------------------------- other partitions, fewer samples


def _needs_halves(study: Study, cell: Cell, claim: Claim) -> Specs:
    yield Halves(*_where(cell))


@experiment(_needs_halves)
def independence(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table1-partition-independence``: "It is independent of our partitioning method of the dataset".

    The value is the mean overlap of random halves minus the mean of structured ones, which put the shorter prompts, the
    first answers in the alphabet, or the source's first records into one half; each structured one is a part of its
    own, with an interval that holds for all of them together (Bonferroni).
    """
    dataset, sigma = _where(cell)
    settings, shards = study.settings, study.result(Scores(dataset))
    halves = study.result(Halves(dataset, sigma))
    overlaps, structured = structured_overlaps(study, dataset, sigma, shards)
    over = f"{_halves_of(study)} against structured ones"
    together = 1 - 0.05 / len(structured)
    parts = {}
    for name, one in structured.items():
        ends = (halves.mean() - one).interval(together)
        parts[f"by {name}"] = Effect(
            halves.mean().value - one.value,
            (ends.low, ends.high),
            method=f"{100 * together:.1f} %, {BOOTSTRAP}, {over}",
        )
    defined = halves.all.overlap[np.isfinite(halves.all.overlap)]
    return Measurement(
        "overlap of random halves minus that of structured ones",
        difference_of(halves.mean() - Bootstrapped.mean(list(structured.values())), over),
        parts,
        chance=mean(halves.all.chance),
        asides={
            "mean over random splits": halves.mean().value,
            "standard deviation over random splits": float(defined.std(ddof=1))
            if len(defined) > 1
            else float("nan"),
            **{f"overlap by {name}": value for name, value in overlaps.items()},
        },
        n=_samples(study, dataset),
        draws=settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        settings={"shard_size": len(shards.members[0])},
        floor=empty_masks(halves, sigma),
        plots=partition_plot(study, cell, defined, overlaps),
    )


def no_trend(sizes: np.ndarray, defined: np.ndarray) -> str | None:
    """Why overlaps at these sample sizes show no trend; ``defined`` are those at which no mask is empty."""
    if defined.sum() >= FEWEST_SIZES and defined[-1]:
        return None
    every = ", ".join(map(str, sizes))
    if defined.all():
        return f"a trend takes {FEWEST_SIZES} sample sizes, and these data give {every}; give more data"
    empty = ", ".join(map(str, sizes[~defined])) if defined.any() else "every one"
    return f"floor effect: masks are empty at {empty} of the sample sizes {every}"


def _needs_growth(study: Study, cell: Cell, claim: Claim) -> Specs:
    dataset, sigma = _where(cell)
    yield from (Growth(dataset, sigma, control) for control in ("", "untrained"))
    yield Halves(dataset, sigma)


@experiment(_needs_growth)
def convergence(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claims ``convergence-*``: the overlap rises, and the last doubling up to the paper's number of samples adds
    little.

    Only sizes at which no mask is empty enter. The value is what the last doubling adds, on the curve (`_full_size`).
    The untrained twin's stands beside: masks converge in random weights, too.
    """
    dataset, sigma = _where(cell)
    curve, fresh = (study.result(Growth(dataset, sigma, control)) for control in ("", "untrained"))
    overlaps = curve.gathered()
    defined = np.isfinite(overlaps).all(0)
    size, there = _full_size(study, dataset)
    found = Measurement(
        "overlap gained by the last doubling",
        asides={f"overlap at {size}": mean(overlaps[:, i]) for i, size in enumerate(curve.sizes)},
        controls={"untrained twin": (fresh.at(size) - fresh.at(size / 2)).value},
        n=_samples(study, dataset),
        draws=study.settings.draws,
        basis=[LocatedOn.of(study, dataset)],
    )
    if few := no_trend(curve.sizes, defined):
        return dataclasses.replace(
            found, floor=empty_masks(study.result(Halves(dataset, sigma)), sigma) or few
        )
    up_to = Beyond.of(curve, size)
    if up_to.unbounded:
        few = f"halves of {curve.sizes[-1]} samples overlap by less than {LEAST_AGREEMENT:.0%}, which does not tell"
        return dataclasses.replace(found, floor=f"{few} how they do {there}; give more --samples")
    smallest = curve.sizes[int(np.argmax(defined))]
    last = gained(up_to, Beyond.of(curve, size / 2), f"{ORDERS} random orders, {there}")
    first = curve.at(smallest)
    rise = curve.at(curve.sizes[-1]) - first
    return dataclasses.replace(
        found,
        value=last,
        parts={
            "rise": difference_of(
                rise, f"{ORDERS} random orders, from {smallest} to {curve.sizes[-1]} samples"
            ),
            "last increment": last,
            "smallest": bound_of(first, f"{ORDERS} random orders, {smallest} samples"),
        },
        settings={"orders": ORDERS, "sizes": [int(size) for size in curve.sizes]},
    )


@experiment(_needs_agreement)
def subset_suffices(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``convergence-subset-suffices``: the mask of half the data against that of the DISJOINT other half.

    Against the full set a subset would be compared with itself in part; smaller subsets stand beside.
    """
    dataset, sigma = _where(cell)
    settings = study.settings
    splits = to_split(study.result(Scores(dataset)), settings.threshold(sigma))
    halves = study.result(Halves(dataset, sigma))
    return Measurement(
        "overlap of half the data with the disjoint rest",
        bound_of(halves.mean(), f"{settings.draws} random subsets"),
        at_full_size(study, cell),
        chance=mean(halves.all.chance),
        asides={
            f"a share of {share:g}": mean(subset_overlaps(splits, share, settings.draws, settings.seed))
            for share in SHARES
        },
        controls=_twins_shown(study, cell),
        n=_samples(study, dataset),
        draws=settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        floor=empty_masks(halves, sigma),
    )


# ------------------------------------------------------------------------------------------------- across datasets


def _needs_datasets(study: Study, cell: Cell, claim: Claim) -> Specs:
    for name in study.available():
        yield from (Halves(name, _where(cell)[1], control) for control in ("", "untrained"))


@experiment(_needs_datasets)
def dataset_overlap(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fig4-dataset-overlap``: whole-set masks of every two datasets share more neurons than chance.

    A pair's p is hypergeometric, ``p_by_layer`` that of random sets with the same counts in every layer, both
    Holm-corrected. The value is the mean overlap over pairs; the plots are the model's (Fig. 4, 5).
    """
    sigma, names = _where(cell)[1], study.available()
    if len(names) < 2:
        raise NotRunError("needs two datasets to compare; give another --dataset")
    threshold, seed = study.settings.threshold(sigma), study.settings.seed
    whole = {name: whole_mask(study.result(Scores(name)), threshold) for name in names}
    fresh = {name: whole_mask(study.result(Scores(name, "untrained")), threshold) for name in names}
    found = pairwise(whole)
    empty = [name for name in names if not whole[name].any()]
    value, parts = None, {f"{a}~{b}": Chance(float(one.overlap[0])) for (a, b), one in found.items()}
    if not empty:
        overlaps = [result.overlap[0] for result in found.values()]
        value = Bound(
            float(np.mean(overlaps)),
            (float(np.min(overlaps)), float(np.max(overlaps))),
            method="smallest and largest over pairs of datasets",
        )
        uniform = holm([_hypergeometric(whole[a], whole[b]) for a, b in found])
        layered = holm([layer_matched_p(whole[a], whole[b], seed) for a, b in found])
        parts = {
            name: dataclasses.replace(part, p=float(p), p_by_layer=float(by_layer))
            for (name, part), p, by_layer in zip(parts.items(), uniform, layered, strict=True)
        }
    return Measurement(
        "mean overlap of the masks of two datasets",
        value,
        parts,
        chance=float(np.mean([one.chance[0] for one in found.values()])) if not empty else None,
        controls={"untrained twin": mean(np.array([one.overlap[0] for one in pairwise(fresh).values()]))},
        n=sum(_samples(study, name) for name in names),
        draws=study.settings.draws,
        basis=[LocatedOn(study.located(name)) for name in names],
        floor=f"floor effect: no neuron passes sigma {sigma:g} on {', '.join(empty)}" if empty else None,
        plots=model_plots(study, cell, claim, whole),
    )


def _hypergeometric(a: np.ndarray, b: np.ndarray) -> float:
    return hypergeometric_p(int((a & b).sum()), int(a.sum()), int(b.sum()), a.size)


# -------------------------------------------------------------------------------------------------------- in common


def _where(cell: Cell) -> tuple[str, float]:
    return cell.dataset or "", float(cell.sigma or 0)


def _others(study: Study, dataset: str) -> list[str]:
    return [name for name in study.available() if name != dataset]


def _with(study: Study, dataset: str) -> list[str]:
    return [dataset, *_others(study, dataset)]


def _of_another_kind(study: Study, dataset: str) -> list[str]:
    """The datasets of another of the paper's kinds; all others where none is, or the dataset has none."""
    others = _others(study, dataset)
    kinds = types_of([dataset, *others])
    different = [name for name in others if kinds.get(name) != kinds.get(dataset)]
    return different if dataset in kinds and different else others


def _control_samples(study: Study, dataset: str, control: str = TWINS[0]) -> int:
    """On how many samples a control was located."""
    return study.result(Scores(dataset, control)).whole.count


def _samples(study: Study, dataset: str) -> int:
    return len(study.located(dataset).tokenized)


def _halves_of(study: Study) -> str:
    return f"{study.settings.draws} random half splits"
