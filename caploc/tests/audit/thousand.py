"""A report of 1,000 claim cells with as much to tell as real ones, dozens of plots, and every way to end."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caploc.audit.ledger import Ledger, RunRecord
from caploc.audit.report import page
from caploc.audit.results import Planned, Result, Status, corrected
from caploc.audit.views import Log, RunView
from caploc.findings import PRINTED, Bound, Cell, Count, Effect, Finding, Measurement, Part, Plot, Test
from caploc.papers import Paper, load_paper
from caploc.rules import decisive_p, judge

ROOT = Path(__file__).parents[3]
PAPER = load_paper("capability_localization")
CLAIMS = (
    "table1-overlap", "table1-iou", "table1-neuron", "abstract-gsm8k-overlap", "eq8-literal-variance",
    "convergence-subset-suffices", "bg-attr-measures-contribution", "bg-rome-corruption", "reliability-kc-recall",
    "table2-located-beats-random",
)  # fmt: skip
CHECKS = ("print-table2-averages", "print-table3-averages", "print-sigma-labels")
MODELS = ("tiny-llama", "tiny-gptj")
DATASETS = ("gsm8k", "meta_math", "code25k", "emotion", "imdb")
VARIANTS = ("", "quadrature=adaptive", "scope=layer", "deviation=positive", "dispersion=variance")
NOTES = (
    "28.95 cannot be the mean of 25.35, 19.06 and 44.43, which is 29.61.",
    "39.73 is the mean of 22.06, 29.33 and 67.82, cut rather than rounded.",
)


def thousand(folder: Path) -> RunRecord:
    """The record of such a run, finished; the ledger holds its provenance alone."""
    ledger = Ledger(folder / "x.jsonl", "1")
    ledger.start(
        lambda: {"commit": "abc", "dirty": False, "command": ["claims"], "packages": {"torch": "2"}}, []
    )
    record = RunRecord(ledger)
    record.results = corrected([*_checks(), *_cells()], {PAPER.key: PAPER})
    follows = [claim for claim in PAPER.claims.values() if claim.rule.kind == "derived"]
    record.derived = [
        Result(Planned("", "", claim.id, Cell(model)), Status.INCONCLUSIVE, "table1-overlap is inconclusive")
        for claim in follows[:3]
        for model in MODELS
    ]
    return record


def logs(record: RunRecord) -> dict[str, Log]:
    """Times from 0 s to 100 s, and tracebacks for errors."""
    return {
        result.planned.nodeid: Log(
            _part(result.planned.nodeid) * 100, "E  <b>" * 20 if result.status is Status.ERROR else ""
        )
        for result in record.results
    }


def framed(folder: Path, body: str) -> Path:
    """pytest-html's page of a real run of two tests that decide no claim, with ``body`` as our part of it."""
    claims = folder / PAPER.key
    claims.mkdir()
    (claims / "test_own.py").write_text(
        "from caploc.tests.audit.claimed import *\n\n"
        '@claim("print-sigma-labels", lambda *_: Measurement("labels", Count(0.0, unit="count"), n=1), over="print")\n'
        "def test_claim(): ...\n\n"
        'def test_passes():\n    print("said <b>so</b>")\n\ndef test_fails():\n    assert "<b>" == "bold"\n',
        encoding="utf-8",
    )
    report = run(folder)
    head, rest = report.read_text(encoding="utf-8").split('<div class="additional-summary prefix">')
    tail = rest[rest.index('<p class="run-count">') :]
    report.write_text(f'{head}<div class="additional-summary prefix">{body}</div>{tail}', encoding="utf-8")
    return report


def view(record: RunRecord, **more: Any) -> RunView:
    """The run as the templates see it."""
    return RunView(PAPER, record.results, record.derived, head=record.ledger.read()[0], **more)


def thousand_report(folder: Path) -> Path:
    """The report as a file."""
    record = thousand(folder)
    return framed(folder, page(view(record, logs=logs(record)), other_tests=True))


