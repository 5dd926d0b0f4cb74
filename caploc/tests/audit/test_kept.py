"""Findings of earlier runs: what is kept is what was measured, and only where all that it follows from is the same."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc import fingerprints, locators
from caploc.audit import kept
from caploc.audit.cells import CLAIM_TEST, PLANNED, REQUEST, CellRequest
from caploc.audit.claims import ClaimTest, Reference
from caploc.audit.kept import KeptFindings
from caploc.audit.results import Planned
from caploc.audit.settings import AuditSettings, DatasetRequest, request_models
from caploc.experiments.readings import Reading
from caploc.findings import (
    Bound,
    Cell,
    Chance,
    Count,
    Effect,
    Finding,
    Measurement,
    Number,
    Part,
    Plot,
    Test,
    plain,
)
from caploc.locators import register_locator
from caploc.neurons import NeuronMask
from caploc.papers import Paper, load_paper

PAPER = load_paper("capability_localization")
EXPERIMENT = Reference("caploc.experiments.erasure", "erase")
NUMBERS = st.floats() | st.integers(-3, 3) | st.sampled_from([np.float64(0.1), np.float32(0.1), np.int64(3)])
RANGES = st.none() | st.tuples(st.floats(), st.floats())
FIELDS: dict[str, Any] = {
    "estimate": st.none() | NUMBERS,
    "interval": RANGES,
    "interval90": RANGES,
    "p": st.none() | st.floats(0, 1),
    "unit": st.text(),
    "n": st.integers(0, 9),
}
PARTS = st.one_of(
    *(st.builds(kind, **FIELDS) for kind in (Part, Effect, Bound, Count, Test)),
    st.builds(Chance, **FIELDS, p_by_layer=st.none() | st.floats(0, 1)),
    st.builds(Number, **FIELDS, at=st.dictionaries(st.text(), st.text() | st.integers())),
)
NAMED = st.dictionaries(st.text(), PARTS, max_size=3)
JSON = st.recursive(
    NUMBERS | st.text() | st.booleans() | st.none(), lambda one: st.lists(one, max_size=3), max_leaves=5
)
FINDINGS = st.builds(
    Finding,
    st.text(),
    st.builds(Cell, st.text(), st.none() | st.text(), st.none() | st.floats(1, 9)),
    st.builds(
        Measurement,
        quantity=st.text(),
        value=st.none() | PARTS,
        parts=NAMED,
        chance=st.none() | st.floats(),
        asides=st.dictionaries(st.text(), PARTS | st.floats(), max_size=3),
        controls=st.dictionaries(st.text(), st.floats(), max_size=3),
        n=st.integers(0, 9),
        notes=st.lists(st.text(), max_size=2),
        plots=st.lists(
            st.builds(Plot, st.text(), st.text(), st.dictionaries(st.text(), JSON, max_size=2)), max_size=2
        ),
        floor=st.none() | st.text(),
    ),
    published=st.none() | st.text(),
    settings=st.dictionaries(st.text(), JSON, max_size=3),
    notes=st.lists(st.text(), max_size=2),
)


@given(FINDINGS)
def test_a_finding_comes_back_as_it_was(finding: Finding) -> None:
    again = Finding.loads(finding.dumps())
    assert repr(plain(again, finite=False)) == repr(plain(finding, finite=False))
    assert again.to_json() == finding.to_json()
    for name, part in finding.measurement.parts.items():  # what rules read
        read = again.measurement.parts[name]
        assert type(read) is type(part)
        assert repr(read) == repr(type(part)(**plain(vars(part), finite=False) | ranges(part)))


def ranges(part: Part) -> dict[str, Any]:
    return {"interval": part.interval, "interval90": part.interval90}


# --------------------------------------------------------------------------------------------------- what is the same


@dataclasses.dataclass(eq=False)
class Item:
    """A test, as far as it is looked at."""

    stash: dict[Any, Any]


@dataclasses.dataclass
class Asked:
    """A cell and all that its finding follows from."""

    settings: AuditSettings
    model: str = "tiny-llama"
    paper: Paper = PAPER
    experiment: Any = EXPERIMENT
    dataset: str = "gsm8k"
    data: str = "0" * 64

    @property
    def item(self) -> pytest.Item:
        cell = Cell("model", self.dataset, 6.0)
        planned = Planned("test", "test", "table3-erase", cell, paper=self.paper.key)
        stash = {PLANNED: planned, REQUEST: CellRequest(cell, self.model)}
        return cast(
            pytest.Item,
            Item(stash | {CLAIM_TEST: ClaimTest("table3-erase", self.experiment)}),
        )

    @property
    def findings(self) -> KeptFindings:
        return KeptFindings(self.settings, {"own": {"own.jsonl": self.data}})

    @property
    def kept(self) -> bool:
        return self.findings.has(self.item, self.paper)

    def keep(self) -> Asked:
        finding = Finding("table3-erase", Cell("model"), Measurement("score", Bound(0.5)))
        self.findings.put(self.item, self.paper, finding)
        return self


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(
        AuditSettings(
            models=request_models(["tiny-llama"]),
            datasets=(DatasetRequest("gsm8k"), DatasetRequest("own", "own.jsonl")),
            sigmas=(3.0, 6.0),
            data_root=None,
            samples=None,
            draws=100,
            store=str(tmp_path / "store"),
            device="auto",
            dtype="auto",
            seed=0,
            steps=19,
        )
    )


def test_what_is_kept_is_found(asked: Asked) -> None:
    assert not asked.kept
    assert asked.keep().kept
    found = asked.findings.get(asked.item, PAPER)
    assert found is not None and found.measurement.value == Bound(0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 60},
        {"samples": "auto"},
        {"draws": 99},
        {"seed": 1},
        {"steps": 20},
        {"dtype": "float64"},
        {"sigmas": (6.0,)},
        {"datasets": (DatasetRequest("gsm8k"),)},
        {"reading": Reading.of({"scope": "layer"})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_setting_is_another_finding(asked: Asked, change: dict[str, Any]) -> None:
    asked.keep()
    assert not dataclasses.replace(asked, settings=dataclasses.replace(asked.settings, **change)).kept


def test_another_cell_experiment_or_paper_is_another_finding(asked: Asked) -> None:
    asked.keep()
    changes: list[dict[str, Any]] = [
        {"dataset": "emotion"},
        {"model": "tiny-gptj"},
        {"data": "1" * 64},
        {"experiment": EXPERIMENT(control="untrained")},
        {"experiment": Reference(EXPERIMENT.module, "located_hurts_more")},
        {"paper": dataclasses.replace(PAPER, digest="0" * 64)},
    ]
    for change in changes:
        assert not dataclasses.replace(asked, **change).kept, change


def test_other_files_are_another_finding(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="ascii")
    asked = dataclasses.replace(asked, model=str(folder)).keep()
    fresh = [kept._model_content, kept.code_version, fingerprints.code_hash]

    def kept_in_another_process() -> bool:
        for function in fresh:
            function.cache_clear()
        return asked.kept

    assert kept_in_another_process()
    (folder / "config.json").write_text("{}\n", encoding="ascii")
    assert not kept_in_another_process()
    (folder / "config.json").write_text("{}", encoding="ascii")
    assert kept_in_another_process()
    package = tmp_path / "caploc"
    shutil.copytree(
        kept._PACKAGE / "statistics", package / "statistics", ignore=shutil.ignore_patterns("__*")
    )
    monkeypatch.setattr(fingerprints, "_PACKAGE", package)
    assert not kept_in_another_process()
    asked.keep()
    assert kept_in_another_process()
    (package / "statistics" / "sets.py").write_text("changed = True\n", encoding="ascii")
    assert not kept_in_another_process()
    monkeypatch.undo()
    assert kept_in_another_process()
    monkeypatch.setattr(kept, "package_versions", lambda: {"scipy": "0"})
    assert not kept_in_another_process()
    for function in fresh:
        function.cache_clear()


def test_nothing_is_kept_of_what_the_hash_does_not_cover(asked: Asked) -> None:
    for one in (
        dataclasses.replace(asked, experiment=Reference("my.experiments", "erase")),
        dataclasses.replace(asked, experiment=SimpleNamespace()),
    ):
        assert not one.keep().kept
    register_locator("own", name="own", source="ours", places=NeuronMask)(lambda lm, examples: NeuronMask)
    try:
        assert not asked.keep().kept
    finally:
        locators._REGISTERED.pop("own")
    assert asked.keep().kept


def test_no_reason_for_not_running_is_kept(asked: Asked) -> None:
    finding = Finding("table3-erase", Cell("model"), Measurement("score", not_run="no network"))
    asked.findings.put(asked.item, PAPER, finding)
    assert not asked.kept


def test_a_store_that_takes_nothing_costs_no_finding(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file", encoding="ascii")
    assert not asked.keep().kept
