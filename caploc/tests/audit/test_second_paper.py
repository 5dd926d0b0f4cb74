"""A second paper is a folder of TOML and a folder of tests, and a claim is one entry and one function."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import html5lib
import pytest

from caploc.tests.audit.conftest import PRELUDE, WITHOUT_MODELS
from caploc.tests.tiny import REPOSITORY

PAPER = """
[paper]
key = "toy"
title = "A toy paper"
reference = "nowhere"
level = 0.05

[documents]
paper = "the toy paper"

[margins]
longest-prompt = 400

[[group]]
id = "lengths"
title = "Lengths"
question = "Are prompts short?"

[[block]]
id = "table1/tiny-llama"
table = "table1"
model = "tiny-llama"
unit = "tokens"
rows_are = ["quantity"]
columns = ["gsm8k", "emotion"]
[block.rows]
"prompt length" = ["41.0", "23.0"]
"""
CLAIM = """
[[claim]]
id = "{id}"
group = "lengths"
kind = "bound"
statement = "{statement}"
sources = [{{ document = "paper", at = "Table 1" }}]
quantity = "tokens of a prompt, on average"
formula = "mean |x|"
direction = "low"
test = "none"
cells = {{ table = "table1", quantity = "prompt length" }}
rule = {{ kind = "upper_bound", supported_below = {limit}, refuted_above = {limit} }}
rule_text = {{ supported = "below {limit}", refuted = "above {limit}", inconclusive = "otherwise" }}
ambiguities = []
controls = []
"""
TEST = """
@claim("{id}", Module("toy_experiments").prompt_length)
def test_{name}() -> None:
    \"\"\"Table 1: {statement}\"\"\"
