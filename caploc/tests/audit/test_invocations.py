"""However pytest is called, the same cells end the same way: expectations, ledger, summary and counts."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from caploc.audit.expectations import load_expectations
from caploc.audit.places import project_of
from caploc.tests.audit.conftest import PAPER, PRELUDE, WITHOUT_MODELS, ClaimsRun
from caploc.tests.audit.test_second_paper import CLAIM as TOY_CLAIM
from caploc.tests.audit.test_second_paper import PAPER as TOY_PAPER
from caploc.tests.tiny import REPOSITORY

CLAIMS = """
@claim("table1-overlap", measured(overlap(0.85, 0.9)))
def test_overlap(): ...

@claim("table1-overlap", measured(overlap(0.1, 0.2)))
def test_low(): ...

@claim("table1-overlap", measured(overlap(0.4, 0.6)))
def test_between(): ...

@claim("table1-neuron", measured(not_run("no data")))
def test_share(): ...

@claim("print-sigma-labels", lambda paper, claim: Measurement("n", Count(2.0, unit="count"), n=3), over="print")
def test_print(): ...
"""
QUIET = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio")  # as the fixture's own ini
# what pytest-rerunfailures does: reports of an attempt that is repeated have an outcome of their own
RERUNS = """
from _pytest.runner import runtestprotocol


def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(3):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            again = report.failed and attempt < 2 and not hasattr(report, "wasxfail")
            if again:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
            if again:
                break
        else:
            break
    return True


def pytest_report_teststatus(report):
    return ("rerun", "R", "RERUN") if report.outcome == "rerun" else None
"""
# what pytest-repeat does
REPEATS = """
import pytest


@pytest.fixture
def __pytest_repeat_step_number(request):
    return request.param


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("__pytest_repeat_step_number")
    ids = [f"{number}-3" for number in (1, 2, 3)]
    metafunc.parametrize("__pytest_repeat_step_number", range(3), indirect=True, ids=ids, scope="function")
