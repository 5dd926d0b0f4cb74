"""Claim coverage: each claim has a test, follows from others, or cannot be decided."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest

from caploc.audit.coverage import Coverage
from caploc.audit.results import Planned
from caploc.findings import Cell
from caploc.papers import load_paper
from caploc.tests.audit.conftest import ClaimsRun
from caploc.tests.tiny import REPOSITORY

PAPER = load_paper("capability_localization")
EMPIRICAL = [claim for claim in PAPER.claims.values() if claim.empirical and not claim.rule.claims]
GATED = """
def fail(*_):
    raise AssertionError("coverage runs nothing")

@claim("table1-overlap", measured(fail, needs=fail))
def test_overlap(): ...
"""


EVERYTHING = GATED + "".join(
    f"""
@claim({claim.id!r}, measured(fail, needs=fail))
def test_{number}(): ...
"""
    for number, claim in enumerate(EMPIRICAL)
)


def planned(claim: str, test: str = "test_it", number: int = 0, variant: str = "") -> Planned:
    cell = Cell("m", f"d{number}", 6.0, variant)
    return Planned(f"f::{test}[{cell.label}]", f"{test}[{cell.label}]", claim, cell)


def every_claim(leave_out: str = "") -> list[Planned]:
    return [
        planned(claim.id, f"test_{number}") for number, claim in enumerate(EMPIRICAL) if claim.id != leave_out
    ]


def test_each_claim_is_listed_once_with_what_covers_it() -> None:
    plan = [planned("table1-overlap", number=n) for n in range(3)] + [planned("table1-iou", "test_iou")]
    plan += [planned("table1-iou", "test_both"), planned("table1-iou", "test_both", variant="scope=layer")]
    coverage = Coverage.of(PAPER, plan)
    lines = list(coverage.lines())
    shown = dict(line.strip().split(maxsplit=1) for line in lines if line.startswith("  "))
    assert list(shown) == list(PAPER.claims)
    assert shown["table1-overlap"] == "test_it (3 cells)"
    assert shown["table1-iou"] == "test_iou (1 cell), test_both (1 cell)"
    assert shown["fidelity-kn-overlap"] == "NOT COVERED"
    assert shown["fidelity-conclusion"].startswith("follows from: fidelity-kn-overlap, ")
    assert shown["general-first"] == "no measurement decides it"
    follow = sum(bool(claim.rule.claims) for claim in PAPER.claims.values())
    none = sum(not claim.empirical for claim in PAPER.claims.values())
    assert lines[-1] == (
        f"{len(PAPER.claims)} claims: 2 with a test, {follow} following from others, "
        f"{none} that no measurement decides, {len(EMPIRICAL) - 2} not covered"
    )


def test_what_nothing_covers_is_a_problem() -> None:
    assert Coverage.of(PAPER, every_claim()).problems() == []
    (bare,) = Coverage.of(PAPER, every_claim(leave_out="table1-overlap")).problems()
    assert bare == "claim table1-overlap: no test; mark one with claim('table1-overlap')"


def test_a_test_of_a_claim_that_the_paper_does_not_make() -> None:
    (stray,) = Coverage.of(PAPER, [*every_claim(), planned("table9", "test_stray")]).problems()
    assert stray == "test test_stray: the paper has no claim 'table9'"


@pytest.mark.parametrize("also", [["--collect-only"], [], ["-q", "-n2"], ["-m", "gpu"]])
def test_nothing_is_run_and_a_claim_without_a_test_fails(claims_run: ClaimsRun, also: list[str]) -> None:
    claims_run.write(GATED)
    run = claims_run("--claim-coverage", *also)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(
        [
            "  table1-overlap  *test_overlap (2 cells)",
            f"{len(PAPER.claims)} claims: 1 with a test, *",
            "claim table1-iou: no test; *",
        ]
    )
    run.stdout.no_fnmatch_line("*<Function*")
    assert not (claims_run.pytester.path / "reports").exists()


def test_with_everything_accounted_for_it_is_green(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERYTHING)
    run = claims_run("--claim-coverage")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["*, 0 not covered"])


def test_a_file_that_cannot_be_imported_is_not_coverage(claims_run: ClaimsRun) -> None:
    claims_run.write(EVERYTHING)
    claims_run.pytester.makepyfile(test_broken="import no_such_module")
    assert claims_run("--claim-coverage").ret == pytest.ExitCode.INTERRUPTED


def test_where_no_claim_test_is_found_the_folder_is_asked_for(claims_run: ClaimsRun) -> None:
    claims_run.write("def test_plain(): ...\n")
    run = claims_run("--claim-coverage")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(
        ["no claim test was collected; name their folder, as in: pytest claims --claim-coverage"]
    )


@pytest.mark.skipif(
    not (REPOSITORY / "claims").is_dir(),
    reason="claims/ comes with the repository, not with an installed package",
)
def test_every_claim_of_the_paper_is_accounted_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "claims", "--claim-coverage", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    covered = [line for line in done.stdout.splitlines() if " cells)" in line or " (1 cell)" in line]
    group_d = [claim for claim in PAPER.claims.values() if claim.group == "D-table1"]
    assert len(covered) >= len(group_d) >= 14


@pytest.mark.skipif(
    not (REPOSITORY / "claims").is_dir(),
    reason="claims/ comes with the repository, not with an installed package",
)
def test_no_claim_has_two_tests_over_the_same_cells() -> None:
    # they could give two verdicts in one cell
    found = Counter()
    for file in (REPOSITORY / "claims" / PAPER.key).glob("test_*.py"):
        for marked in file.read_text().split("@claim(")[1:]:
            arguments = marked.partition(")\ndef ")[0]
            claim = re.search(r'"([\w-]+)"', arguments)
            over, dataset = (re.search(rf'{name}="(\w+)"', arguments) for name in ("over", "dataset"))
            assert claim, f"{file.name}: {marked[:60]}"
            found[claim[1], over[1] if over else "datasets", dataset[1] if dataset else "any"] += 1
    assert len(found) > 60
    assert [key for key, count in found.items() if count > 1] == []
    of_one = {(name, over) for name, over, dataset in found if dataset != "any"}
    assert [key for key in found if key[2] == "any" and key[:2] in of_one] == []