"""
EXPERIMENTS = '''
"""How long a dataset's prompts are, in a model's tokens."""

from dataclasses import dataclass

import numpy as np

from caploc.experiments.specs import Spec, keyed
from caploc.experiments.study import experiment
from caploc.findings import Bound, Measurement


@dataclass(frozen=True)
class Lengths(Spec):
    dataset: str

    def tasks(self, study):
        located = study.located(self.dataset)

        def count():
            return {"lengths": np.array([one.answer_start for one in located.tokenized])}

        yield keyed(study, "toy: lengths", {"tokens": located.fingerprint}, count)

    def read(self, study, entries):
        (entry,) = entries
        return entry.arrays["lengths"]

    def flops(self, study):
        return 1e12


@experiment(lambda study, cell, claim: [Lengths(cell.dataset)])
def prompt_length(study, cell, claim):
    """The claims of Table 1."""
    lengths = study.result(Lengths(cell.dataset))
    mean = float(lengths.mean())
    return Measurement("tokens of a prompt", Bound(mean, (mean, mean), unit="tokens"), n=lengths.size,
                       settings={"longest": study.settings.margin("longest-prompt")})
'''
PLUGIN = 'pytest_plugins = ["caploc.audit.plugin"]\n'
OTHER = """
@claim("table1-overlap", measured(overlap(0.85, 0.9)))
def test_short(): ...
"""

BOTH = ("claims/toy", "claims/capability_localization", "--paper=toy", "--paper=capability_localization")

Audit = Callable[..., subprocess.CompletedProcess[str]]


def add_claim(folder: Path, name: str, limit: int, statement: str) -> None:
    """What a new claim of a known kind takes: an entry in the paper's TOML, a function in its tests."""
    fields = {"id": f"toy-{name}", "name": name, "limit": limit, "statement": statement}
    for file, text in (("toy/lengths.toml", CLAIM), ("claims/toy/test_lengths.py", TEST)):
        with (folder / file).open("a", encoding="utf-8") as written:
            written.write(text.format(**fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The toy paper: its TOML, its tests, its experiments; and tests of another paper in a file of the same name."""
    for name in ("toy", "claims/toy", "claims/capability_localization"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "toy" / "paper.toml").write_text(PAPER, encoding="utf-8")
    (tmp_path / "toy_experiments.py").write_text(EXPERIMENTS, encoding="utf-8")
    claims = tmp_path / "claims" / "toy"
    (claims / "conftest.py").write_text(PLUGIN, encoding="utf-8")
    (claims / "test_lengths.py").write_text(
        "from caploc.audit.claims import Module, claim\n", encoding="utf-8"
    )
    add_claim(tmp_path, "short", 100, "prompts are short")
    add_claim(tmp_path, "shorter", 10, "prompts are very short")
    other = tmp_path / "claims" / "capability_localization"
    (other / "conftest.py").write_text(PLUGIN + WITHOUT_MODELS, encoding="utf-8")
    (other / "test_lengths.py").write_text(PRELUDE + OTHER, encoding="utf-8")
    return tmp_path


@pytest.fixture
def audit(folder: Path) -> Audit:
    def run(*arguments: str, model: str = "tiny-llama") -> subprocess.CompletedProcess[str]:
        settings = [f"--model={model}", "--dataset=gsm8k,emotion", "--sigma=6", "--seed=1", "--samples=16"]
        files = [
            "--store=store",
            "--html=reports/x.html",
            "--import-mode=importlib",
            "-p",
            "no:cacheprovider",
        ]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, *settings, *files],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def summary(folder: Path) -> Any:
    return json.loads((folder / "reports" / "x.json").read_text(encoding="ascii"))


def test_it_is_audited_alone(folder: Path, audit: Audit) -> None:
    ran = audit("claims/toy", "--paper=toy", "-rA")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    assert "plan: 2 results for 1 model, 0 in the store, 2 to compute, about 2 TFLOP" in ran.stdout
    assert re.search(r"Lengths: are prompts short\? +2 supported, 2 refuted\n", ran.stdout)
    found = summary(folder)
    assert found["counts"]["SUPPORTED"] == found["counts"]["REFUTED"] == 2
    assert {cell["paper"] for cell in found["cells"]} == {"toy"}
    assert {cell["published"] for cell in found["cells"]} == {"41.0", "23.0"}
    assert list(found["provenance"]["papers"]) == ["toy"]
    page = (folder / "reports" / "x.html").read_text(encoding="utf-8")
    assert "A toy paper" in page and "Capability Localization" not in page
    again = audit("claims/toy", "--paper=toy")
    assert "plan: 2 results for 1 model, all of them in the store" in again.stdout


def test_a_new_claim_of_a_known_kind_touches_two_files(folder: Path, audit: Audit) -> None:
    before = contents(folder)
    add_claim(folder, "tiny", 2, "prompts are tiny")
    changed = [name for name, content in contents(folder).items() if before.get(name) != content]
    assert changed == ["claims/toy/test_lengths.py", "toy/lengths.toml"]
    audit("claims/toy", "--paper=toy", "-k", "test_tiny")
    cells = {cell["test"]: cell["status"] for cell in summary(folder)["cells"]}
    assert cells == {f"test_tiny[tiny-llama-{name}-s6]": "REFUTED" for name in ("gsm8k", "emotion")}


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("also", [[], ["-n2"]])
def test_two_papers_in_one_run_are_told_apart(folder: Path, audit: Audit, also: list[str]) -> None:
    ran = audit(*BOTH, *also)
    found = summary(folder)
    assert Counter((cell["paper"], cell["status"]) for cell in found["cells"]) == {
        ("toy", "SUPPORTED"): 2, ("toy", "REFUTED"): 2, ("capability_localization", "SUPPORTED"): 2,
    }, ran.stdout + ran.stderr  # fmt: skip
    assert set(found["provenance"]["papers"]) == {"toy", "capability_localization"}
    assert {line["paper"] for line in found["derived"]} <= {"capability_localization"}
    lines = [json.loads(line) for line in (folder / "reports" / "x.jsonl").read_bytes().splitlines()]
    assert Counter(line["planned"]["paper"] for line in lines if line["type"] == "finding") == {
        "toy": 4, "capability_localization": 2,
    }  # fmt: skip
    assert re.search(r"Lengths: are prompts short\? +2 supported, 2 refuted\n", ran.stdout)
    assert re.search(r"Commonality neurons: do two halves of +2 supported\n", ran.stdout)
    page = html5lib.parse(
        (folder / "reports" / "x.html").read_text(encoding="utf-8"), namespaceHTMLElements=False
    )
    ids = Counter(element.get("id") for element in page.iter() if element.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    ours = {link.get("href", "")[1:] for link in page.iter("a") if link.get("href", "").startswith("#")}
    assert ours <= ids.keys() and {"paper", "cells"} <= ours
    assert "A toy paper" in " ".join(page.itertext())


def test_coverage_is_of_each_paper(folder: Path, audit: Audit) -> None:
    alone = audit("claims/toy", "--paper=toy", "--claim-coverage")
    assert alone.returncode == pytest.ExitCode.OK, alone.stdout + alone.stderr
    assert "  toy-short    test_short (2 cells)" in alone.stdout
    assert "2 claims: 2 with a test, 0 following from others" in alone.stdout
    (folder / "claims" / "toy" / "test_lengths.py").write_text("", encoding="utf-8")
    both = audit(*BOTH, "--claim-coverage")
    assert both.returncode == pytest.ExitCode.TESTS_FAILED
    assert "  toy-short    NOT COVERED" in both.stdout
    assert "claims: 1 with a test, " in both.stdout


def test_papers_of_the_library_that_are_not_named_are_left_out(audit: Audit) -> None:
    """As in ``pytest claims --paper=query_localization``, where claims/ has a folder for each."""
    ran = audit(*BOTH[:3], "--collect-only", "-q")
    assert "4/6 tests collected (2 deselected)" in ran.stdout, ran.stdout + ran.stderr
    both = audit(*BOTH, "--collect-only", "-q")
    assert "6 tests collected" in both.stdout and "deselected" not in both.stdout