"""
# what pytest-xdist does with --dist=loadgroup
GROUPS = """
import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item._id = type(item._id).parse(f"{item.nodeid}@a group")
"""


def kept(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(summary["cells"], key=lambda cell: str(cell["test"]))


@pytest.fixture
def reviewed(claims_run: ClaimsRun) -> list[dict[str, Any]]:
    """The cells of a run after another that was recorded."""
    claims_run.write(CLAIMS)
    claims_run("--record-expectations")
    claims_run().assert_outcomes(passed=2, xfailed=5, skipped=2)
    return kept(claims_run.summary())


def called(claims_run: ClaimsRun, *arguments: str) -> pytest.RunResult:
    return claims_run.pytester.runpytest_inprocess(*QUIET, *arguments)


def plugin(claims_run: ClaimsRun, **source: str) -> None:
    claims_run.pytester.makepyfile(**source)
    claims_run.pytester.syspathinsert()


CHOICE = ("--dataset=gsm8k,emotion", "--sigma=6", "--model=tiny-llama")
CALLS = {
    "rootdir": ("--rootdir={else}", "{claims}"),
    "rootdir inside": ("--rootdir={claims}/" + PAPER, "{claims}"),
    "ini": ("-c", "{else}/other.ini", "{claims}"),
    "no ini": ("-c", "/dev/null", "{claims}"),
    "pyargs": ("--pyargs", "{claims}"),
    "import mode": ("--import-mode=importlib", "-o", "xfail_strict=true", "{claims}"),
    "node ids": tuple(f"{{file}}::test_{name}" for name in ("overlap", "low", "between", "share", "print")),
    "quiet": ("-qq", "--no-header", "{claims}"),
    "run xfail": ("--runxfail", "{claims}"),
    "no terminal": ("-p", "no:terminal", "{claims}"),
    "junit": ("-v", "--junitxml={else}/junit.xml", "{claims}"),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_every_call_gives_the_same(
    claims_run: ClaimsRun,
    reviewed: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    elsewhere: bool,
) -> None:
    (tmp_path / "other.ini").write_text("[pytest]\n", encoding="ascii")
    (claims_run.pytester.path / "reports" / "ledger.json").unlink()
    if elsewhere:
        monkeypatch.chdir(tmp_path)
    claims = claims_run.folder.parent
    places = {"else": str(tmp_path), "claims": str(claims), "file": f"{claims_run.folder}/test_claims.py"}
    run = called(claims_run, *CHOICE, *(one.format_map(places) for one in CALLS[call]))
    assert run.ret == pytest.ExitCode.OK
    if call not in ("quiet", "no terminal"):
        run.assert_outcomes(passed=2, xfailed=5, skipped=2)
    assert kept(claims_run.summary()) == reviewed
    planned = [line for line in claims_run.ledger() if line["type"] == "planned"]
    assert {line["nodeid"].partition("::")[0] for line in planned} == {f"claims/{PAPER}/test_claims.py"}
    if call == "junit":
        (suite,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
        assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
            "tests": "9", "failures": "0", "errors": "0", "skipped": "7",
        }  # fmt: skip


@pytest.mark.parametrize(
    "option", ["--collect-only", "--setup-plan", "--setup-only", "--fixtures", "--fixtures-per-test"]
)
def test_what_runs_no_test_leaves_the_last_run_as_it_is(
    claims_run: ClaimsRun, reviewed: list[dict[str, Any]], option: str
) -> None:
    run = claims_run(option)
    assert run.ret == pytest.ExitCode.OK and "= audit =" not in run.stdout.str()
    assert kept(claims_run.summary()) == reviewed


def test_recorded_from_another_rootdir(claims_run: ClaimsRun, tmp_path: Path) -> None:
    claims_run.write(CLAIMS)
    called(claims_run, *CHOICE, f"--rootdir={tmp_path}", "--record-expectations", "claims")
    assert claims_run.expected.read_text(encoding="utf-8").count("[cells.") == 9
    assert not (tmp_path / "fixtures").exists() and not (tmp_path / "reports").exists()
    claims_run().assert_outcomes(passed=2, xfailed=5, skipped=2)


def test_a_project_may_stand_in_another(tmp_path: Path) -> None:
    outer, inner = tmp_path / "claims", tmp_path / "vendored" / "audit" / "claims" / PAPER
    outer.mkdir()
    inner.mkdir(parents=True)
    assert project_of(inner / "test_x.py") == tmp_path / "vendored" / "audit"
    assert project_of(tmp_path / "vendored") == tmp_path
    assert project_of(Path("/")) is None


def test_an_attempt_that_is_repeated_does_not_count(claims_run: ClaimsRun) -> None:
    plugin(claims_run, reruns=RERUNS)
    claims_run.write("""
ATTEMPTS = []

def flaky(study, cell, claim):
    ATTEMPTS.append(cell)
    if ATTEMPTS.count(cell) == 1:
        raise RuntimeError("the first attempt")
    return overlap(0.85, 0.9)

@claim("table1-overlap", measured(flaky))
def test_flaky(): ...

@claim("table1-overlap", measured(overlap(0.1, 0.2)))
def test_refuted(): ...

@claim("table1-overlap", measured(lambda *_: 1 / 0))
def test_broken(): ...
""")
    arguments = ("--seed=1", "-p", "reruns", "--html=reports/x.html", "--junitxml=x.xml")
    run = claims_run(*arguments)
    run.assert_outcomes(passed=2, failed=2, errors=2)
    run.stdout.fnmatch_lines(["*2 failed, 2 passed, *10 rerun*"])
    summary = claims_run.summary("x.json")
    assert {name: count for name, count in summary["counts"].items() if count} == {
        "SUPPORTED": 2, "REFUTED": 2, "ERROR": 2,
    }  # fmt: skip
    page = (claims_run.pytester.path / "reports" / "x.html").read_text(encoding="utf-8")
    assert "the first attempt" not in page and "division by zero" in page


def test_a_repeated_cell_counts_once(claims_run: ClaimsRun, reviewed: list[dict[str, Any]]) -> None:
    plugin(claims_run, repeats=REPEATS)
    run = claims_run("-p", "repeats", "--html=reports/x.html")
    run.assert_outcomes(passed=6, xfailed=15, skipped=6)
    run.stdout.fnmatch_lines(
        ["all cells: 2 supported, 3 refuted (as expected here), 2 inconclusive, 2 not run: no data (2)"]
    )
    assert kept(claims_run.summary("x.json")) == reviewed
    planned = [line for line in claims_run.ledger("x.jsonl") if line["type"] == "planned"]
    assert Counter(len(line["tests"]) for line in planned) == {3: 9}
    covered = claims_run("-p", "repeats", "--claim-coverage")
    covered.stdout.fnmatch_lines(["*test_overlap (2 cells), test_low (2 cells)*", "*test_print (1 cell)*"])


def test_repeats_that_differ_are_an_error(claims_run: ClaimsRun) -> None:
    plugin(claims_run, repeats=REPEATS)
    claims_run.write("""
