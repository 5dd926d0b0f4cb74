"""Every claim of group D (section 5.3 of the paper) is audited by a test in claims/, and by no misspelt id."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from caploc.papers import load_paper
from caploc.tests.tiny import REPOSITORY

CLAIMS = REPOSITORY / "claims"
PAPER = load_paper("capability_localization")


def marked() -> Iterator[tuple[str, str]]:
    """(test, claim id) of every ``@pytest.mark.claim(...)`` in claims/, ``by_model`` included."""
    for file in sorted(CLAIMS.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim":
                    yield node.name, ast.literal_eval(mark.args[0])
                    for keyword in mark.keywords:
                        if keyword.arg == "by_model":
                            for claim in ast.literal_eval(keyword.value).values():
                                yield node.name, claim


@pytest.mark.skipif(
    not CLAIMS.is_dir(), reason="claims/ comes with the repository, not with an installed package"
)
def test_every_claim_of_group_d_has_a_test() -> None:
    group = {claim.id for claim in PAPER.claims.values() if claim.group.startswith("D-")}
    found = {claim for _, claim in marked()}
    assert len(group) >= 14
    assert sorted(group - found) == [], "claims without a test"
    assert sorted(found - set(PAPER.claims)) == [], "tests of claims that the paper's file does not have"


@pytest.mark.skipif(
    not CLAIMS.is_dir(), reason="claims/ comes with the repository, not with an installed package"
)
def test_no_claim_is_audited_by_two_tests() -> None:
    tests: dict[str, set[str]] = {}
    for test, claim in marked():
        tests.setdefault(claim, set()).add(test)
    assert {claim: names for claim, names in tests.items() if len(names) > 1} == {}
