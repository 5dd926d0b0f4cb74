"""Studies under another reading of the paper: their scores, samples, records and notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caploc.attribution.method import Method
from caploc.errors import OptionError
from caploc.experiments.locating import Scores
from caploc.experiments.readings import CHOICES, Reading
from caploc.experiments.study import Study, StudySettings
from caploc.store import Store
from caploc.tests.attribution.families import CONTEXT
from caploc.tests.experiments.planted import planted
from caploc.tests.experiments.verdicts import A, run, study_of
from caploc.tests.tiny import tiny_lm

DEPARTURES = [(setting, value) for setting, values in CHOICES.items() for value in values[1:]]
MakeStudy = Callable[..., Study]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """A study of a tiny model on word problems with GSM8K's fields."""
    records = [
        {"question": f"what is {number}+1?", "answer": f"{number}+1={number + 1}\n#### {number + 1}"}
        for number in range(10, 50)
    ]
    (tmp_path / "gsm8k_train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "?", "answer": "#### 5"}\n')

    def make(reading: Reading, **settings: Any) -> Study:
        defaults: dict[str, Any] = {
            "data_root": str(tmp_path),
            "datasets": ["gsm8k"],
            "method": Method(steps=2),
            "store": Store(tmp_path / "store"),
        }
        return Study("tiny", StudySettings(reading=reading, **{**defaults, **settings}), tiny_lm())

    return make


def test_the_record_names_the_reading(make_study: MakeStudy) -> None:
    for setting, value in [("dispersion", "std"), *DEPARTURES]:
        record = make_study(Reading.of({setting: value})).record
        expected = {**Reading().settings, setting: value}
        del expected["restored"]  # of causal traces alone, whose settings say it
        if value == "neuron":
            expected |= {"quadrature": "exact", "neuron_path_samples": 24}
        assert {name: record[name] for name in expected} == expected
        assert ("neuron_path_samples" in record) == (value == "neuron")


def test_scores_follow_the_reading_and_masks_share_them(make_study: MakeStudy, tmp_path: Path) -> None:
    """Other quadratures, paths, values and forms are other scores; other cuts are the same scores, from the store."""
    options = {"samples": 16}
    default = make_study(Reading(), **options).result(Scores("gsm8k")).whole.total
    entries = Store(tmp_path / "store").describe().entries
    for setting, value in DEPARTURES:
        study = make_study(Reading.of({setting: value}), **options)
        totals = study.result(Scores("gsm8k")).whole.total
        if setting in ("dispersion", "scope", "deviation", "restored"):
            assert np.array_equal(totals, default)
            assert Store(tmp_path / "store").describe().entries == entries
        else:
            assert not np.allclose(totals, default, rtol=1e-3)
            entries += 16


def test_one_neuron_at_a_time_locates_with_fewer_samples(make_study: MakeStudy) -> None:
    reading = Reading(path="neuron")
    sizes = [
        len(make_study(reading, **settings).located("gsm8k").tokenized)
        for settings in ({}, {"samples": 20}, {"neuron_path_samples": 30}, {"neuron_path_samples": None})
    ]
    assert sizes == [24, 20, 30, 40]
    assert len(make_study(Reading()).located("gsm8k").tokenized) == 40
    assert len(make_study(Reading(), method=Method(path="neuron")).located("gsm8k").tokenized) == 24
    on_gpu = make_study(reading, device="cuda")
    assert (on_gpu._samples("gsm8k"), on_gpu._samples("mine")) == (24, 24)
    with pytest.raises(OptionError, match=r"^neuron_path_samples must be at least 16, "):
        make_study(reading, neuron_path_samples=15)


def test_gsm8k_alone_is_asked_as_multiple_choice(make_study: MakeStudy, tmp_path: Path) -> None:
    own = [{"prompt": f"{number}+1", "answer": f"={number + 1}"} for number in range(20)]
    (tmp_path / "mine_train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in own))
    (tmp_path / "mine_test.jsonl").write_text('{"prompt": "held", "answer": " out"}\n')
    free, choice = (
        make_study(Reading(gsm8k_form=form), datasets=["gsm8k", "mine"], samples=20)
        for form in ("free", "choice")
    )
    assert {example.answer for example in choice.located("gsm8k").examples} == {" A", " B", " C", " D"}
    same = [[example.id for example in study.located("gsm8k").examples] for study in (free, choice)]
    assert same[0] == same[1] and len(same[0]) == 20
    assert choice.located("mine").examples == free.located("mine").examples
    assert max(len(tokens.input_ids) for tokens in choice.located("gsm8k").tokenized) <= CONTEXT


def test_a_finding_says_that_it_reads_otherwise() -> None:
    study = study_of(planted(0, 24, A), reading=Reading(path="neuron", scope="layer"))
    notes = list(run("table1-overlap", study)[0].notes)
    assert "another reading of the paper than the default: scope=layer, path=neuron" in notes
    assert any(note.startswith("at most 24 samples a dataset (neuron_path_samples)") for note in notes)
    assert not any("reading" in note for note in run("table1-overlap", study_of(planted(0, 24, A)))[0].notes)