ENDS = iter([0.85, 0.4] * 3)

@claim("table1-overlap", measured(lambda *_: overlap(low := next(ENDS), low + 0.1)))
def test_overlap(): ...
""")
    run = claims_run("--seed=1", "-p", "repeats")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    errors = claims_run.summary()["errors"].values()
    assert len(errors) == 2 and all("more than once, it came out " in error for error in errors)


def test_what_a_plugin_adds_to_node_ids_changes_no_cell(
    claims_run: ClaimsRun, reviewed: list[dict[str, Any]]
) -> None:
    plugin(claims_run, groups=GROUPS)
    claims_run("-p", "groups").assert_outcomes(passed=2, xfailed=5, skipped=2)
    assert kept(claims_run.summary()) == reviewed
    planned = [line for line in claims_run.ledger() if line["type"] == "planned"]
    assert all(line["tests"] == [f"{line['nodeid']}@a group"] for line in planned)


TOY = """
@claim("toy-short", measured(Measurement("tokens", Bound(50, (50, 50), unit="tokens"))))
def test_overlap(): ...
"""


@pytest.fixture
def toy(claims_run: ClaimsRun) -> Path:
    """A further paper, with a test that has the name of another paper's."""
    folder, tests = claims_run.pytester.path / "papers" / "toy", claims_run.pytester.path / "claims" / "toy"
    folder.mkdir(parents=True)
    tests.mkdir(parents=True)
    claim = TOY_CLAIM.format(id="toy-short", limit=100, statement="prompts are short")
    (folder / "paper.toml").write_text(TOY_PAPER + claim, encoding="utf-8")
    (tests / "test_claims.py").write_text(PRELUDE + TOY, encoding="utf-8")
    return tests


def test_two_papers_may_name_a_test_alike(claims_run: ClaimsRun, toy: Path) -> None:
    claims_run.write(CLAIMS)
    both = ("--import-mode=importlib", "--paper=papers/toy", f"--paper={PAPER}")
    claims_run("--record-expectations", *both).assert_outcomes(passed=4, xfailed=5, skipped=2)
    recorded = load_expectations(claims_run.expected)
    name = "test_overlap[tiny-llama-gsm8k-s6]"
    assert recorded[name].low == 0.7 and recorded[f"toy/{name}"].low == 40
    folders = (
        "--rootdir=papers",
        f"claims/{PAPER}",
        "claims/toy",
    )  # pytest's node ids of both are equal then
    for where in ((), ("--rootdir=/", "claims"), folders):
        claims_run(*both, *where).assert_outcomes(passed=4, xfailed=5, skipped=2)
        found = claims_run.summary()["cells"]
        assert {(cell["paper"], cell["estimate"]) for cell in found if cell["test"] == name} == {
            ("toy", 50),
            (PAPER, 0.875),
        }
    claims_run("--import-mode=importlib", "--paper=papers/toy", "claims/toy").assert_outcomes(passed=2)


