"""How many neurons are located, and how alike: Table 1 against the definitions of its rows (eq. 8 and 9), and the
threshold sigma and the share that it selects from table to table. Digits are read as rounded to the nearest.
"""

from __future__ import annotations

import math
from fractions import Fraction

from caploc.consistency.arithmetic import Span, difference, mean_of, rounding, significant
from caploc.consistency.printed import (
    all_neurons,
    block_name,
    cell_name,
    check,
    consistent,
    dataset_name,
    listed,
    model_name,
    number,
    place,
    share,
    whole,
)
from caploc.findings import Measurement
from caploc.papers import Claim, Paper, PrintedCell, PrintedNumber

_TITLE = {"overlap": "overlap", "iou": "IoU"}
LABELLED = ("table2", "table3")
"""The tables whose blocks carry a sigma in both documents; the poster has no Table 4."""


def iou_range(overlap: Fraction) -> Span:
    """All IoU that two sets of this overlap (eq. 9) can have, as fractions: from max(0, 2o - 1) to o / (2 - o).

    With u and v the shares of either set that are common, o = (u + v) / 2 and IoU = uv / (u + v - uv). For a given o it
    is largest for u = v (sets of one size) and smallest for u = 1 (one inside the other) or, where o is below 1/2, as
    one of u and v tends to 0.
    """
    return Span(max(Fraction(0), 2 * overlap - 1), overlap / (2 - overlap))


def _as_fractions(printed: str) -> Span:
    span = rounding(printed)
    return Span(max(Fraction(0), span.low / 100), min(Fraction(1), span.high / 100))


def _possible_iou(overlap: str) -> Span:
    span = _as_fractions(overlap)
    return Span(iou_range(span.low).low, iou_range(span.high).high)


@check("print-table1-iou")
def table1_iou(paper: Paper, claim: Claim) -> Measurement:
    """Every IoU of Table 1 is possible given its overlap."""
    violations, ratios, whole = [], [], 0
    cells = paper.table("table1", quantity="iou")
    for iou in cells:
        overlap, neuron = (_beside(paper, iou, quantity) for quantity in ("overlap", "neuron"))
        if not _possible_iou(overlap.printed).meets(_as_fractions(iou.printed)):
            best = float(iou_range(Fraction(overlap.printed) / 100).high * 100)
            violations.append(
                f"IoU {iou.printed} ({cell_name(iou)}) is impossible with an overlap of {overlap.printed}, "
                f"which allows at most {best:.2f}."
            )
            continue
        ratios.append(_size_ratio(Fraction(overlap.printed) / 100, Fraction(iou.printed) / 100))
        whole += _has_whole_sets(overlap.printed, iou.printed, neuron.printed, all_neurons(iou.model))
    remarks = (
        [
            f"The smaller of the two sets is {min(ratios):.3f} to {max(ratios):.3f} times as large as the "
            "other, as far as the digits tell.",
            "Sets of whole neurons, each as many as the printed neuron ratio says, give overlap and IoU "
            f"to the digit in {whole} of {len(cells)} cells: weak evidence, as halves need not be as large "
            "as the whole's set.",
        ]
        if ratios
        else []
    )
    return consistent(claim, len(cells), violations, remarks, {"whole_sets": float(whole)})


@check("print-table1-quoted-pair")
def quoted_pair(paper: Paper, claim: Claim) -> Measurement:
    """The overlap and IoU that section 5.3 quotes together can belong to one cell."""
    overlap, iou = number(claim, "overlap"), number(claim, "iou")
    most = float(iou_range(Fraction(overlap.printed) / 100).high * 100)
    possible = _possible_iou(overlap.printed).meets(_as_fractions(iou.printed))
    violations = [
        f"{overlap.printed} and {iou.printed} cannot be overlap and IoU of one cell: an overlap of "
        f"{overlap.printed} allows an IoU of at most {most:.2f}."
    ]
    remarks = [
        f"{item.printed} is the {listed(_where(paper, item, quantity))}."
        for item, quantity in ((overlap, "overlap"), (iou, "iou"))
        if _where(paper, item, quantity)
    ]
    return consistent(claim, 1, [] if possible else violations, remarks, {"largest_iou_percent": most})


@check("print-abstract-overlap")
def abstract_overlap(paper: Paper, claim: Claim) -> Measurement:
    """The abstract's overlap on GSM8K stands in Table 1."""
    quoted = number(claim, "overlap")
    cells = paper.table("table1", quantity="overlap")
    column = [cell for cell in cells if cell.dataset == "gsm8k"]
    at = [cell for cell in column if cell.value == quoted.value]
    others = [f"{cell.printed} for {model_name(cell.model)}" for cell in column if cell not in at]
    largest = max(cells, key=lambda cell: cell.value)
    least = min(cells, key=lambda cell: cell.value)
    remarks = [
        f"{quoted.printed} is that of {listed(model_name(cell.model) for cell in at)}; the abstract names "
        f"no model, and Table 1 prints {listed(others)}. Over all datasets it ranges from {least.printed} "
        f"to {largest.printed}."
    ]
    violations = [f"{quoted.printed} ({place(quoted)}) stands nowhere in Table 1's column of GSM8K."]
    return consistent(claim, 1, [] if at else violations, remarks if at else [])


