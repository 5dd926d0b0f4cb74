"""GPU gates, and tests in the order of their models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from caploc.audit.cells import cell_parameters
from caploc.audit.claims import ClaimTest
from caploc.audit.settings import AuditSettings, read_settings
from caploc.defaults import DEFAULTS
from caploc.experiments.locating import Scores
from caploc.experiments.specs import Need, Plan
from caploc.experiments.study import Study, StudySettings
from caploc.model import loading
from caploc.model.registry import REGISTRY
from caploc.store import Store
from caploc.tests.audit.conftest import PAPER, ClaimsRun
from caploc.tests.tiny import REPOSITORY


def read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


GATED = """
@claim("table1-overlap", measured(overlap(0.85, 0.9)))
def test_overlap(): ...
"""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_without_a_gpu_each_large_model_is_skipped_in_one_line(claims_run: ClaimsRun, no_gpu: None) -> None:
    claims_run.write(GATED)
    run = claims_run("--dataset=gsm8k", model="llama2-7b")
    run.assert_outcomes(skipped=2)
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["*2 not run: needs a CUDA GPU with at least * GB; none found (2)"])
    assert claims_run.summary()["counts"]["NOT RUN"] == 2


def test_a_device_named_by_the_user_is_taken_at_its_word(claims_run: ClaimsRun, no_gpu: None) -> None:
    claims_run.write(GATED)
    claims_run("--device=cpu", model="llama2-7b").assert_outcomes(passed=2)


@pytest.mark.parametrize(("gb", "passed"), [(16, 0), (90, 2)])
def test_a_gpu_must_be_large_enough(
    claims_run: ClaimsRun, monkeypatch: pytest.MonkeyPatch, gb: int, passed: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    properties = SimpleNamespace(total_memory=gb * 10**9)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: properties)
    claims_run.write(GATED)
    run = claims_run(model="llama2-7b")
    run.assert_outcomes(passed=passed, skipped=2 - passed)
    if not passed:
        run.stdout.fnmatch_lines(["*not run: needs a CUDA GPU with at least * GB; the one found has 16 GB*"])


def test_gpu_cells_can_be_selected_and_deselected(claims_run: ClaimsRun, no_gpu: None) -> None:
    claims_run.write(GATED)
    claims_run.expect("")
    models = "tiny-llama,gptj-6b"
    claims_run("--seed=1", "-m", "gpu", model=models).assert_outcomes(skipped=2, deselected=2)
    claims_run("--seed=1", "-m", "not gpu", model=models).assert_outcomes(passed=2, deselected=2)


def test_markers_are_described(claims_run: ClaimsRun) -> None:
    claims_run("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.gpu: needs a CUDA GPU*", "@pytest.mark.min_gb(n): *", "@pytest.mark.claim: *"]
    )


def test_tests_come_in_the_order_of_their_models(claims_run: ClaimsRun) -> None:
    claims_run.write(GATED + GATED.replace("test_overlap", "test_again") + "def test_plain(): ...\n")
    run = claims_run("--seed=1", "-v", "--dataset=gsm8k", model="tiny-gptj,tiny-llama")
    names = [
        line.split("::")[1].split(" ")[0]
        for line in run.stdout.lines
        if "SUPPORTED" in line or "plain" in line
    ]
    models = ["gptj" in name for name in names[1:]]
    assert names[0] == "test_plain"
    assert models == sorted(models, reverse=True) and len(models) == 8


@pytest.mark.parametrize("marker", ["@pytest.mark.claim\n", "@pytest.mark.claim('table1-overlap')\n"])
def test_a_marker_that_the_decorator_did_not_set_is_refused(claims_run: ClaimsRun, marker: str) -> None:
    claims_run.write(f"{marker}def test_it(): ...\n")
    run = claims_run()
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        ["*::test_it: the marker claim is set by the decorator caploc.audit.claims.claim; *"]
    )


def test_the_fixture_needs_the_decorator(claims_run: ClaimsRun) -> None:
    claims_run.write("def test_it(audit): ...\n")
    claims_run().stdout.fnmatch_lines(
        ["*::test_it: the fixture audit is for tests made by caploc.audit.claims.claim*"]
    )


PRINTED_CHECK = """
for number in ("1", "2"):

    def body(): ...

    body.__name__ = f"test_printed_{number}"
    found = Measurement("violations", Count(float(number), unit="count"))
    check = lambda paper, claim, found=found: found
    globals()[body.__name__] = claim("general-protocol-counts", check, over="print")(body)
