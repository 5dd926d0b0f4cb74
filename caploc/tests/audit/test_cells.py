"""Cells of claims about single facts, on facts that the claim names or the run brings along, and over all sigmas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caploc.audit.cells import cell_parameters
from caploc.audit.claims import ClaimTest
from caploc.audit.settings import DEFAULT_DATASETS, AuditSettings, DatasetRequest, read_settings
from caploc.datasets import DATASETS
from caploc.defaults import DEFAULTS
from caploc.findings import Cell
from caploc.tests.audit.conftest import ClaimsRun

ABOUT_FACTS = """
found = Measurement("n", Bound(14.5, (14, 15), unit="count"), {"number:located": Bound(14.5, (14, 15), unit="count")})

@claim("fidelity-kn-mean-located", measured(found), over="facts", dataset="counterfact", embedded="pararel")
def test_facts(): ...
"""
SUMS = ABOUT_FACTS.replace('dataset="counterfact", embedded="pararel"', 'dataset="decoupling"')


def cells(
    claims_run: ClaimsRun, *arguments: str, model: str | None = "tiny-llama"
) -> list[tuple[object, ...]]:
    claims_run("--seed=1", "--device=cpu", *arguments, model=model)
    return [(cell["model"], cell["dataset"], cell["sigma"]) for cell in claims_run.summary()["cells"]]


def test_the_fact_datasets_are_those_of_the_registry() -> None:
    facts = {name for name, entry in DATASETS.items() if entry.task == "fact"}
    assert {name for name in DATASETS if DatasetRequest.of(name, None).facts} == facts
    assert facts >= {"counterfact", "zsre", "pararel", "known_1000"} and facts.isdisjoint(DEFAULT_DATASETS)


def test_claims_about_a_table_have_cells_for_its_datasets_alone_where_the_run_has_any() -> None:
    declared = ClaimTest("", None, preferred=("gsm8k", "emotion", "code25k"))

    def named(*datasets: str) -> list[str | None]:
        requests = [DatasetRequest(name) for name in datasets]
        settings = replace(_read(model=["tiny-llama"]), datasets=requests)
        return [one.values[0].cell.dataset for one in cell_parameters(declared, settings, lambda _: ())]

    assert named("imdb", "emotion", "meta_math", "gsm8k") == ["emotion", "gsm8k"]
    assert named("imdb", "mine") == ["imdb", "mine"]


def test_each_model_has_one_cell_whatever_the_datasets_and_sigmas(claims_run: ClaimsRun) -> None:
    claims_run.write(ABOUT_FACTS)
    found = cells(claims_run, "--sigma=3,6,12", model="tiny-llama,gptj-6b")
    assert found == [("tiny-llama", "pararel", None), ("gptj-6b", "counterfact", None)]


def test_datasets_of_facts_that_the_run_names_are_taken(claims_run: ClaimsRun, tmp_path: Path) -> None:
    claims_run.write(ABOUT_FACTS + SUMS.replace("test_facts", "test_sums"))
    mine, other = tmp_path / "mine.jsonl", tmp_path / "other.jsonl"
    record = {"prompt": "Rome lies in", "answer": " Italy", "group": "1"}
    mine.write_text(json.dumps({**record, "subject": "Rome"}))
    other.write_text(json.dumps(record))
    found = cells(claims_run, "--dataset=zsre", f"--dataset=mine={mine}", f"--dataset=other={other}")
    assert [dataset for _, dataset, _ in found] == ["zsre", "mine", "decoupling"]
    assert not DatasetRequest.of("absent", str(tmp_path / "absent.jsonl")).facts


def test_reviewed_expectations_are_about_the_facts_by_default(claims_run: ClaimsRun) -> None:
    claims_run.write(ABOUT_FACTS)
    run = claims_run()
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*MOVED test_facts?tiny-llama-pararel?: no expectation is recorded*"])
    claims_run("--dataset=counterfact").assert_outcomes(passed=1)


BOTH = {"model": ["tiny-llama"], "dataset": ["gsm8k", "mbpp"], "sigma": ["3", "12"]}


def _read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


@pytest.mark.parametrize("variants", [(), ("scope=layer",)])
def test_a_cell_for_all_sigmas_names_none(variants: tuple[str, ...]) -> None:
    settings = _read(**BOTH)
    cells = cell_parameters(ClaimTest("", None, all_sigmas=True), settings, lambda _: variants)
    names = ["tiny-llama-gsm8k", "tiny-llama-mbpp"]
    assert [one.id for one in cells] == [*names, *(f"{name}-scope-layer" for name in names if variants)]
    assert {one.values[0].cell.sigma for one in cells} == {None}
    of_model = cell_parameters(ClaimTest("", None, "model", all_sigmas=True), settings, lambda _: ())
    assert [one.id for one in of_model] == ["tiny-llama"]
    assert len(cell_parameters(ClaimTest("", None), settings, lambda _: ())) == 4


def test_expectations_speak_of_default_datasets_only() -> None:
    """A cell without a sigma is not one of single facts because of that."""
    settings = _read(**BOTH)
    assert settings.expectations_cover(Cell("tiny-llama", "gsm8k"))
    assert not settings.expectations_cover(Cell("tiny-llama", "mbpp"))
    assert settings.expectations_cover(Cell("tiny-llama", "zsre"))
