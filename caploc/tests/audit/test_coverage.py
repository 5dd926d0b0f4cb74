"""Claim coverage: each claim has a test, follows from others, is pending by name, or cannot be decided."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from caploc.audit.coverage import Coverage, Pending
from caploc.audit.results import Planned
from caploc.findings import Cell
from caploc.papers import Paper, load_paper
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


def planned(claim: str, test: str = "test_it", number: int = 0, variant: str = "") -> Planned:
    cell = Cell("m", f"d{number}", 6.0, variant)
    return Planned(f"f::{test}[{cell.label}]", f"{test}[{cell.label}]", claim, cell)


def pending(*claims: str) -> list[Pending]:
    groups = defaultdict(list)
    for claim in claims:
        groups[PAPER.claim(claim).group].append(claim)
    return [Pending(group, "circuits", tuple(names)) for group, names in groups.items()]


def test_each_claim_is_listed_once_with_what_covers_it() -> None:
    tested = ["table1-overlap", "table1-iou"]
    others = [claim.id for claim in EMPIRICAL if claim.id not in tested]
    plan = [planned("table1-overlap", number=n) for n in range(3)] + [planned("table1-iou", "test_iou")]
    plan += [planned("table1-iou", "test_both"), planned("table1-iou", "test_both", variant="scope=layer")]
    coverage = Coverage.of(PAPER, plan, pending(*others))
    assert coverage.problems() == []
    lines = list(coverage.lines())
    shown = dict(line.strip().split(maxsplit=1) for line in lines if line.startswith("  "))
    assert list(shown) == list(PAPER.claims)
    assert shown["table1-overlap"] == "test_it (3 cells)"
    assert shown["table1-iou"] == "test_iou (1 cell), test_both (1 cell)"
    assert shown["fidelity-kn-overlap"] == "pending: needs circuits"
    assert shown["fidelity-conclusion"].startswith("follows from: fidelity-kn-overlap, ")
    assert shown["general-first"] == "no measurement decides it"
    follow = sum(bool(claim.rule.claims) for claim in PAPER.claims.values())
    none = sum(not claim.empirical for claim in PAPER.claims.values())
    assert lines[-1] == (
        f"{len(PAPER.claims)} claims: 2 with a test, {len(others)} pending, {follow} following from others, "
        f"{none} that no measurement decides, 0 not covered"
    )


def problems(listed: list[Pending], plan: list[Planned] | None = None) -> list[str]:
    return Coverage.of(PAPER, plan or [planned("table1-overlap")], listed).problems()


def test_what_the_list_may_not_say() -> None:
    everything = [claim.id for claim in EMPIRICAL if claim.id != "table1-overlap"]
    assert problems(pending(*everything)) == []
    (bare,) = problems(pending(*everything[1:]))
    assert bare.startswith(f"claim {everything[0]}: no test and not pending")
    wrong = Pending(
        "D-table1", "x", ("table1-overlap", "nonsense\x1b", "general-first", "control-untrained-overlap")
    )
    found = problems([*pending(*everything), wrong])
    assert [problem.partition(": ")[0] for problem in found] == [
        "pending.toml [D-table1] control-untrained-overlap",  # named in two tables: said of each
        "pending.toml [D-table1] table1-overlap",
        "pending.toml [D-table1] nonsense\\x1b",
        "pending.toml [D-table1] general-first",
        "pending.toml [D-table1] control-untrained-overlap",
    ]
    assert "listed twice" in found[0] and "not pending any more (test_it (1 cell))" in found[1]
    assert "no such claim" in found[2] and "belongs to [I-general]" in found[3]
    derived = problems([*pending(*everything), Pending("A-fidelity", "x", ("fidelity-conclusion",))])
    assert len(derived) == 1 and "not pending any more (follows from: " in derived[0]


def test_a_test_of_a_claim_that_the_paper_does_not_make() -> None:
    everything = [claim.id for claim in EMPIRICAL if claim.id != "table1-overlap"]
    (stray,) = problems(pending(*everything), [planned("table1-overlap"), planned("table9", "test_stray")])
    assert stray == "test test_stray: the paper has no claim 'table9'"


@pytest.mark.parametrize("also", [["--collect-only"], [], ["-q", "-n2"], ["-m", "gpu"]])
def test_nothing_is_run_and_a_claim_without_a_test_fails(claims_run: ClaimsRun, also: list[str]) -> None:
    claims_run.write(GATED)
    run = claims_run("--claim-coverage", *also)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(
        [
            "  table1-overlap  *test_overlap (2 cells)",
            f"{len(PAPER.claims)} claims: 1 with a test, 0 pending, *",
            "claim table1-iou: no test and not pending; *",
        ]
    )
    run.stdout.no_fnmatch_line("*<Function*")
    assert not (claims_run.pytester.path / "reports").exists()


def test_with_everything_accounted_for_it_is_green(claims_run: ClaimsRun) -> None:
    claims_run.write(GATED)
    write_pending(claims_run, PAPER, leave_out="table1-overlap")
    run = claims_run("--claim-coverage")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["*, 0 not covered"])


def write_pending(claims_run: ClaimsRun, paper: Paper, leave_out: str) -> None:
    groups = defaultdict(list)
    for claim in EMPIRICAL:
        if claim.id != leave_out:
            groups[claim.group].append(claim.id)
    tables = [f'[{group}]\nneeds = "circuits"\nclaims = {names}\n' for group, names in groups.items()]
    (claims_run.folder / "pending.toml").write_text("\n".join(tables), encoding="utf-8")


def test_a_file_that_cannot_be_imported_is_not_coverage(claims_run: ClaimsRun) -> None:
    claims_run.write(GATED)
    write_pending(claims_run, PAPER, leave_out="table1-overlap")
    claims_run.pytester.makepyfile(test_broken="import no_such_module")
    assert claims_run("--claim-coverage").ret == pytest.ExitCode.INTERRUPTED


def test_where_no_claim_test_is_found_the_folder_is_asked_for(claims_run: ClaimsRun) -> None:
    claims_run.write("def test_plain(): ...\n")
    run = claims_run("--claim-coverage")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(
        ["no claim test was collected; name their folder, as in: pytest claims --claim-coverage"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[A-fidelity", "cannot be read as TOML"),
        ("x = 1", "[[]x[]]: a table with needs and claims is expected"),
        ("[A-fidelity]\nneeds = 'x'", "[[]A-fidelity[]]: a table with needs and claims"),
        ("[A-fidelity]\nneeds = ' '\nclaims = ['a']", "[[]A-fidelity[]]: needs must say in a few words"),
        ("[A-fidelity]\nneeds = 'x'\nclaims = []", "[[]A-fidelity[]]: claims must be a list of claim ids"),
        ("[A-fidelity]\nneeds = 'x'\nclaims = [1]", "[[]A-fidelity[]]: claims must be a list of claim ids"),
    ],
)
def test_a_wrong_list_is_refused_by_name(claims_run: ClaimsRun, text: str, message: str) -> None:
    claims_run.write(GATED)
    (claims_run.folder / "pending.toml").write_text(text, encoding="utf-8")
    run = claims_run("--claim-coverage")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: *pending.toml: {message}*"])


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
