"""What a run did, counted from its ledger: the protocol that the paper prints, by default.

The constants are the paper's, as its file of claims quotes them; that they are our defaults is checked without a run in
``caploc/tests/consistency``. Few samples and one model stand for all: they change counts and no protocol.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import comb
from typing import Any

import pytest

from caploc.papers import load_paper
from caploc.tests.tiny import REPOSITORY

CLAIMS = REPOSITORY / "claims" / "capability_localization"
PAPER = load_paper("capability_localization")
PRINTED = {number.key: number.value for number in PAPER.claim("general-protocol-counts").numbers}
TESTS = (
    "test_neuron_ratio",
    "test_score_without_located_neurons",
    "wordings_overlap_little",
)

pytestmark = pytest.mark.skipif(
    not CLAIMS.is_dir(), reason="claims/ comes with the repository, not with an installed package"
)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All findings of a run at default settings, of the claims above."""
    folder = tmp_path_factory.mktemp("protocol")
    files = [str(CLAIMS / f"test_{name}.py") for name in ("commonality", "fidelity", "erasure")]
    options = [
        "--model=tiny-llama",
        "--dataset=gsm8k",
        "--samples=16",
        "--draws=20",
        "-p",
        "no:cacheprovider",
    ]
    written = [f"--store={folder}/store", f"--html={folder}/ledger.html"]
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-k", " or ".join(TESTS), *options, *written],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    ).stdout
    ledger = folder / "ledger.jsonl"
    assert ledger.is_file(), shown
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    found = [line["finding"] for line in lines if line["type"] == "finding"]
    assert {one["claim"] for one in found} >= {"table3-erase", "fidelity-kn-overlap"}, shown
    return found


def settings_of(findings: list[dict[str, Any]], claim: str) -> dict[str, Any]:
    settings: dict[str, Any] = next(one["settings"] for one in findings if one["claim"] == claim)
    return settings


def test_equation_7_is_summed_over_n_from_0_to_s(findings: list[dict[str, Any]]) -> None:
    settings = settings_of(findings, "table1-neuron")
    assert settings["steps"] == PRINTED["steps"] == 19
    assert set(settings["points"]) == {float(PRINTED["steps"] + 1)}  # of every layer
    assert settings["sigma"] == PRINTED["sigma"] and settings["dispersion"] == "std"


def test_table_3_is_run_at_all_of_its_sigmas(findings: list[dict[str, Any]]) -> None:
    run = {one["cell"]["sigma"] for one in findings if one["claim"] == "table3-erase"} - {None}
    assert run == {cell.sigma for cell in PAPER.table("table3", method="located")} == {3, 6, 12}


def test_facts_are_asked_in_five_wordings_that_make_ten_pairs(findings: list[dict[str, Any]]) -> None:
    for claim in ("fidelity-kn-overlap", "fidelity-rome-overlap"):
        settings = settings_of(findings, claim)
        assert settings["wordings"] == PRINTED["wordings"] == PRINTED["rewrites"] + 1
        assert (
            settings["pairs"] == comb(5, 2)
            and settings["prompts"] == settings["facts"] * settings["wordings"]
        )


def test_tracing_puts_the_hidden_state_back_and_takes_three_layers(findings: list[dict[str, Any]]) -> None:
    settings = settings_of(findings, "fidelity-rome-overlap")
    assert settings["kind"] == "hidden" and settings["window"] == 1  # appendix C
    assert settings["top_k"] == PRINTED["top-layers"] == 3
