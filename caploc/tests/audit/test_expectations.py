"""Reviewed verdicts: met, moved, absent, recorded."""

from __future__ import annotations

import pytest

from caploc.audit.expectations import (
    Expectation,
    ExpectationsError,
    dumps,
    load_expectations,
    record,
)
from caploc.audit.results import Planned, Result, Status
from caploc.findings import PRINTED, Bound, Cell, Count, Finding, Measurement, Outcome, Verdict
from caploc.tests.audit.conftest import ClaimsRun

REFUTED = """
@claim("table1-overlap", measured(overlap(0.1, 0.2)))
def test_overlap(): ...
"""
CELL = '[cells."test_overlap[tiny-llama-{}-s6]"]\nverdict = "{}"\nlow = {}\nhigh = {}\nwhy = "few samples"\n'


def expected(verdict: str, low: float = 0.1, high: float = 0.2) -> str:
    return "".join(CELL.format(dataset, verdict, low, high) for dataset in ("gsm8k", "emotion"))


def test_refuted_as_expected_is_not_red(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED)
    claims_run.expect(expected("REFUTED"))
    run = claims_run()
    run.assert_outcomes(xfailed=2)
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["all cells: 0 supported, 2 refuted (as expected here), 0 inconclusive"])
    assert [line["why"] for line in claims_run.ledger() if line["type"] == "finding"] == ["few samples"] * 2


def test_a_claim_across_datasets_is_compared_only_where_all_of_them_ran(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED.replace("0.2)))", "0.2)), across=True)"))
    claims_run.expect(expected("SUPPORTED"))
    run = claims_run()
    run.assert_outcomes(failed=2)
    run.stdout.no_fnmatch_line("*MOVED*")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (expected("SUPPORTED"), "verdict moved: expected SUPPORTED, got REFUTED"),
        (expected("INCONCLUSIVE"), "verdict moved: expected INCONCLUSIVE, got REFUTED"),
        (expected("NOT RUN"), "verdict moved: expected NOT RUN, got REFUTED"),
        (
            expected("REFUTED", 0.16, 0.9),
            "estimate moved: 0.15 is outside the reviewed range [[]0.16, 0.9[]]",
        ),
        ("", "no expectation is recorded for this cell*--record-expectations"),
    ],
)
def test_what_moved_is_red(claims_run: ClaimsRun, entry: str, message: str) -> None:
    claims_run.write(REFUTED)
    claims_run.expect(entry)
    run = claims_run()
    run.assert_outcomes(failed=2)
    run.stdout.fnmatch_lines(["*2 moved", f"  MOVED test_overlap*: {message}", "MOVED *test_overlap*"])


def test_an_expected_refutation_that_is_supported_is_red(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED.replace("0.1, 0.2", "0.9, 0.95"))
    claims_run.expect(expected("REFUTED", 0, 1))
    run = claims_run()
    run.assert_outcomes(failed=2)
    run.stdout.fnmatch_lines(["*verdict moved: expected REFUTED, got SUPPORTED*"])


def test_an_expected_refutation_excuses_no_error(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED.replace("overlap(0.1, 0.2)", "lambda *_: 1 / 0"))
    claims_run.expect(expected("REFUTED"))
    claims_run().assert_outcomes(errors=2)


@pytest.mark.parametrize(
    "departure", ["--seed=1", "--draws=27", "--samples=19", "--samples=auto", "--steps=5", "--dtype=float64"]
)
def test_expectations_are_off_where_a_setting_departs(claims_run: ClaimsRun, departure: str) -> None:
    claims_run.write(REFUTED)
    claims_run.expect(expected("SUPPORTED"))
    run = claims_run(departure)
    run.assert_outcomes(failed=2)
    run.stdout.fnmatch_lines(
        [f"caploc: *expectations are off*{departure.replace('=', ' ')}*", "*2 refuted, 0 inconclusive"]
    )


def test_expectations_say_nothing_of_other_models(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED)
    folder = claims_run.pytester.mkdir("tiny-llama")  # a folder that shares an embedded model's name
    run = claims_run(model=str(folder))
    run.stdout.fnmatch_lines(["REFUTED *test_overlap?tiny-llama-local-gsm8k-s6?*", "REFUTED *"])
    assert run.ret == pytest.ExitCode.TESTS_FAILED


