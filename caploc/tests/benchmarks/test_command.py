"""``python -m caploc.benchmarks``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch

from caploc.benchmarks import BENCHMARKS, Options, find_benchmark
from caploc.benchmarks.__main__ import main
from caploc.errors import UnknownNameError


def test_quick_run_prints_and_writes_every_cheap_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, file = torch.get_num_threads(), tmp_path / "report.json"
    only = [part for question in ("ratios", "growth", "rate") for part in ("--only", question)]
    assert main(["attribution", "--quick", "--repeat", "2", *only, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "1 thread used" in printed and "naive / packed" in printed and "GFLOP/s" in printed
    assert torch.get_num_threads() == threads

    report = json.loads(file.read_text())
    assert report["machine"]["threads"] == 1 and report["options"]["repeat"] == 2
    tables = {table["key"]: table for table in report["benchmarks"]["attribution"]}
    assert list(tables) == ["ratios", "ratios-seconds", "growth", "rate"]
    (ratio,) = tables["ratios"]["rows"]
    assert (
        ratio["naive / packed"]["low"] <= ratio["naive / packed"]["median"] <= ratio["naive / packed"]["high"]
    )
    assert 0 < ratio["error: naive"] < 2e-6 and ratio["pairs timed"] == "6 of 12"
    assert {row["along"] for row in tables["growth"]["rows"]} == {"prompt X", "answer Y", "layers L"}
    assert all(row["GFLOP/s"]["median"] > 0 for row in tables["rate"]["rows"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["speed"], r"unknown benchmark 'speed'; known: attribution"),
        (
            ["attribution", "--only", "speed"],
            r"no question 'speed'; known: ratios, growth, memory, rate, quadratures",
        ),
        (["attribution", "--repeat", "0"], r"repeat must be at least 1, got 0"),
        (["attribution", "--json", "absent/report.json"], r"there is no folder .*absent; make it first"),
    ],
)
def test_refuses_in_one_line_before_any_work(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert re.search(said, output.err)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for question in BENCHMARKS["attribution"].questions:
        assert question in text
    assert "--whole" in text and "CPU time" in text


def test_unknown_names_are_refused_by_the_registry() -> None:
    with pytest.raises(UnknownNameError, match="known: attribution"):
        find_benchmark("")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_question_is_answered_at_both_sizes(name: str) -> None:
    module = importlib.import_module(f"caploc.benchmarks.{name}")
    answered = {own.removeprefix("measure_") for own in vars(module) if own.startswith("measure_")}
    assert answered == set(BENCHMARKS[name].questions)
    assert type(module.FULL) is type(module.QUICK) and module.FULL != module.QUICK


def test_an_unknown_question_is_refused() -> None:
    with pytest.raises(
        UnknownNameError, match="benchmark 'circuits' has no question 'ratios'; known: speed, methods"
    ):
        BENCHMARKS["circuits"].run(Options(only=("ratios",)))


def test_the_gpu_benchmark_runs_on_a_cpu_in_a_tiny_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    assert main(["gpu", "--quick", "--repeat", "1", "--shape", "tiny", "--json", str(file)]) == 0
    audit, rates, hours = json.loads(file.read_text())["benchmarks"]["gpu"]
    assert [row["model"] for row in audit["rows"]] == ["llama2-7b", "llama2-13b", "gptj-6b"]
    assert all(row["in all"] > row["erasure"] > row["locating"] / 2 > 1 for row in audit["rows"])
    assert all(row["training GB"] <= 80 for row in audit["rows"])
    assert [row["work"] for row in rates["rows"]] == [
        "attribution",
        "erasure",
        "generation",
        "located training",
    ]
    assert all(row["samples/s"]["median"] > 0 and row["peak GB"] is None for row in rates["rows"])
    attributed = rates["rows"][0]
    assert hours["rows"][0]["hours"]["median"] == pytest.approx(
        1600 / attributed["samples/s"]["median"] / 3600
    )
    assert "the CPU: rates mean nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("llama2-7b", "needs a CUDA GPU, and there is none"),
        ("llama9", "unknown; choose one of tiny, llama2-7b"),
    ],
)
def test_the_gpu_benchmark_needs_a_gpu_and_a_shape(
    shape: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu", "--shape", shape]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