"""


def test_a_claim_test_without_a_model_comes_first_and_is_about_what_is_printed(claims_run: ClaimsRun) -> None:
    claims_run.write(GATED + "def test_plain(): ...\n" + PRINTED_CHECK)
    run = claims_run("--seed=1", "-v", "--dataset=gsm8k", model="tiny-llama")
    names = [line.split("::")[1].split(" ")[0] for line in run.stdout.lines if "::" in line and "%]" in line]
    assert names == ["test_plain", "test_printed_1", "test_printed_2", *names[3:]] and len(names) == 5
    cells = {cell["test"]: cell["model"] for cell in claims_run.summary()["cells"]}
    assert cells["test_printed_1"] == "printed" and cells[names[3]] == "tiny-llama"


def test_no_setting_changes_what_is_printed(claims_run: ClaimsRun) -> None:
    claims_run.write(PRINTED_CHECK)
    claims_run.expect(
        "".join(
            f'[cells."test_printed_{number}"]\nverdict = "REFUTED"\nlow = 1\nhigh = 1\nwhy = "counted by hand"\n'
            for number in (1, 2)
        )
    )
    run = claims_run("--seed=1", "--samples=20")
    run.assert_outcomes(xfailed=1, failed=1)
    run.stdout.fnmatch_lines(["  MOVED test_printed_2: estimate moved: 2 is outside the reviewed range *"])


def test_a_claim_about_one_sigma_keeps_to_it(claims_run: ClaimsRun) -> None:
    claims_run.write(GATED.replace("0.9)))", "0.9)), sigma=6)"))
    claims_run("--seed=1", "--sigma=3").assert_outcomes(passed=2)
    assert {cell["sigma"] for cell in claims_run.summary()["cells"]} == {6.0}
    run = claims_run.pytester.runpytest_inprocess(
        "--model=tiny-llama", "--dataset=gsm8k", "--sigma=3", "--seed=1"
    )
    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["*1 not run: this claim is about sigma 6; add --sigma 6*"])


COMPARED = """
def compare(studies, cell, claim):
    assert cell.models == [one.model for one in studies] and len(studies) > 1
    return Measurement("rho", Bound(0.5, (0.4, 0.6)))

@claim("fig10-other-models", measured(compare), over="models", across=True)
def test_alike(): ...
"""


def test_a_claim_may_compare_models(claims_run: ClaimsRun) -> None:
    claims_run.write(COMPARED + GATED)
    run = claims_run("--seed=1", "--sigma=3", "-v", model="tiny-llama,tiny-gptj,llama2-7b,gptj-6b")
    run.assert_outcomes(passed=10, skipped=10)
    cells = {
        cell["test"]: cell for cell in claims_run.summary()["cells"] if cell["claim"].startswith("fig10")
    }
    assert {test: cell["status"] for test, cell in cells.items()} == {
        "test_alike[tiny-gptj+tiny-llama-s6]": "SUPPORTED",
        "test_alike[tiny-gptj+tiny-llama-s3]": "SUPPORTED",
        "test_alike[gptj-6b+llama2-7b-s6]": "NOT RUN",
        "test_alike[gptj-6b+llama2-7b-s3]": "NOT RUN",
    }
    assert cells["test_alike[tiny-gptj+tiny-llama-s6]"]["model"] == "tiny-gptj+tiny-llama"


def test_models_that_need_a_gpu_are_compared_with_each_other(claims_run: ClaimsRun) -> None:
    claims_run.write(COMPARED)
    claims_run.expect("")
    models = "tiny-llama,gptj-6b,tiny-gptj,llama2-13b"
    for chosen, names in (("gpu", "gptj-6b+llama2-13b"), ("not gpu", "tiny-gptj+tiny-llama")):
        run = claims_run("--collect-only", "-q", "-m", chosen, model=models)
        assert [line for line in run.stdout.lines if "::" in line] == [
            f"claims/{PAPER}/test_claims.py::test_alike[{names}-s6]"
        ]
    settings = read(model=[models], sigma=["6"])
    (request,) = (
        item
        for item in cell_parameters(ClaimTest("", None, "models"), settings, lambda _: ())
        if "gptj-6b" in item.id
    )
    marks = {mark.name: mark.args for mark in request.marks}
    least = max(REGISTRY[name].min_gb("attribution") for name in ("gptj-6b", "llama2-13b"))
    assert marks == {"gpu": (), "min_gb": (least,), "gated": (), "network": ()}


def test_a_model_that_is_alone_is_compared_with_none(claims_run: ClaimsRun) -> None:
    claims_run.write(COMPARED)
    run = claims_run()
    run.assert_outcomes(skipped=1)
    run.stdout.fnmatch_lines(["*1 not run: this claim compares models; add another --model*"])


@pytest.mark.parametrize("order", ["tiny-llama,tiny-gptj", "tiny-gptj,tiny-llama"])
def test_expectations_speak_of_the_embedded_models_together(claims_run: ClaimsRun, order: str) -> None:
    claims_run.write(COMPARED.replace("0.4, 0.6", "-0.6, -0.4"))
    claims_run.expect(
        '[cells."test_alike[tiny-gptj+tiny-llama-s6]"]\nverdict = "REFUTED"\nlow = 0.4\nhigh = 0.6\nwhy = "x"\n'
    )
    run = claims_run.pytester.runpytest_inprocess("--sigma=6", f"--model={order}")
    run.assert_outcomes(xfailed=1)
    other = claims_run.pytester.runpytest_inprocess("--sigma=6", f"--model={order}", "--dataset=gsm8k")
    other.assert_outcomes(failed=1)
    other.stdout.no_fnmatch_line("*moved*")


EFFECTS = """
import pytest
from caploc.audit.claims import Module