def run(folder: Path, *arguments: str) -> Path:
    """Runs the tests in ``folder`` in a process of their own and returns the report; beside it lies stdout.txt."""
    report = folder / "reports" / "x.html"
    command = [
        sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=native", "-p", "no:cacheprovider",
        "-p", "no:hypothesispytest", "-p", "caploc.audit.plugin", f"--rootdir={folder}", f"--html={report}", *arguments,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CAPLOC_STORE": str(folder / "store")}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    report.with_name("stdout.txt").write_text(ran.stdout, encoding="utf-8")
    assert report.exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
    return report


def _checks() -> Iterator[Result]:
    for place, claim in enumerate(CHECKS):
        count = float(place != 1)
        measured = Measurement("averages", Count(count, unit="count"), n=27)
        finding = Finding(claim, Cell(PRINTED), measured, notes=NOTES)
        yield _judged(finding, PAPER)


def _cells() -> Iterator[Result]:
    for variant in VARIANTS:
        for claim in CLAIMS:
            for model in MODELS:
                for dataset in DATASETS:
                    for sigma in (
                        3.0,
                        12.0,
                    ):  # 12 comes after 3 only where numbers in words are compared as numbers
                        yield _cell(claim, Cell(model, dataset, sigma, variant))


def _cell(claim: str, cell: Cell) -> Result:
    part = _part(f"{claim} {cell.label}")
    planned = _planned(claim, cell)
    if part > 0.98:
        return Result(planned, Status.ERROR, "call: RuntimeError: no such tensor <b>")
    if part > 0.96:
        return Result(planned, Status.MISSING, "its worker process died while it ran")
    if part > 0.9:
        return Result(planned, Status.NOT_RUN, "needs a CUDA GPU with at least 23 GB; none found")
    moved = "verdict moved: expected SUPPORTED, got REFUTED" if part > 0.88 and not cell.variant else None
    return _judged(_finding(claim, cell, part), PAPER, moved=moved)


def _finding(claim: str, cell: Cell, part: float) -> Finding:
    lists = {"completeness_error": [part / 3] * 6, "completeness_gap": [part / 7] * 6, "points": [20.0] * 6}
    drawn = claim in CLAIMS[:2] and cell.sigma == 3 and cell.dataset in DATASETS[:2] and not cell.variant
    parts: dict[str, Part] = {
        "random": Effect(part, (part - 0.5, part - 0.4), (part - 0.49, part - 0.41), part / 20, n=80),
        "at full size": Bound(part, (part - 0.05, part + 0.05)),
        "beyond twins": Effect(0.5, (0.4, 0.6), (0.42, 0.58), part / 20),
    }
    found = Measurement(
        f"overlap of {claim}, {cell.label}",
        Bound(part, (part - 0.05, part + 0.05), method="95 % of 100 random half splits"),
        parts | {f"layer {place}": Test(p=part / 9) for place in range(6)},
        chance=0.03,
        effect_size=part,
        asides={f"quantity {place} of {cell.dataset}": part * place for place in range(10)},
        controls={f"control {place}": part * place for place in range(6)},
        n=80 + int(100 * part),
        draws=100,
        plots=_plots(f"{claim}, {cell.label}") if drawn else (),
    )
    return Finding(
        claim,
        cell,
        found,
        published="96.42" if part > 0.5 else None,
        settings={"sigma": cell.sigma, "quadrature": "paper", "steps": 19, "seed": 0, "dtype": "float32"}
        | {"device": "cpu", "model_fingerprint": "e17e3290267bf8d1", "data_fingerprint": "1e6864a41cde1c3d"}
        | lists,
        notes=[
            f"80 examples of {cell.dataset}; overlap grows with their number",
            "another sentence on this cell",
        ],
    )


def _plots(label: str) -> Sequence[Plot]:
    curve = {
        "mean": [0.5, 0.6, 0.7, 0.8, 0.9],
        "low": [0.4, 0.5, 0.6, 0.7, 0.8],
        "high": [0.6, 0.7, 0.8, 0.9, 1.0],
    }
    scores = [[8 * _part(f"{row} {place}") for place in range(300)] for row in DATASETS]
    clouds = {row: [abs(math.sin(_part(row) + place * 78.2)) for place in range(100)] for row in DATASETS}
    curves: dict[str, Any] = dict.fromkeys(DATASETS, curve)
    return (
        Plot("heatmap", f"Largest |z|, {label}", {"rows": DATASETS, "layers": 6, "values": scores}),
        Plot("convergence", f"Overlap by samples, {label}", {"x": [10, 20, 40, 80, 160], "curves": curves}),
        Plot("splits", f"Overlap of halves, {label}", {"groups": clouds}),
    )


def _judged(finding: Finding, paper: Paper, **more: Any) -> Result:
    claim = paper.claim(finding.claim)
    planned = _planned(finding.claim, finding.cell)
    return Result.of(planned, finding, judge(claim, finding), p=decisive_p(claim, finding), **more)


def _planned(claim: str, cell: Cell) -> Planned:
    test = f"test_{claim.replace('-', '_')}[{cell.label}]"
    return Planned(f"claims/{PAPER.key}/test_thousand.py::{test}", test, claim, cell, paper=PAPER.key)


def _part(text: str) -> float:
    """A fraction that looks random and is the same each time."""
    return zlib.crc32(text.encode()) % 1000 / 1000
