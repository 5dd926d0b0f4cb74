"""Correction over the families of one run, and verdicts that follow from others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from caploc.audit.results import Planned, Result, Status, Tally, corrected, derived
from caploc.findings import PRINTED, Cell
from caploc.papers import load_paper
from caploc.tests.audit.conftest import ClaimsRun

PAPER = load_paper("capability_localization")
PAPERS = {PAPER.key: PAPER}


def result(
    claim: str,
    status: Status = Status.SUPPORTED,
    p: float | None = None,
    model: str = "m",
    variant: str = "",
    dataset: str = "d",
) -> Result:
    cell = Cell(model, dataset, 6.0, variant)
    test = f"test[{claim}-{cell.label}]"
    return Result(Planned(f"f::{test}", test, claim, cell, paper=PAPER.key), status, "because", p=p)


def holm_of(results: Sequence[Result]) -> list[float | None]:
    return [None if r.p_holm is None else round(r.p_holm, 6) for r in corrected(results, PAPERS)]


def test_a_family_is_one_group_of_claims_in_one_model_under_one_reading() -> None:
    results = [
        result("table1-overlap", p=0.01),
        result("table1-commonality", p=0.03),
        result("fig4-dataset-overlap", p=None),
        result("table1-commonality", p=0.04, dataset="e"),
        result("table1-commonality", p=0.01, model="n"),
        result("table1-commonality", p=0.01, variant="scope=layer"),
        result("fidelity-kn-overlap", p=0.02),
    ]
    assert holm_of(results) == [0.03, 0.06, None, 0.06, 0.01, 0.01, 0.02]
    filled = corrected(results, PAPERS)
    assert [r.tests for r in filled] == [3, 3, 0, 3, 1, 1, 1]
    assert [r.after_holm for r in filled] == [True, False, None, False, True, True, True]
    harmonic = 1 + 1 / 2 + 1 / 3
    assert filled[0].p_by == pytest.approx(0.01 * 3 * harmonic)
    assert [r.planned for r in filled] == [r.planned for r in results]


def test_only_a_supported_cell_can_lose_its_support() -> None:
    results = [
        result("table1-commonality", Status.INCONCLUSIVE, 0.2),
        result("table1-overlap", Status.REFUTED, 0.9),
        result("table1-iou", p=0.04),
    ]
    filled = corrected(results, PAPERS)
    assert [r.after_holm for r in filled] == [None, None, False]
    assert Tally.of(filled).sentence() == (
        "1 supported (1 of them not after Holm over their family), 1 refuted, 1 inconclusive"
    )


def test_the_tally_counts_moved_cells_only_where_there_are_any_and_other_readings_apart() -> None:
    base = [result("table1-overlap"), result("table1-iou", Status.NOT_RUN)]
    assert Tally.of(base).sentence() == "1 supported, 0 refuted, 0 inconclusive, 1 not run"
    others = [
        result("table1-overlap", Status.REFUTED, variant="scope=layer"),
        result("table1-overlap", Status.ERROR, variant="value=pre"),
    ]
    tally = Tally.of(base + others)
    assert tally.sentence() == "1 supported, 0 refuted, 0 inconclusive, 1 ended in an error, 1 not run"
    assert tally.other_readings == {Status.REFUTED: 1}


def verdicts(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    return {(r.planned.claim, r.planned.cell.model): r.status.value for r in derived(results, PAPER)}


def test_verdicts_follow_by_model_and_from_each_other() -> None:
    supported = [
        result(claim)
        for claim in (
            "fidelity-kn-overlap",
            "fidelity-rome-overlap",
            "fidelity-kc-overlap",
            "reliability-kn-similar-to-random",
            "reliability-rome-layers-equal",
            "reliability-kc-recall",
            "decoupling-individual-low",
        )
    ]
    refuted = [result("fidelity-kn-overlap", Status.REFUTED, model="n"), result("table1-overlap", model="o")]
    found = verdicts([*supported, *refuted])
    assert {model for _, model in found} == {"m", "n"}  # nothing follows from what the third model has
    assert found["fidelity-conclusion", "m"] == "SUPPORTED"
    assert (
        found["general-individual-not-localizable", "m"] == "INCONCLUSIVE"
    )  # no number of methods proves it
    assert found["fidelity-conclusion", "n"] == "REFUTED"
    assert found["general-individual-not-localizable", "n"] == "INCONCLUSIVE"  # it has only lost a premise


@pytest.mark.parametrize("status", [Status.ERROR, Status.MISSING])
def test_nothing_is_supported_by_a_cell_that_never_reported(status: Status) -> None:
    cells = [result(claim) for claim in PAPER.claim("fidelity-conclusion").rule.claims]
    assert verdicts(cells)["fidelity-conclusion", "m"] == "SUPPORTED"
    lost = result(cells[0].planned.claim, status, dataset="e")
    assert verdicts([*cells, lost])["fidelity-conclusion", "m"] == "INCONCLUSIVE"
    other = result(cells[0].planned.claim, Status.REFUTED, variant="scope=layer")
    assert verdicts([*cells, other])["fidelity-conclusion", "m"] == "SUPPORTED"


def test_a_claim_that_was_not_run_anywhere_has_no_derived_verdict_to_show() -> None:
    assert verdicts([result("general-protocol-counts", model=PRINTED)]) == {}
    sources = PAPER.claim("fidelity-conclusion").rule.claims
    not_run = verdicts([result(source, Status.NOT_RUN) for source in sources])
    assert not_run["fidelity-conclusion", "m"] == "NOT RUN"


def test_a_run_corrects_what_its_rules_decided_by(claims_run: ClaimsRun) -> None:
    claims_run.write(
        """
P = {"gsm8k": 0.03, "emotion": 0.04}
PARTS = {"scrambled gap": Effect(.25, (.2, .3), (.21, .29)), "beyond twins": Effect(.5, (.4, .6), (.42, .58))}

@claim("table1-commonality", measured(lambda study, cell, claim: Measurement(
    "gap", Effect(.4, (.3, .5), (.31, .49)), PARTS | {"permutation": Test(p=P[cell.dataset])})))
def test_commonality(): ...

@claim("table1-overlap", measured(overlap(.85, .95, parts={"matched random sets": Test(p=0.001)})))
def test_overlap(): ...
"""
    )
    run = claims_run("--seed=1")
    run.stdout.fnmatch_lines(
        ["all cells: 4 supported (2 of them not after Holm over their family), 0 refuted, 0 inconclusive"]
    )
    cells = {cell["test"]: cell for cell in claims_run.summary()["cells"]}
    found = [cells[f"test_commonality[tiny-llama-{name}-s6]"] for name in ("gsm8k", "emotion")]
    assert [(cell["p"], cell["p_holm"], cell["tests"], cell["after_holm"]) for cell in found] == [
        (0.03, 0.06, 2, False),
        (0.04, 0.06, 2, False),
    ]
    bound = cells["test_overlap[tiny-llama-gsm8k-s6]"]  # its rule reads the interval: no p value decided
    assert bound["p"] is bound["p_holm"] is bound["after_holm"] is None