@check("print-table1-chebyshev")
def chebyshev(paper: Paper, claim: Claim) -> Measurement:
    """Every neuron ratio of Table 1 is possible under the standard deviation: at most 1 / sigma^2."""
    cells = paper.table("table1", quantity="neuron")
    violations = [
        f"{cell.printed} % ({cell_name(cell)}) exceeds 1 / {cell.sigma:g}^2, or {100 * _cap(cell.sigma):.2f} %."
        for cell in cells
        if _as_fractions(cell.printed).low > Fraction(_cap(cell.sigma))
    ]
    sigmas = sorted({cell.sigma for cell in paper.cells if cell.sigma is not None})
    caps = listed(f"{100 * _cap(sigma):.2f} % at sigma {sigma:g}" for sigma in sigmas)
    normal = 100 * math.erfc((cells[0].sigma or 0) / math.sqrt(2))
    remarks = [
        f"No distribution has more than {caps} outside sigma standard deviations.",
        f"A normal one would have {normal:.0e} % at sigma {cells[0].sigma:g}, so that the scores must have "
        "heavy tails.",
    ]
    return consistent(claim, len(cells), violations, remarks)


@check("print-table1-repeats")
def repeated_ratios(paper: Paper, claim: Claim) -> Measurement:
    """Neuron ratios that are printed alike for all models are possible in each."""
    cells = paper.table("table1", quantity="neuron")
    violations, remarks, checked = [], [], 0
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        row = [cell for cell in cells if cell.dataset == dataset]
        if len({cell.printed for cell in row}) > 1:
            continue
        counts = []
        for cell in row:
            checked += 1
            span, neurons = _as_fractions(cell.printed), all_neurons(cell.model)
            low, high = math.ceil(span.low * neurons), math.floor(span.high * neurons)
            counts.append(f"{low} to {high} of {neurons} neurons ({model_name(cell.model)})")
            if low > high:
                violations.append(
                    f"{cell.printed} % ({cell_name(cell)}) is no whole number of {neurons} neurons."
                )
        remarks.append(
            f"{dataset_name(dataset)} has a neuron ratio of {row[0].printed} in every model: {listed(counts)}."
        )
    scores = [cell for quantity in ("overlap", "iou") for cell in paper.table("table1", quantity=quantity)]
    twice = {cell.printed: [other for other in scores if other.printed == cell.printed] for cell in scores}
    for printed, where in twice.items():
        if len(where) > 1:
            said = listed(f"{_TITLE[cell.quantity]} of {cell_name(cell)}" for cell in where)
            remarks.append(f"{printed} occurs {len(where)} times: {said}.")
    return consistent(claim, checked, violations, remarks)


def _cap(sigma: float | None) -> float:
    return 1 / sigma**2 if sigma else 1.0


def _beside(paper: Paper, cell: PrintedCell, quantity: str) -> PrintedCell:
    return paper.table("table1", quantity=quantity, model=cell.model, dataset=cell.dataset)[0]


def _where(paper: Paper, printed: PrintedNumber, quantity: str) -> list[str]:
    cells = paper.table("table1", quantity=quantity)
    return [f"{_TITLE[quantity]} of {cell_name(cell)}" for cell in cells if cell.value == printed.value]


def _size_ratio(overlap: Fraction, iou: Fraction) -> float:
    """|smaller| / |larger| of two sets, from uv = IoU (u + v) / (1 + IoU) and u + v = 2 overlap."""
    product, total = float(2 * overlap * iou / (1 + iou)), float(2 * overlap)
    # rounded digits may put sets of one size just beyond the largest IoU
    root = math.sqrt(max(0.0, total**2 - 4 * product))
    return (total - root) / (total + root)


def _has_whole_sets(overlap: str, iou: str, neuron: str, neurons: int) -> bool:
    """Whether two sets, both as large as the neuron ratio says, have such an overlap and IoU in whole neurons."""
    size, wanted, union = (_as_fractions(text) for text in (neuron, overlap, iou))
    sizes = range(math.ceil(size.low * neurons), math.floor(size.high * neurons) + 1)
    for a in sizes:
        for b in sizes[sizes.index(a) :]:
            # overlap = c (a + b) / 2ab and IoU = c / (a + b - c), both rising with the common count c
            low = max(2 * a * b * wanted.low, (a + b) ** 2 * union.low / (1 + union.low)) / (a + b)
            high = min(2 * a * b * wanted.high, (a + b) ** 2 * union.high / (1 + union.high)) / (a + b)
            if math.ceil(low) <= min(a, math.floor(high)):
                return True
    return False