def test_recording_and_running_again_is_green(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED)
    claims_run.expect(
        '[cells."test_other"]\nverdict = "SUPPORTED"\nwhy = "kept"\n' + expected("REFUTED", 0.9, 1)
    )
    run = claims_run("--record-expectations")
    run.assert_outcomes(xfailed=2)
    run.stdout.fnmatch_lines(["recorded 2 expectations in fixtures/expected.toml; review them"])
    recorded = load_expectations(claims_run.expected)
    assert recorded["test_other"].why == "kept"
    assert recorded["test_overlap[tiny-llama-gsm8k-s6]"] == Expectation(
        Outcome.REFUTED, 0.1, 0.2, "few samples"
    )
    claims_run().assert_outcomes(xfailed=2)


def test_recording_needs_default_settings(claims_run: ClaimsRun) -> None:
    claims_run.write(REFUTED)
    run = claims_run("--record-expectations", "--seed=3")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: --record-expectations needs the default settings; leave out --seed 3"])


def result(estimate: float | None, unit: str = "fraction", outcome: Outcome = Outcome.REFUTED) -> Result:
    cell = Cell("tiny-llama", "gsm8k", 6.0)
    finding = Finding("table1-overlap", cell, Measurement("o", Bound(estimate, unit=unit)))
    return Result.of(Planned("f::t", "t", "table1-overlap", cell), finding, Verdict(outcome, "the reason"))


@pytest.mark.parametrize(
    ("estimate", "unit", "low", "high"),
    [(0.1, "fraction", 0.05, 0.15), (0.5, "fraction", 0.4, 0.6), (3, "count", 1, 5), (100, "count", 80, 120)],
)
def test_the_recorded_range(estimate: float, unit: str, low: float, high: float) -> None:
    assert record([result(estimate, unit)], {})["t"] == Expectation(Outcome.REFUTED, low, high, "the reason")


@pytest.mark.parametrize(("estimate", "low", "high"), [(3.0, 3, 3), (0.123456, 0.1234, 0.1236)])
def test_what_follows_from_printed_numbers_may_not_move(estimate: float, low: float, high: float) -> None:
    cell = Cell(PRINTED)
    measured = Measurement("violations", Count(estimate, unit="count"))
    finding = Finding("general-protocol-counts", cell, measured)
    checked = Result.of(Planned("f::t", "t", finding.claim, cell), finding, Verdict(Outcome.REFUTED, "x"))
    assert record([checked], {})["t"] == Expectation(Outcome.REFUTED, low, high, "x")


def test_a_new_verdict_needs_a_new_reason() -> None:
    known = {"t": Expectation(Outcome.SUPPORTED, 0, 1, "was fine")}
    assert record([result(0.1)], known)["t"].why == "the reason"
    assert record([result(0.9, outcome=Outcome.SUPPORTED)], known)["t"].why == "was fine"


def test_no_estimate_no_range_and_nothing_from_errors() -> None:
    assert record([result(None, outcome=Outcome.INCONCLUSIVE)], {})["t"].low is None
    planned = Planned("f::t", "t", "table1-overlap", Cell("tiny-llama"))
    assert record([Result(planned, Status.ERROR, "boom"), Result(planned, Status.MISSING, "gone")], {}) == {}


def test_the_file_survives_hostile_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("expected") / "expected.toml"
    hostile = 'quote " backslash \\ newline \n nul \x00 delete \x7f right-to-left \u202e'
    entries = {hostile: Expectation(Outcome.SUPPORTED, -0.5, 1e-12, hostile)}
    path.write_text(dumps(entries), encoding="utf-8")
    assert load_expectations(path) == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cells.a]\nverdict = 'MAYBE'\nwhy = ''", "a: verdict is 'MAYBE'; it must be one of SUPPORTED"),
        ("[cells.a]\nverdict = 'REFUTED'", "a: the sentence why is missing"),
        ("[cells.a]\nverdict = 'REFUTED'\nlow = 1\nwhy = ''", "low and high must both be there"),
        ("[cells.a]\nverdict = 'REFUTED'\nlow = 2\nhigh = 1\nwhy = ''", "low <= high"),
        ("[cells.a]\nverdict = 'REFUTED'\nlow = nan\nhigh = 1\nwhy = ''", "must be a finite number"),
        ("[cells.a]\nverdict = 'REFUTED'\nhihg = 1\nwhy = ''", "unknown field 'hihg'"),
        ("cells = {a = 1}", "a: a table is expected"),
        ("[cells", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(claims_run: ClaimsRun, text: str, message: str) -> None:
    claims_run.expect(text)
    with pytest.raises(ExpectationsError, match=message) as caught:
        load_expectations(claims_run.expected)
    assert "expected.toml" in str(caught.value)
    claims_run.write(REFUTED)
    run = claims_run()
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: *expected.toml*"])