def test_an_installed_caploc_audits_a_paper_that_is_named_and_leaves_other_runs_alone(
    claims_run: ClaimsRun, toy: Path
) -> None:
    claims_run.pytester.makeconftest(WITHOUT_MODELS)
    installed = any(one.value == "caploc.audit.entry" for one in entry_points(group="pytest11"))
    entry = () if installed else ("-p", "caploc.audit.entry")  # a checkout has no entry points
    named = called(claims_run, *entry, *CHOICE, "--seed=1", "--paper=papers/toy", str(toy))
    named.assert_outcomes(passed=2)
    for arguments in ((), ("--paper",), ("--paper=elsewhere",), ("--paper", "x" * 5000)):
        other = called(claims_run, *entry, "--help", *arguments)
        assert other.ret == pytest.ExitCode.OK
        assert "caploc" not in other.stdout.str()
    assert called(claims_run, *entry, "--model=tiny-llama").ret == pytest.ExitCode.USAGE_ERROR


def test_the_repository_may_be_a_folder_of_another_project(claims_run: ClaimsRun) -> None:
    claims_run.write(CLAIMS)
    outer = claims_run.pytester.path
    for name in ("conftest.py", "claims"):
        (outer / name).rename(outer.joinpath(f"vendored-{name}"))
    inner = claims_run.pytester.mkdir("vendored")
    (outer / "vendored-claims").rename(inner / "claims")
    (outer / "vendored-conftest.py").unlink()
    (inner / "conftest.py").write_text(
        WITHOUT_MODELS
        + (REPOSITORY / "conftest.py").read_text(encoding="utf-8").partition("annotations\n")[2],
        encoding="utf-8",
    )
    (outer / "test_own.py").write_text("def test_own(): ...\n", encoding="utf-8")
    called(claims_run, *CHOICE, "vendored/claims", "test_own.py", "--record-expectations").assert_outcomes(
        passed=3, xfailed=5, skipped=2
    )
    assert (inner / "fixtures" / "expected.toml").is_file() and (inner / "reports" / "ledger.json").is_file()
    whole = called(claims_run, "-k", "test_own or (test_overlap and tiny-llama and s6 and gsm8k)")
    whole.assert_outcomes(passed=2, deselected=100)


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_a_place_that_cannot_be_written_is_one_line(claims_run: ClaimsRun, workers: tuple[str, ...]) -> None:
    claims_run.write(CLAIMS)
    (claims_run.pytester.path / "reports").write_text("a file", encoding="ascii")
    run = claims_run(*workers)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in run.stderr.lines if line)
    assert line.startswith("ERROR: cannot write the ledger ") and line.endswith(
        "name a writable place with --html"
    )


def test_expectations_that_cannot_be_written_are_one_line(claims_run: ClaimsRun) -> None:
    claims_run.write(CLAIMS)
    (claims_run.pytester.path / "fixtures").write_text("a file", encoding="ascii")
    run = claims_run("--record-expectations")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in run.stderr.lines if line)
    assert line.startswith("ERROR: cannot write ") and line.endswith("; record in a copy of the project")


def test_two_tests_of_one_name_are_refused(claims_run: ClaimsRun) -> None:
    claims_run.write(CLAIMS)
    (claims_run.folder / "test_more.py").write_text(
        (claims_run.folder / "test_claims.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    run = claims_run()
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        [f"ERROR: claims/{PAPER}/test_claims.py::test_* and *test_more.py::*; rename one"]
    )
    again = claims_run("--keep-duplicates", "claims/", f"claims/{PAPER}/test_claims.py", "-k", "test_claims")
    again.stdout.fnmatch_lines(["*refuted*"])


def test_the_ledger_of_a_run_without_a_project_lies_where_it_was_started(
    claims_run: ClaimsRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = claims_run.pytester.path / "audits" / PAPER
    claims_run.write(CLAIMS)
    folder.parent.mkdir()
    (claims_run.folder / "test_claims.py").rename(claims_run.folder / "test_it.py")
    claims_run.folder.rename(folder)
    (claims_run.pytester.path / "claims").rmdir()
    called(claims_run, *CHOICE, str(folder), "--record-expectations")
    assert json.loads((tmp_path / "reports" / "ledger.json").read_text(encoding="ascii"))["cells"]
    called(claims_run, *CHOICE, str(folder)).assert_outcomes(passed=2, xfailed=5, skipped=2)
    assert (folder.parent / "fixtures" / "expected.toml").is_file()
