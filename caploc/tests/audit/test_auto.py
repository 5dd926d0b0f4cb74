"""``--samples auto``: a cell is looked at until its verdict is reached, and says at which look; others only once."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.tests.audit.conftest import ClaimsRun

LOOKED = """
from caploc.experiments.study import Experiment

def looked(name, estimate, of_all, fails=()):
    def measure(study, cell, claim):
        share = study.settings.share
        with open("shares.txt", "a") as file:
            print(share, file=file)
        if share in fails:
            raise ZeroDivisionError("a defect of look " + str(share))
        half = of_all / share**0.5
        return Measurement("ratio", Bound(estimate, (estimate - half, estimate + half), unit="times"))
    return Experiment(name, "", lambda *_: (), measure)

@claim("fidelity-kc-granularity", looked("{name}", {estimate}, {of_all}, {fails}), over="model")
def test_ratio(): ...
"""
"""The rule says SUPPORTED above 10 and REFUTED below 1."""
EARLY = "fidelity.kc_granularity"


def looks(claims_run: ClaimsRun, *arguments: str, **cell: Any) -> list[float]:
    """The shares of the facts that a run measured, in order."""
    claims_run.write(LOOKED.format(**{"name": EARLY, "fails": (), **cell}))
    told = claims_run.pytester.path / "shares.txt"
    told.unlink(missing_ok=True)
    claims_run(*arguments)
    return [float(line) for line in told.read_text().split()]


def told(claims_run: ClaimsRun) -> dict[str, Any]:
    """What the ledger says of the one cell."""
    (line,) = (one for one in claims_run.ledger() if one["type"] == "finding")
    found: dict[str, Any] = line
    return found


@pytest.mark.parametrize(
    ("estimate", "of_all", "shares", "verdict"),
    [
        (12.0, 0.2, [0.25], "SUPPORTED"),
        (0.5, 0.05, [0.25], "REFUTED"),
        (12.0, 0.8, [0.25, 0.5], "SUPPORTED"),
        (12.0, 1.9, [0.25, 0.5, 1.0], "SUPPORTED"),
        (12.0, 1.995, [0.25, 0.5, 1.0], "INCONCLUSIVE"),  # at one look, 1.995 below 2 is enough
        (5.0, 0.01, [0.25, 0.5, 1.0], "INCONCLUSIVE"),
    ],
)
def test_a_cell_is_looked_at_until_it_is_decided(
    claims_run: ClaimsRun, estimate: float, of_all: float, shares: list[float], verdict: str
) -> None:
    assert looks(claims_run, "--samples=auto", estimate=estimate, of_all=of_all) == shares
    cell = told(claims_run)
    assert cell["status"] == verdict
    finding = cell["finding"]
    assert finding["settings"]["look"] == f"{len(shares)} of 3"
    assert finding["settings"]["share of the default facts"] == shares[-1]
    assert f"judged at look {len(shares)} of 3 (--samples auto)" in finding["notes"][0]


@pytest.mark.parametrize("arguments", [[], ["--samples=20"]])
def test_without_it_a_cell_is_measured_once_and_says_nothing_of_looks(
    claims_run: ClaimsRun, arguments: list[str]
) -> None:
    assert looks(claims_run, "--seed=1", *arguments, estimate=12.0, of_all=1.995) == [1.0]
    cell = told(claims_run)
    assert cell["status"] == "SUPPORTED" and "look" not in cell["finding"]["settings"]


def test_a_claim_whose_numbers_change_with_their_number_keeps_all(claims_run: ClaimsRun) -> None:
    assert looks(claims_run, "--samples=auto", name="erasure.erase", estimate=12.0, of_all=0.2) == [1.0]
    assert "look" not in told(claims_run)["finding"]["settings"]


def test_a_defect_of_a_later_look_is_the_tests_own(claims_run: ClaimsRun) -> None:
    """Met before the test, where further looks are computed, and again in it."""
    shares = looks(claims_run, "--samples=auto", estimate=12.0, of_all=1.9, fails=(0.5,))
    assert shares == [0.25, 0.5, 0.25, 0.5]
    assert [one["status"] for one in claims_run.summary()["cells"]] == ["ERROR"]


def test_expectations_are_off_and_none_can_be_recorded(claims_run: ClaimsRun) -> None:
    claims_run.write(LOOKED.format(name=EARLY, estimate=12.0, of_all=0.2, fails=()))
    run = claims_run("--samples=auto", "--record-expectations")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*needs the default settings; leave out --samples auto*"])


PLANNED = """
from caploc.audit.claims import Module

fidelity = Module("caploc.experiments.fidelity")

@claim("fidelity-kn-overlap", fidelity.overlap(method="kn"), over="facts", dataset="pararel")
def test_overlap(): ...

@claim("table3-spares-general-text", Module("caploc.experiments.erasure").spares_text)
def test_spared(): ...
"""


def test_a_plan_says_what_looking_early_is_expected_to_take(claims_run: ClaimsRun) -> None:
    claims_run.write(PLANNED)
    run = claims_run("--plan", "--samples=auto")
    run.stdout.fnmatch_lines(
        [
            "fidelity-kn-overlap *",
            "*--samples auto: on average * of the facts at that effect, * at none, * at the opposite",
            "--samples auto: 1 cell looked at early; all others take only the last look,",
        ]
    )
    assert run.stdout.str().count("on average") == 1
    claims_run("--plan").stdout.no_fnmatch_line("*--samples auto*")
