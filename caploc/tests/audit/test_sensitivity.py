"""Other readings of the paper: which cells they add, what they may not do to a run, and where a verdict flips."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.audit.cells import cell_parameters, other_readings
from caploc.audit.claims import ClaimTest
from caploc.audit.results import Planned, Result, Status, flips
from caploc.audit.settings import AuditSettings, read_settings
from caploc.defaults import DEFAULTS
from caploc.experiments.readings import CHOICES
from caploc.findings import Cell
from caploc.papers import load_paper
from caploc.tests.audit.conftest import ClaimsRun

PAPER = load_paper("capability_localization")


def read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


def test_every_question_that_can_be_varied_names_a_reading() -> None:
    for question in PAPER.ambiguities.values():
        if question.setting:
            assert question.setting in CHOICES, question.id
            assert question.default == CHOICES[question.setting][0], question.id
            assert set(question.alternatives) <= set(CHOICES[question.setting]), question.id


def test_one_departure_at_a_time_from_what_the_run_reads() -> None:
    claim = "eq8-literal-variance"  # leaves open dispersion, scope and quadrature
    assert other_readings(claim, read(), PAPER) == []
    assert other_readings(claim, read(sensitivity=True), PAPER) == [
        "dispersion=variance", "scope=layer", "quadrature=trapezoid", "quadrature=adaptive",
    ]  # fmt: skip
    elsewhere = read(sensitivity=True, reading=["scope=layer"], quadrature="adaptive")
    assert other_readings(claim, elsewhere, PAPER) == [
        "dispersion=variance", "scope=model", "quadrature=paper", "quadrature=trapezoid",
    ]  # fmt: skip
    assert other_readings("no-such-claim", read(sensitivity=True), PAPER) == []
    assert other_readings(claim, read(sensitivity=True), None) == []


@pytest.mark.parametrize(("sigmas", "tried"), [(["3", "6"], 6.0), (["3", "2"], 3.0)])
def test_other_readings_are_tried_at_one_sigma(sigmas: list[str], tried: float) -> None:
    settings = read(model=["tiny-llama"], dataset=["imdb"], sigma=sigmas)
    parameters = cell_parameters(ClaimTest("", None), settings, lambda _: ["scope=layer"])
    cells = [parameter.values[0].cell for parameter in parameters]
    assert [(cell.sigma, cell.variant) for cell in cells[2:]] == [(tried, "scope=layer")]
    assert [cell.variant for cell in cells[:2]] == ["", ""]
    assert cells[2].label == f"tiny-llama-imdb-s{tried:g}-scope-layer"


def test_a_reading_for_the_whole_run_is_a_departure() -> None:
    settings = read(reading=["scope=layer", "scope=layer"], quadrature="trapezoid")
    assert settings.departures == ("--reading scope=layer", "--reading quadrature=trapezoid")
    assert (settings.reading.scope, settings.quadrature) == ("layer", "trapezoid")
    assert read(reading=["scope=model"], quadrature="paper").departures == ()
    assert read(sensitivity=True).departures == ()
    with pytest.raises(
        pytest.UsageError, match="--reading quadrature=paper: quadrature is given as adaptive too"
    ):
        read(reading=["quadrature=paper"], quadrature="adaptive")


READ = """
def share(study, cell, claim):
    share = 0.5 if study.settings.reading.scope == "layer" else 0.001
    if cell.variant == "quadrature=adaptive":
        raise RuntimeError("no memory")
    return Measurement("share", Count(share, (share, share), unit="share"), plots=[Plot("matrix", "x", {})])