@claim("table3-spares-general-text", Module("caploc.experiments.erasure").spares_text)
def test_spared(): ...

@claim("fidelity-ordering", Module("caploc.experiments.fidelity").ordering, over="facts", dataset="pararel")
def test_order(): ...

@claim("table3-base", Module("caploc.experiments.erasure").base)
def test_base(): ...
"""


def test_a_plan_says_what_can_be_decided_and_runs_nothing(claims_run: ClaimsRun) -> None:
    """A row a claim with its reach, power and error rates; where the power is low, an option that helps; no ledger."""
    claims_run.write(EFFECTS)
    run = claims_run("--plan")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(
        [
            "*plan: nothing was run*",
            "claim * cells * supp * ref * power * against * false s * false r * time",
            "fidelity-ordering *yes*%*%*%*%*",
            "*20 facts at 0.1; about --samples * gives 80 %",
            "family * cells * warm * TFLOP * time * memory * disk",
            "erasure *4 *0 *core h * GB * GB",
            "fidelity *1 *0 *core h * GB * GB",
            "in all *core h*",
            "*cells: * judged from samples*",
            "*cannot reach one of the verdicts*",
        ]
    )
    run.stdout.fnmatch_lines(["*measured only: the paper prints no number for this model*"])
    assert not (claims_run.pytester.path / "reports").exists()


@pytest.mark.parametrize("also", ["--claim-coverage", "--record-expectations"])
def test_a_plan_beside_what_asks_for_a_run_is_told(claims_run: ClaimsRun, also: str) -> None:
    claims_run.write(EFFECTS)
    run = claims_run("--plan", also)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"*--plan runs nothing*{also}*"])


def test_a_plan_says_what_cannot_run_here_and_why(claims_run: ClaimsRun, no_gpu: None) -> None:
    claims_run.write(EFFECTS)
    run = claims_run("--plan", "-m", "gpu", model="llama2-7b")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(
        [
            "erasure *4 *0 *- *- *- *-",
            "*    4 cells cannot run here: needs a CUDA GPU with at least * GB; none found",
        ]
    )


def test_a_plan_of_a_large_model_reads_no_weight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a GPU that is pretended: the store holds nothing of weights that it never knew, so nobody hashes them."""
    data = str(REPOSITORY / "fixtures" / "data")
    settings = StudySettings(16, 20, device="cuda", data_root=data, datasets=["gsm8k"], store=Store(tmp_path))
    study = Study("tiny-llama", replace(settings, elsewhere=True))
    assert study.unread and study.lm.device.type == "cuda"
    monkeypatch.setattr(loading._Source, "weights", None)
    outlook = Plan([Need(study, Scores("gsm8k"))]).outlook
    assert (outlook.stored, outlook.results) == (0, 1) and outlook.flops > 1e9
