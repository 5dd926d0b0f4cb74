"""Correction for many tests: the decisive p values of one run, corrected within each family of claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from caploc.audit.results import Result, Status
from caploc.papers import Paper


def corrected(results: Sequence[Result], papers: Mapping[str, Paper]) -> list[Result]:
    """The results, in order; those with a p value get ``p_holm``, ``p_by``, ``tests`` and ``after_holm``.

    A family is every cell of one group of a paper's claims, one model and one reading of the paper in this run: the
    tests among which a reader may pick the one that came out well. Holm bounds the chance of any false rejection among
    them, Benjamini and Yekutieli the expected share of false ones, both whatever their dependence.
    """
    families: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for place, result in enumerate(results):
        paper = papers.get(result.planned.paper)
        claim = paper.claims.get(result.planned.claim) if paper else None
        if result.p is not None and claim is not None:
            cell = result.planned.cell
            families[result.planned.paper, claim.group, cell.model, cell.variant].append(place)
    filled = list(results)
    for places in families.values():
        for place, result in zip(
            places, _corrected([results[place] for place in places], papers), strict=True
        ):
            filled[place] = result
    return filled


def _corrected(family: Sequence[Result], papers: Mapping[str, Paper]) -> list[Result]:
    # imported here: scipy is not needed where no claim has a p value, as in --collect-only
    from caploc.statistics import benjamini_yekutieli, holm

    p_values = [result.p for result in family if result.p is not None]
    adjusted = zip(family, holm(p_values), benjamini_yekutieli(p_values), strict=True)
    return [
        _filled(result, float(by_holm), float(by_by), len(family), papers)
        for result, by_holm, by_by in adjusted
    ]


def _filled(result: Result, p_holm: float, p_by: float, tests: int, papers: Mapping[str, Paper]) -> Result:
    below = p_holm < papers[result.planned.paper].claims[result.planned.claim].level
    after_holm = below if result.status is Status.SUPPORTED else None
    return replace(result, p_holm=p_holm, p_by=p_by, tests=tests, after_holm=after_holm)