@claim("eq8-literal-variance", measured(share))
def test_share(): ...
"""


def test_a_verdict_under_another_reading_never_fails_the_run(claims_run: ClaimsRun) -> None:
    claims_run.write(READ.replace('raise RuntimeError("no memory")', 'return not_run("no memory")'))
    claims_run.expect(
        "".join(
            f'[cells."test_share[tiny-llama-{name}-s6]"]\nverdict = "SUPPORTED"\nwhy = "x"\n'
            for name in ("gsm8k", "emotion")
        )
    )
    run = claims_run("--sensitivity", "-rx")
    assert run.ret == pytest.ExitCode.OK
    run.assert_outcomes(passed=6, xfailed=2, skipped=2)
    run.stdout.fnmatch_lines(["all cells: 2 supported, 0 refuted, 0 inconclusive"])
    run.stdout.fnmatch_lines(["REFUTED *test_share*-scope-layer? - refuted, read with scope=layer: *"])
    content = claims_run.summary()
    assert content["counts"]["SUPPORTED"] == 2 and content["counts"]["REFUTED"] == 0
    assert content["other_readings"]["REFUTED"] == 2 and content["other_readings"]["NOT RUN"] == 2
    assert content["flips"] == [
        {
            "test": f"test_share[tiny-llama-{name}-s6]",
            "claim": "eq8-literal-variance",
            "status": "SUPPORTED",
            "others": {"scope=layer": "REFUTED"},
        }
        for name in ("gsm8k", "emotion")
    ]
    findings = {
        line["planned"]["test"]: line["finding"] for line in claims_run.ledger() if line["type"] == "finding"
    }
    assert findings["test_share[tiny-llama-gsm8k-s6]"]["plots"]
    assert not findings["test_share[tiny-llama-gsm8k-s6-scope-layer]"]["plots"]


def test_an_error_under_another_reading_is_still_an_error(claims_run: ClaimsRun) -> None:
    claims_run.write(READ)
    run = claims_run("--sensitivity", "--seed=1")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.assert_outcomes(passed=6, xfailed=2, errors=2)
    assert set(claims_run.summary()["errors"]) == {
        f"test_share[tiny-llama-{name}-s6-quadrature-adaptive]" for name in ("gsm8k", "emotion")
    }


def test_each_reading_of_a_model_is_run_in_one_go(claims_run: ClaimsRun) -> None:
    claims_run.write(READ + READ.replace("test_share", "test_again"))
    run = claims_run("--sensitivity", "--collect-only", "-q", model="tiny-gptj,tiny-llama")
    labels = [line.partition("[")[2].rstrip("]") for line in run.stdout.lines if "::" in line]
    blocks = [(label.startswith("tiny-gptj"), label.partition("-s6")[2]) for label in labels]
    assert len(blocks) == 2 * 2 * 2 * 5
    assert blocks == sorted(blocks, key=lambda block: (-block[0], list(dict.fromkeys(blocks)).index(block)))


def test_a_reading_for_the_whole_run_reaches_its_tests(claims_run: ClaimsRun) -> None:
    claims_run.write(READ)
    claims_run("--reading=scope=layer").assert_outcomes(failed=2)
    assert claims_run.summary()["provenance"]["settings"]["reading"]["scope"] == "layer"


def end(status: Status, variant: str = "", claim: str = "table1-overlap", test: str = "t") -> Result:
    cell = Cell("m", "d", 6.0, variant)
    name = f"{test}[1-{cell.label}]"
    return Result(Planned(f"f::{name}", name, claim, cell), status, "")


def test_only_verdicts_flip() -> None:
    results = [
        end(Status.SUPPORTED),
        end(Status.REFUTED, "scope=layer"),
        end(Status.SUPPORTED, "value=pre"),
        end(Status.NOT_RUN, "path=neuron"),
        end(Status.ERROR, "quadrature=adaptive"),
        end(Status.INCONCLUSIVE, "dispersion=variance"),
        end(Status.NOT_RUN, test="u"),
        end(Status.REFUTED, "scope=layer", test="u"),
        end(Status.REFUTED, test="v"),
        end(Status.REFUTED, "scope=layer", test="v"),
    ]
    (flip,) = flips(results)
    assert flip.base is results[0]
    assert flip.sentence == "SUPPORTED, but REFUTED with scope=layer, INCONCLUSIVE with dispersion=variance"
