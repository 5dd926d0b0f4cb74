"""Options are checked as a whole, before any work; each wrong one is named in one line with its remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from caploc.audit.cells import cell_parameters
from caploc.audit.claims import ClaimTest
from caploc.audit.settings import AuditSettings, read_settings
from caploc.defaults import DEFAULTS
from caploc.tests.audit.conftest import ClaimsRun

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sigma=0", "--sigma 0: must be a number above 0, such as 6"),
        ("--sigma=6,-3", "--sigma -3: must be a number above 0"),
        ("--sigma=nan", "--sigma nan: must be a number above 0"),
        ("--sigma=inf", "--sigma inf: must be"),
        ("--sigma=six", "--sigma six: must be"),
        ("--samples=15", "--samples 15: must be a whole number of at least 16"),
        ("--samples=2.5", "--samples 2.5: must be a whole number"),
        ("--draws=19", "--draws 19: must be a whole number of at least 20"),
        ("--seed=-1", "--seed -1: must be a whole number of at least 0"),
        ("--steps=0", "--steps 0: must be a whole number of at least 1"),
        ("--quadrature=simpson", "--quadrature simpson: *unknown; choose one of paper, trapezoid, gauss-legendre"),
        ("--reading=scope", "--reading scope: must be SETTING=ALTERNATIVE, as in scope=layer"),
        ("--reading=scope=row", "--reading scope=row: scope 'row' is unknown; choose one of model, layer"),
        ("--reading=zoom=2", "--reading zoom=2: the paper leaves no setting 'zoom' open; choose one of dispersion, "),
        ("--paper=nowhere", "--paper nowhere: unknown paper 'nowhere'; there is *, or give the path"),
        ("--dtype=int8", "--dtype int8: unknown; choose one of auto, float32"),
        ("--device=gpu", "--device gpu: must be auto, cpu, cuda or cuda:N"),
        ("--data-root=nowhere", "--data-root nowhere: no such folder"),
        ("--store=file.txt", "--store file.txt: is a file; give a folder"),
        ("--dataset=mine=nowhere.jsonl", "--dataset mine=nowhere.jsonl: no such file"),
        ("--dataset=m ine=file.txt", "--dataset m ine=file.txt: the name may hold only ASCII letters"),
        ("--dataset=gsm9k", "--dataset gsm9k: unknown; did you mean gsm8k"),
        ("--dataset=", "--dataset : unknown; there is "),
        ("--model=tiny-lama", "--model tiny-lama: no known name, no folder, no hub id*; did you mean tiny-llama"),
        ("--model=file.txt", "--model file.txt: is a file; give the folder that holds config.json"),
        ("--model=meta-llama/Llama-2-7b-hf", "--model meta-llama/Llama-2-7b-hf: a hub model needs its commit*@COMMIT"),
        ("--html=report.jsonl", "--html report.jsonl: the ending .jsonl is the ledger's"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line(claims_run: ClaimsRun, argument: str, message: str) -> None:
    (claims_run.pytester.path / "file.txt").write_text("", encoding="ascii")
    claims_run.write("def test_never_runs(): ...")
    run = claims_run.pytester.runpytest_inprocess(argument)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: {message}*"])
    assert len([line for line in run.stderr.lines if line]) == 1
    assert not (claims_run.pytester.path / "reports").exists()


def cells(settings: AuditSettings, *declared: Any, **options: Any) -> list[Any]:
    return cell_parameters(ClaimTest("", None, *declared, **options), settings, lambda _: ())


def labels(parameters: Sequence[Any]) -> list[str]:
    return [parameter.id for parameter in parameters]


def test_repeats_and_comma_lists_make_one_grid() -> None:
    settings = read(
        model=["tiny-llama,tiny-gptj", "tiny-llama"],
        dataset=["gsm8k", "imdb,gsm8k"],
        sigma=["6,3", "6.0", "2.5"],
    )
    assert labels(cells(settings)) == [
        f"{model}-{dataset}-s{sigma}"
        for model in ("tiny-llama", "tiny-gptj")
        for dataset in ("gsm8k", "imdb")
        for sigma in ("6", "3", "2.5")
    ]
    assert labels(cells(settings, "model"))[:2] == ["tiny-llama-s6", "tiny-llama-s3"]


def test_defaults_are_the_embedded_models_and_the_papers_own_on_a_gpu() -> None:
    settings = read()
    parameters = cells(settings)
    assert len(parameters) == 5 * 5 * 2
    marks = {parameter.id: {mark.name for mark in parameter.marks} for parameter in parameters}
    assert marks["tiny-llama-gsm8k-s6"] == set()
    assert marks["llama2-7b-gsm8k-s6"] >= {"gpu", "min_gb", "gated", "network"}
    assert "gated" not in marks["gptj-6b-imdb-s3"]
    assert not settings.departures


def test_a_claim_about_one_dataset_keeps_to_it() -> None:
    parameters = cells(read(model=["tiny-llama"]), dataset="gsm8k")
    assert labels(parameters) == ["tiny-llama-gsm8k-s3", "tiny-llama-gsm8k-s6"]
    left_out = cells(read(model=["tiny-llama"], dataset=["imdb"], sigma=["6"]), dataset="gsm8k")
    assert labels(left_out) == ["tiny-llama-gsm8k-s6"]
    assert "add --dataset gsm8k" in left_out[0].marks[0].kwargs["reason"]


def test_folders_and_hub_ids_get_ascii_labels_of_their_own(tmp_path: Path) -> None:
    folders = [
        tmp_path / "a" / "mödel 1",
        tmp_path / "b" / "mödel 1",
        tmp_path / "llama2-7b",
        tmp_path / "x,y",
    ]
    for folder in folders:
        folder.mkdir(parents=True)
    settings = read(model=[*map(str, folders), f"ORG/model@{COMMIT}"])
    assert [model.label for model in settings.models] == [
        "m-del-1",
        "m-del-1-2",
        "llama2-7b-local",
        "x-y",
        "model",
    ]
    assert [model.model for model in settings.models][:4] == [str(folder) for folder in folders]
    assert not any(model.embedded or model.gpu for model in settings.models)


def test_own_datasets_and_every_decisive_option_are_departures(tmp_path: Path) -> None:
    file = tmp_path / "a,b=c.jsonl"
    file.write_text("{}", encoding="ascii")
    settings = read(dataset=[f"mine={file}"], seed="1", steps="7", device="cpu", dtype="float32")
    assert settings.datasets[0].path == str(file)
    assert settings.departures == ("--seed 1", "--steps 7", f"--dataset mine={file}")
    with pytest.raises(pytest.UsageError, match="the name mine is given twice"):
        read(dataset=[f"mine={file}", f"mine={tmp_path}/../{tmp_path.name}/a,b=c.jsonl"])


def test_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caploc.audit.settings._cuda", lambda: True)
    settings = read()
    assert settings.placement("tiny-llama") == ("cpu", "float32")
    assert settings.placement("llama2-7b") == ("cuda", "bfloat16")
    assert read(device="cpu", dtype="bfloat16").placement("llama2-7b") == ("cpu", "bfloat16")
    monkeypatch.setattr("caploc.audit.settings._cuda", lambda: False)
    assert settings.placement("llama2-7b") == ("cpu", "float32")


def test_help_teaches_and_the_plugin_is_cheap_to_import() -> None:
    heavy = "'torch', 'transformers', 'matplotlib', 'datasets', 'scipy', 'hypothesis', 'pydantic', 'jinja2'"
    code = f"import sys, caploc.audit.plugin; print([name for name in ({heavy},) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