@check("print-sigma-labels")
def sigma_labels(paper: Paper, claim: Claim) -> Measurement:
    """Paper and poster label every block of numbers with the same sigma."""
    blocks: dict[str, PrintedCell] = {}
    for table in LABELLED:
        blocks |= {block_name(cell): cell for cell in paper.table(table) if cell.sigma is not None}
    violations, remarks = [], []
    for block, cell in blocks.items():
        label = cell.sigma_in.get("poster", cell.sigma)
        if label != cell.sigma:
            same = paper.table(cell.table, model=cell.model, sigma=cell.sigma)
            violations.append(f"{block}: the poster prints the {len(same)} numbers under sigma {label:g}.")
            others = {
                block_name(other) for other in paper.table("table4", model=cell.model, sigma=cell.sigma)
            }
            remarks += [f"The paper's own {other} has the same label." for other in sorted(others)]
    return consistent(claim, len(blocks), violations, remarks)


@check("print-share-table1")
def share_of_table1(paper: Paper, claim: Claim) -> Measurement:
    """The share of located neurons that section 5.4 states is Table 1's, for each model of Table 2 at that sigma."""
    stated = number(claim, "share located")
    violations, remarks = [], []
    models = list(dict.fromkeys(cell.model for cell in paper.table("table2")))
    for model in models:
        used = {cell.dataset for cell in paper.table("table2", model=model)}
        ratios = paper.table("table1", model=model, quantity="neuron")
        means = {
            f"over the {len(cells)} {which}": mean_of(cell.printed for cell in cells)[0]
            for which, cells in (
                ("datasets of Table 1", ratios),
                ("of them in Table 2", [cell for cell in ratios if cell.dataset in used]),
            )
        }
        said = listed(f"{float(mean):.3f} % {over}" for over, mean in means.items())
        fits = any(rounding(stated.printed).contains(mean) for mean in means.values())
        sentence = f"{model_name(model)}: Table 1's neuron ratio is on average {said}"
        if fits:
            remarks.append(f"{sentence}, which {stated.printed} % fits.")
        else:
            violations.append(f"{sentence}, not {stated.printed} %.")
    return consistent(claim, len(models), violations, remarks)


@check("print-share-both-sigmas")
def share_at_both_sigmas(paper: Paper, claim: Claim) -> Measurement:
    """Random neurons, as many in either block by the label, score alike in the two sigma blocks of a model."""
    stated = number(claim, "share located")
    pairs = []
    for cell in paper.table("table2", method="random"):
        others = paper.table(
            "table2", model=cell.model, method="random", epoch=cell.epoch, dataset=cell.dataset
        )
        pairs += [(cell, other) for other in others if (other.sigma or 0) < (cell.sigma or 0)]
    tested = [(a, b) for a, b in pairs if any(item.key == a.dataset for item in claim.numbers)]
    found = [difference(share(b), share(a), whole(number(claim, a.dataset))) for a, b in tested]
    violations = [
        f"{cell_name(a)}: {a.printed}, but {b.printed} at sigma {b.sigma:g}, {100 * gap.value:+.2f} points "
        f"(z = {gap.z:.1f})."
        for (a, b), gap, differs in zip(tested, found, significant(found, claim.level), strict=True)
        if differs
    ]
    remarks = [
        f"Either {stated.printed} % is wrong for one of the two sigmas, whose masks are nested, or one "
        "random draw differs from another by more than most effects in the table."
    ]
    return consistent(claim, len(tested), violations, remarks if violations else [])


@check("print-share-rest")
def share_and_rest(paper: Paper, claim: Claim) -> Measurement:
    """The share of the located neurons and that of all others add up to 100 %."""
    located, rest = number(claim, "share located"), number(claim, "share of the rest")
    total = Fraction(located.printed) + Fraction(rest.printed)
    violations = [f"{located.printed} % and {rest.printed} % add up to {float(total):.2f} %."]
    return consistent(claim, 1, [] if total == 100 else violations)


@check("print-sigma-monotone")
def monotone_in_sigma(paper: Paper, claim: Claim) -> Measurement:
    """Erasing fewer neurons, at a larger sigma, never lowers a score of Table 3 further."""
    located = [cell for cell in paper.table("table3") if cell.method == "located"]
    series: dict[tuple[str, str], list[PrintedCell]] = {}
    for cell in sorted(located, key=lambda cell: cell.sigma or 0):
        series.setdefault((cell.model, cell.dataset), []).append(cell)
    violations, asides = [], {}
    for (model, dataset), cells in series.items():
        reversals = [
            (more, fewer)
            for index, more in enumerate(cells)
            for fewer in cells[index + 1 :]
            if fewer.value < more.value
        ]
        if reversals:
            more, fewer = max(reversals, key=lambda pair: pair[0].value - pair[1].value)
            tested = ""
            if any(item.key == dataset for item in claim.numbers):
                samples = whole(number(claim, dataset))
                gap = difference(share(more), share(fewer), samples)
                asides[f"{model}_{dataset}_z"] = gap.z
                tested = f" (z = {gap.z:.1f} at n = {samples})"
            scores = listed(f"{cell.printed} at sigma {cell.sigma:g}" for cell in cells)
            violations.append(
                f"{model_name(model)}, {dataset_name(dataset)}: {scores}; {fewer.printed} is lower than "
                f"{more.printed}, though fewer neurons are erased{tested}."
            )
    return consistent(claim, len(series), violations, (), asides)
