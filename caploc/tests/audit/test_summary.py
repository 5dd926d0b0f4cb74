"""The JSON summary: every cell of a run, where its numbers come from, and nothing that is not JSON."""

from __future__ import annotations

from pathlib import Path

from caploc.audit.ledger import Ledger, RunRecord
from caploc.audit.results import Planned, Result, Status
from caploc.audit.summary import fingerprints
from caploc.findings import Bound, Cell, Finding, Measurement, Outcome, Verdict
from caploc.papers import load_paper, paper_names
from caploc.tests.audit.conftest import PAPER, ClaimsRun

RUN = """
@claim("table1-overlap", measured(lambda study, cell, claim: overlap(
    .85, .95, chance=float("nan"), n=40, draws=100,
    settings={"model_fingerprint": "f00d", "data_fingerprint": "da7a" + cell.dataset},
    notes=["80 examples of data", f"3 examples of {cell.dataset} left out: copies of others"])))
def test_overlap(): ...

def missing(study, cell, claim):
    if cell.dataset == "emotion":
        raise RuntimeError("shapes differ \\ud800")
    return not_run("no such data \\u202e")

@claim("table1-iou", measured(missing))
def test_iou(): ...
"""


def test_a_compact_entry_a_cell(claims_run: ClaimsRun) -> None:
    claims_run.write(RUN)
    claims_run("--seed=1", "--html=reports/x.html")
    content = claims_run.summary("x.json")
    assert (content["kind"], content["schema"]) == ("caploc audit", 2)
    cells = {cell["test"]: cell for cell in content["cells"]}
    assert cells["test_overlap[tiny-llama-gsm8k-s6]"] == {
        "test": "test_overlap[tiny-llama-gsm8k-s6]",
        "paper": "capability_localization",
        "claim": "table1-overlap",
        "model": "tiny-llama",
        "dataset": "gsm8k",
        "sigma": 6.0,
        "variant": "",
        "status": "SUPPORTED",
        "reason": "overlap at the paper's number of samples: interval [0.85, 0.95] lies above 0.8; lead over 95 % of "
        "untrained twins 0.5, at most 0.58 (one-sided 95 %): more than random weights give",
        "estimate": (0.85 + 0.95) / 2,
        "interval": [0.85, 0.95],
        "unit": "fraction",
        "chance": None,
        "p": None,
        "p_holm": None,
        "p_by": None,
        "tests": 0,
        "after_holm": None,
        "published": None,
        "n": 40,
        "draws": 100,
        "expected": False,
        "moved": None,
    }
    failed = cells["test_iou[tiny-llama-emotion-s6]"]
    assert (failed["status"], failed["estimate"], failed["n"]) == ("ERROR", None, None)
    assert content["counts"] == {
        "SUPPORTED": 2, "REFUTED": 0, "INCONCLUSIVE": 0, "MEASURED": 0, "NOT RUN": 1, "ERROR": 1, "MISSING": 0,
    }  # fmt: skip
    assert content["not_run"] == {"test_iou[tiny-llama-gsm8k-s6]": "no such data \\u202e"}
    assert list(content["errors"]) == ["test_iou[tiny-llama-emotion-s6]"]


def test_a_cell_that_the_paper_prints_a_number_of_shows_it(claims_run: ClaimsRun) -> None:
    claims_run.write(RUN)
    claims_run("--seed=1", "--device=cpu", model="llama2-7b")
    cells = {cell["test"]: cell["published"] for cell in claims_run.summary()["cells"]}
    assert cells["test_overlap[llama2-7b-gsm8k-s6]"] == "96.42"


def test_where_the_numbers_come_from(claims_run: ClaimsRun) -> None:
    claims_run.write(RUN)
    claims_run("--seed=1")
    provenance = claims_run.summary()["provenance"]
    assert provenance["settings"]["seed"] == 1
    assert provenance["papers"] == {name: load_paper(name).digest for name in paper_names()}
    assert {"commit", "dirty", "python", "platform", "packages", "command", "started"} <= provenance.keys()
    assert provenance["fingerprints"] == {
        "data emotion for tiny-llama": "da7aemotion",
        "data gsm8k for tiny-llama": "da7agsm8k",
        "model tiny-llama": "f00d",
    }


def test_the_ledgers_first_line_says_on_what_the_run_ran(claims_run: ClaimsRun) -> None:
    claims_run.write(RUN)
    run = claims_run("--model=llama2-7b", "--seed=1")  # which is skipped where there is no GPU
    first = claims_run.ledger()[0]
    assert first["type"] == "provenance" and first["status"] == "finished"
    assert first["settings"]["device"]["tiny-llama"] == "cpu"
    assert first["settings"]["dtype"]["tiny-llama"] == "float32"
    assert ("llama2-7b" in first["settings"]["device"]) is ("none found" not in run.stdout.str())
    assert first["fingerprints"]["model tiny-llama"] == "f00d"
    assert first["fingerprints"]["data gsm8k for tiny-llama"] == "da7agsm8k"
    assert "3 examples of gsm8k left out: copies of others" in first["left_out"]
    assert claims_run.summary()["provenance"]["left_out"] == first["left_out"]


def test_derived_verdicts_are_told_apart_from_cells(claims_run: ClaimsRun) -> None:
    claims_run.write(
        """
@claim("reliability-kc-recall", measured(not_run("no circuits here")))
def test_recall(): ...
"""
    )
    claims_run("--seed=1")
    content = claims_run.summary()
    assert {cell["claim"] for cell in content["cells"]} == {"reliability-kc-recall"}
    assert {
        "paper": "capability_localization",
        "claim": "reliability-answer-b",
        "model": "tiny-llama",
        "status": "NOT RUN",
        "reason": "it needs all of reliability-kn-similar-to-random, reliability-rome-layers-equal, "
        "reliability-kc-recall; without a verdict: reliability-kn-similar-to-random, "
        "reliability-rome-layers-equal, reliability-kc-recall",
    } in content["derived"]


def test_other_readings_leave_no_fingerprint() -> None:
    def measured(variant: str, data: str) -> Result:
        cell = Cell("m", "gsm8k", 6.0, variant)
        finding = Finding(
            "table1-overlap", cell, Measurement("o", Bound(0.9)), settings={"data_fingerprint": data}
        )
        return Result.of(Planned("", "t", "table1-overlap", cell), finding, Verdict(Outcome.SUPPORTED, ""))

    cells = [measured("", "own"), measured("gsm8k-form=choice", "other")]
    assert fingerprints(cells) == {"data gsm8k for m": "own"}


def test_the_record_counts_by_group_in_the_papers_order(tmp_path: Path) -> None:
    record = RunRecord(Ledger(tmp_path / "ledger.jsonl", "run"))
    for claim, status in (
        ("table1-iou", Status.REFUTED),
        ("nonsense", Status.ERROR),
        ("fidelity-kn-overlap", Status.SUPPORTED),
        ("table1-overlap", Status.SUPPORTED),
    ):
        record.results.append(Result(Planned("", "t", claim, Cell("m"), paper=PAPER), status, ""))
    groups = record.by_group(load_paper(PAPER))
    assert {name: tally.sentence() for name, tally in groups.items()} == {
        "A-fidelity": "1 supported, 0 refuted, 0 inconclusive",
        "D-table1": "1 supported, 1 refuted, 0 inconclusive",
        "": "0 supported, 0 refuted, 0 inconclusive, 1 ended in an error",
    }
    assert list(groups) == ["A-fidelity", "D-table1", ""]
