"""Rates of every claim's rule at default sizes: in cells of the embedded models, and of those that the paper prints."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from caploc.audit.claims import ClaimTest, Reference
from caploc.benchmarks.tables import Table
from caploc.papers import load_paper
from caploc.power import NO_SAMPLING, Counted, Design, Sizes, design_of, more_units, rates
from caploc.power.stopping import stopping
from caploc.rules.looks import EARLY, SHARES

PAPER = "capability_localization"
PAPERS = (PAPER, "query_localization")
FOLDER = Path(__file__).parents[3] / "claims" / PAPER
DRAWS, DATASETS = 100, 5
PRINTED_ONLY = ("agreement", "readings", "within")
"""Rules that hold a number against a printed one, which there is for the paper's models alone."""


def claimed(folder: Path = FOLDER) -> Iterator[tuple[ClaimTest, str]]:
    """The claim tests of a folder, and the name of each one's experiment."""
    for file in sorted(folder.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for test in vars(module).values():
            marks = getattr(test, "pytestmark", []) if hasattr(test, "__code__") else []
            for declared in (mark.args[0] for mark in marks if mark.name == "claim"):
                if isinstance(declared, ClaimTest) and isinstance(declared.experiment, Reference):
                    reference = declared.experiment
                    yield declared, f"{reference.module.rpartition('.')[2]}.{reference.name}"


def table_of_rules(runs: int | None, only: Sequence[str] = ()) -> Table:
    """One row per claim and kind of cell."""
    table = Table("rules", "How often does each claim's rule decide, rightly and wrongly, at default sizes?")
    claims, seen = load_paper(PAPER).claims, set[tuple[str, Design]]()
    for declared, name in claimed():
        claim = claims[declared.claim]
        printed_only = claim.rule.kind in PRINTED_ONLY
        sizes = Sizes.of(None, DRAWS, DATASETS, gpu=printed_only)
        design = design_of(name, sizes, claim.id, average=declared.over == "model")
        if declared.over == "print" or claim.rule.kind in NO_SAMPLING or isinstance(design, Counted):
            continue
        if design is None or (claim.id, design) in seen or (only and claim.id not in only):
            continue
        seen.add((claim.id, design))
        found = rates(claim, design, runs, covered=printed_only)
        weak = found.power < 0.8 and claim.rule.kind != "above_chance"
        table.rows.append(
            {
                "claim": claim.id,
                "rule": claim.rule.kind,
                "sizes": design.shown + (" (paper's models)" if printed_only else ""),
                "effect": found.stated,
                "power %": 100 * found.power,
                "against %": 100 * found.against,
                "false supp %": 100 * found.false_supported,
                "false ref %": 100 * found.false_refuted,
                "reach": " and ".join(
                    word for word, can in (("supp", found.can_support), ("ref", found.can_refute)) if can
                ),
                "for 80 %": more_units(claim, design, found, printed_only) if weak else None,
            }
        )
    table.notes = [
        "power: SUPPORTED at the effect that the rule is meant to detect; against: REFUTED at the opposite; false "
        "supp: SUPPORTED at the worst of the rule's nulls; false ref: REFUTED at the stated effect.",
        "Models of data: caploc/power; spreads that are unknown before a run are taken on the difficult side.",
        "for 80 %: about how many units would give that power, where a number of them would.",
    ]
    if not table.rows:
        table.notes.append("claims/ comes with the repository, not with an installed package")
    return table


def table_of_looks(runs: int, only: Sequence[str] = ()) -> Table:
    """One row per claim that ``--samples auto`` looks at early."""
    table = Table(
        "looks", "How often does --samples auto err, and how many of the default facts does it take?"
    )
    for paper in PAPERS:
        claims = load_paper(paper).claims
        for declared, name in claimed(FOLDER.parent / paper):
            claim = claims[declared.claim]
            printed_only = claim.rule.kind in PRINTED_ONLY
            design = design_of(name, Sizes.of(None, DRAWS, DATASETS, gpu=printed_only), claim.id)
            if name not in EARLY or design is None or claim.rule.kind in NO_SAMPLING:
                continue
            if isinstance(design, Counted) or (only and claim.id not in only):
                continue
            found = stopping(claim, design, runs, covered=printed_only)
            table.rows.append(
                {
                    "claim": claim.id,
                    "rule": claim.rule.kind,
                    "sizes": design.shown + (" (paper's models)" if printed_only else ""),
                    "power %": 100 * found.power,
                    "against %": 100 * found.against,
                    "false supp %": 100 * found.false_supported,
                    "false ref %": 100 * found.false_refuted,
                    "facts % at effect": 100 * found.share,
                    "at none": 100 * found.share_null,
                    "at opposite": 100 * found.share_opposite,
                }
            )
    table.notes = [
        f"Looks at {', '.join(f'{share:g}' for share in SHARES)} of the default facts, {runs} simulated cells a truth; "
        f"an error rate of 5 % is found within {100 * 2 * (0.05 * 0.95 / runs) ** 0.5:.1f} points of it (two standard "
        "errors). Columns as in rules.",
        "Of designs that draw counts, looks are drawn anew, which overstates errors (caploc/power/stopping.py).",
    ]
    return table
