"""Table 1 against the definitions of its rows (eq. 8 and 9), with its digits read as rounded to the nearest."""

from __future__ import annotations

import math
from fractions import Fraction

from caploc.consistency.arithmetic import Span, rounding
from caploc.consistency.facts import all_neurons, cell_name, dataset_name, listed, model_name, number, place
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper, PrintedCell, PrintedNumber

_TITLE = {"overlap": "overlap", "iou": "IoU"}


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


def table1_iou(paper: Paper, claim: Claim) -> Finding:
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


def quoted_pair(paper: Paper, claim: Claim) -> Finding:
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


def abstract_overlap(paper: Paper, claim: Claim) -> Finding:
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


def chebyshev(paper: Paper, claim: Claim) -> Finding:
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


def repeated_ratios(paper: Paper, claim: Claim) -> Finding:
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


CHECKS = {
    "print-table1-iou": table1_iou,
    "print-table1-quoted-pair": quoted_pair,
    "print-table1-chebyshev": chebyshev,
    "print-table1-repeats": repeated_ratios,
    "print-abstract-overlap": abstract_overlap,
}
