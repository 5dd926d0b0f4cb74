"""The paper's files against the documents themselves, where these are at hand."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from caploc.audit.views import printed
from caploc.papers import Claim, PrintedNumber, load_paper

PAPER, RIVAL = load_paper("capability_localization"), load_paper("query_localization")
SHARED = Path(__file__).parents[4] / "shared" / "paper"
NEEDS_SHARED = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the paper's text in ../shared/paper to compare with"
)
DOCUMENTS = {
    "paper": "capability-localization.txt",
    "poster": "poster.txt",
    "abstract": "query-localization-abstract.txt",
    "summary": "summary.txt",
}
CLAIMS = {**PAPER.claims, **RIVAL.claims}
ALL = pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
SECOND_HAND = ("reviews", "digest")
"""What tells of the second paper, whose text is not at hand: its numbers say how certain they are; it is not quoted."""


@NEEDS_SHARED
@ALL
def test_quotes_and_numbers_stand_in_their_documents(claim: Claim) -> None:
    for source in claim.sources:
        if source.quote:
            assert source.quote in document(source.document)
    for number in claim.numbers:
        if number.document not in ("caploc", *SECOND_HAND):
            assert number.certainty == "certain"
            # a fall is printed as an arrow, not as a sign
            assert number.printed.lstrip("+-") in document(number.document)


@ALL
def test_what_others_tell_of_a_paper_is_marked_and_not_quoted(claim: Claim) -> None:
    assert not [one for one in claim.sources if one.document in SECOND_HAND and one.quote]
    told = [one for one in claim.numbers if one.document in SECOND_HAND]
    assert all(one.certainty != "certain" and "second-hand" in one.shown for one in told)
    assert not (told and claim.quoted), "no finding quotes as published what is only told of"


def test_the_report_says_how_certain_a_number_is_and_what_is_recalled_is_none() -> None:
    (shown,) = printed(RIVAL.claim("ql-inconsistent-exists"))
    assert "77 % (second-hand, certainty high) (digest, Table 1-1" in shown
    (shown,) = printed(RIVAL.claim("ql-39-experiments"))
    assert shown == "experiments 39 sets (abstract, Abstract)"
    with pytest.raises(ValidationError, match="certainty"):
        PrintedNumber("share", "12.7", "%", "digest", "somewhere", certainty="recalled")  # type: ignore[arg-type]


@NEEDS_SHARED
def test_every_claim_of_the_inventory_is_there() -> None:
    wanted = {entry["id"]: entry["group"] for entry in inventory()["claim"]}
    assert len(wanted) == 84
    moved = {name for name, group in wanted.items() if group == "K-querylocalization"}
    assert len(moved) == 7 and moved <= RIVAL.claims.keys()
    wanted = {name: group for name, group in wanted.items() if name not in moved}
    assert {name: PAPER.claim(name).group for name in wanted} == wanted
    # what the paper does not claim stands in families of ours or is a control; others are parts of a claim
    parts = {"table2-numbers-code25k", "table2-located-beats-random-each", "table3-located-hurts-more-each"}
    added = {name: claim for name, claim in PAPER.claims.items() if name not in {*wanted, *parts}}
    of_ours = {name for name, claim in added.items() if claim.group in ("D-table1", "L-consistency")}
    assert added.keys() - of_ours == {"table3-spares-general-text"}


@NEEDS_SHARED
def test_all_218_cells_are_those_of_the_inventory() -> None:
    expected = {
        coordinates(table, row): row["printed"] for table, rows in inventory()["data"].items() for row in rows
    }
    ours = {
        (
            cell.table,
            cell.model,
            cell.sigma or 0,
            cell.method,
            cell.epoch,
            cell.dataset,
            cell.quantity,
        ): cell.printed
        for cell in PAPER.cells
    }
    assert len(ours) == 218 and ours == expected


@NEEDS_SHARED
def test_printed_changes_and_labels_are_those_of_the_inventory() -> None:
    cells = {
        (cell.table, cell.model, cell.sigma or 0, cell.method, cell.epoch, cell.dataset, cell.quantity): cell
        for cell in PAPER.cells
    }
    for table, rows in inventory()["data"].items():
        for row in rows:
            cell = cells[coordinates(table, row)]
            if "poster_sigma" in row and row["poster_sigma"] != row["sigma"]:
                assert cell.sigma_in == {"poster": row["poster_sigma"]}
            for name in ("paper", "poster"):
                assert (name in cell.second_in) == row.get(f"underlined_{name}", False)


def document(name: str) -> str:
    return (SHARED / DOCUMENTS[name]).read_text(encoding="utf-8")


def inventory() -> Any:
    return tomllib.loads((SHARED / "claims.toml").read_text(encoding="utf-8"))


MODELS = {"Llama2-7B": "llama2-7b", "Llama2-13B": "llama2-13b", "GPTJ-6B": "gptj-6b"}
METHODS = {"w/o located": "all but located", "locate": "located"}


def coordinates(table: str, row: Any) -> tuple[Any, ...]:
    """Where a row of the inventory stands among our cells."""
    method, dataset = row.get("method", row.get("row")), row.get("dataset", "Avg").lower()
    return (
        table,
        MODELS[row["model"]],
        6 if table == "table1" else row["sigma"],
        METHODS.get(method, method),
        row.get("epoch"),
        "average" if dataset == "avg" else dataset,
        row["quantity"].lower() if table == "table1" else PAPER.table(table)[0].quantity,
    )
