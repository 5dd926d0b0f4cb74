"""Claims of the paper against itself: quotes stand in the documents, and each claim has its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caploc.consistency import CHECKS
from caploc.papers import load_paper

PAPER = load_paper("capability_localization")
ROOT = Path(__file__).parents[3]
DOCUMENTS = {"paper": "capability-localization.txt", "poster": "poster.txt"}
TEXTS = ROOT.parent / "shared" / "paper"
CLAIMS = [claim for claim in PAPER.claims.values() if claim.group == "L-consistency"]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_quotes_are_verbatim(claim: object) -> None:
    if not TEXTS.is_dir():
        pytest.skip("the documents' texts are not beside this checkout, so quotes cannot be compared")
    texts = {
        name: " ".join((TEXTS / file).read_text(encoding="utf-8").split()) for name, file in DOCUMENTS.items()
    }
    for source in claim.sources:  # type: ignore[attr-defined]
        assert source.quote in texts[source.document], source


def test_every_check_has_one_test() -> None:
    tests = (ROOT / "claims" / PAPER.key / "test_published_numbers.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r'@claim\("([^"]+)", consistency\.check, over="print"\)', tests)) == sorted(
        CHECKS
    )
