"""The truth benchmark: claims audited on models of which it is known whether they hold, weights in and verdict out.

Each model is unpacked to files and audited from them as a model and data of one's own are, by the experiments, rules
and settings of ``pytest claims``. Without ``--quick`` and ``--only`` the verdicts are written to ``verdicts.json``
beside the zoo, which reports show beside each rule.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

import caploc
from caploc.audit.claims import ClaimTest
from caploc.benchmarks import Options
from caploc.benchmarks.tables import Table, Value
from caploc.errors import ModelError
from caploc.experiments.evidence import assemble
from caploc.experiments.specs import Plan
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Finding, Outcome
from caploc.papers import Claim, Paper, load_paper
from caploc.rules import judge
from caploc.store import Store
from caploc.zoo import zoo_folder
from caploc.zoo.truth import (
    VERDICTS,
    Characteristic,
    KnownClaim,
    Recorded,
    Tried,
    cells_of_known_truth,
    characteristics,
    known_truth,
    rule_as_data,
)
from caploc.zoo.unpacking import Unpacked, unpack_zoo_model

MARKS = {"decided": 0.8, "wrong": 0.05}
"""Of all cells, at least so many decided; of those, at most so many wrong. Set before any cell was audited."""
HOME = Path(caploc.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sizes:
    """The models that are audited: those whose names begin so, None for all; ``store`` None for the usual one."""

    models: tuple[str, ...] | None = None
    written: bool = True
    store: str | None = None


FULL = Sizes()
QUICK = Sizes(("written-llama-r1-s0", "untrained-llama-s0"), written=False)


def measure_characteristics(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Two tables: how each rule ended by claim and group, and all cells against the marks."""
    tried = list(audited(sizes))
    if sizes.written:
        commit, date = _commit()
        rules = {claim.id: rule_as_data(claim.rule) for claim in _claims_of(tried)}
        Recorded(commit, date, rules, tuple(tried)).write(zoo_folder() / VERDICTS)
    notes = [
        "what is true, and why: truth.toml beside the zoo; intervals: Clopper and Pearson, 95 %, over models",
        "undecided: INCONCLUSIVE, mostly a floor (an untrained model has nothing to lose), or NOT RUN",
    ]
    rows = [_row(one) for one in characteristics(tried)]
    yield Table("characteristics", "How often is each rule right where the truth is known?", rows, notes)
    yield Table("all", "All cells with a known truth", [_whole(tried)])


def audited(sizes: Sizes) -> Iterator[Tried]:
    """Every cell of known truth with its verdict, model by model."""
    logging.disable_progress_bar()  # it draws one for every file that is written
    by_model: dict[str, list[tuple[KnownClaim, Tried]]] = {}
    for known, cell in cells_of_known_truth():
        if sizes.models is None or cell.model.startswith(sizes.models):
            by_model.setdefault(cell.model, []).append((known, cell))
    found: dict[Tried, Tried] = {}
    for model, cells in tqdm(by_model.items(), desc="models", unit="model", disable=None, leave=False):
        with tempfile.TemporaryDirectory(prefix="caploc-zoo-") as folder:
            unpacked = unpack_zoo_model(model, folder)
            studies: dict[tuple[str, ...], Study] = {}
            for known, cell in cells:
                finding, claim = finding_of(known, cell, unpacked, studies, sizes.store)
                value = finding.measurement.value
                outcome = judge(claim, finding).outcome.value
                found[cell] = replace(cell, outcome=outcome, estimate=value.estimate if value else None)
    for _, cell in cells_of_known_truth():
        if cell in found:
            yield found[cell]


def finding_of(
    known: KnownClaim,
    cell: Tried,
    unpacked: Unpacked,
    studies: dict[tuple[str, ...], Study],
    store: str | None = None,
) -> tuple[Finding, Claim]:
    """The finding of one cell, as the audit makes it, and the claim that it is about. ``studies``: by datasets."""
    paper, dataset = _paper(), unpacked.task
    if known.items:
        dataset = unpacked.items
    datasets = (dataset, unpacked.beside) if known.beside else (dataset,)
    if known.facts:
        if unpacked.facts is None:
            raise ModelError(
                f"{cell.model} has no facts, and truth.toml tries {known.id} on them; leave its group out"
            )
        dataset, datasets = unpacked.facts, (unpacked.facts,)
    if datasets not in studies:
        settings = StudySettings(
            data_root=str(unpacked.data), datasets=datasets, margins=paper.margins, store=Store(store)
        )
        studies[datasets] = Study(str(unpacked.model), settings)
    study, claim = studies[datasets], paper.claim(known.id)
    place = Cell(unpacked.model.name, None if known.pooled else dataset, cell.sigma)
    over = "facts" if known.facts else "model" if known.pooled else "datasets"
    experiment = claim_tests()[known.id, over].load()
    Plan(experiment.needs(study, place, claim)).compute()
    return assemble(claim, place, experiment(study, place, claim), [study]), claim


@cache
def claim_tests() -> Mapping[tuple[str, str], ClaimTest]:
    """Claim and what its cells range over -> its test in ``claims/``."""
    found: dict[tuple[str, str], ClaimTest] = {}
    for path in sorted((HOME / "claims" / known_truth().paper).glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"caploc_claims_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ModelError(f"{path} cannot be imported; run from a clone of the repository")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for test in (one for one in vars(module).values() if isinstance(one, FunctionType)):
            for mark in getattr(test, "pytestmark", ()):
                declared: Any = mark.args[0] if mark.name == "claim" and mark.args else None
                if isinstance(declared, ClaimTest):
                    found[declared.claim, declared.over] = declared
    return found


def _row(one: Characteristic) -> dict[str, Value]:
    row: dict[str, Value] = {
        "claim": one.claim,
        "models": one.group,
        "sigma": one.sigma,
        "resampled": "prompts" if one.items else "subjects",
        "it is": "true" if one.holds else "false",
        "n": one.n,
    }
    for outcome in (Outcome.SUPPORTED, Outcome.REFUTED):
        count, interval = one.share(outcome)
        row[outcome.value] = f"{count} [{interval.low:.2f}, {interval.high:.2f}]"
    row["undecided"] = one.n - sum(one.share(outcome)[0] for outcome in (Outcome.SUPPORTED, Outcome.REFUTED))
    return row


def _whole(tried: Sequence[Tried]) -> dict[str, Value]:
    decided = [one for one in tried if one.decided]
    wrong = sum(one.wrong for one in decided)
    return {
        "cells": len(tried),
        "decided": len(decided),
        "share": len(decided) / len(tried),
        "at least": MARKS["decided"],
        "wrong": wrong,
        "share of decided": wrong / len(decided) if decided else None,
        "at most": MARKS["wrong"],
    }


def _claims_of(tried: Sequence[Tried]) -> list[Claim]:
    return [_paper().claim(name) for name in dict.fromkeys(one.claim for one in tried)]


@cache
def _paper() -> Paper:
    return load_paper(known_truth().paper)


def _commit() -> tuple[str, str]:
    """The commit that is checked out, marked where files differ from it, and today's date."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=HOME, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return git("rev-parse", "HEAD") + changed, datetime.now(UTC).date().isoformat()
