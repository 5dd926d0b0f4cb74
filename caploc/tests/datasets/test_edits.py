"""Facts to be edited, from the records of COUNTERFACT and zsRE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caploc.datasets import load_examples
from caploc.datasets.edits import EditRequest, Neighbour, load_edits
from caploc.errors import DatasetError, UnknownNameError
from caploc.tests.datasets.conftest import SHARED
from caploc.tests.tiny import REPOSITORY

DATA = REPOSITORY / "fixtures" / "data"
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "subject": "A. {0} B.",
        "target_true": {"str": "French"},
        "target_new": {"str": "English"},
    },
    "paraphrase_prompts": ["A. {0} B. speaks", "Of A. {0} B. the tongue is"],
    "neighborhood_prompts": ["C speaks"],
}
ZSRE = {
    "subject": "S",
    "src": "Where was S born?",
    "answers": ["Rome", "Roma"],
    "alt": "Bonn",
    "rephrase": "What is S from?",
    "loc": "nq question: who won",
    "loc_ans": "C",
}


def _written(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_counterfact(tmp_path: Path) -> None:
    assert load_edits("counterfact", _written(tmp_path / "x.jsonl", COUNTERFACT)) == [
        EditRequest(
            "counterfact-7",
            "The mother tongue of A. {0} B. is",
            "A. {0} B.",
            " English",
            " French",
            ("A. {0} B. speaks", "Of A. {0} B. the tongue is"),
            (Neighbour("C speaks", " French"),),
            "7",
        )
    ]


def test_zsre(tmp_path: Path) -> None:
    (request,) = load_edits("zsre", _written(tmp_path / "x.jsonl", ZSRE))
    assert (request.target_new, request.target_true, request.subject) == (" Bonn", " Rome", "S")
    assert request.paraphrases == ("What is S from?",)
    assert request.neighbours == (Neighbour("nq question: who won?", " C"),)
    assert request.example("Well. ").prompt == "Well. Where was S born?"


@pytest.mark.parametrize("alt", ["Rome", None, " "])
def test_without_a_false_alternative_another_record_s_answer_is_taken(
    tmp_path: Path, alt: str | None
) -> None:
    answers = ["Rome", "Rome", "Pisa"]
    records = [
        {
            **ZSRE,
            "src": f"Where was S{number} born?",
            "subject": f"S{number}",
            "answers": [answer],
            "alt": alt,
        }
        for number, answer in enumerate(answers)
    ]
    path = _written(tmp_path / "x.jsonl", *records)
    assert [request.target_new for request in load_edits("zsre", path)] == [" Pisa", " Pisa", " Rome"]
    with pytest.raises(DatasetError, match=r"x.jsonl:1: edit 'zsre-00000': no record has another answer"):
        load_edits("zsre", _written(path, *records[:2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("paraphrase_prompts"), r"x.jsonl:1: field 'paraphrase_prompts' is missing"),
        (lambda record: record.update(neighborhood_prompts=[]), "field 'neighborhood_prompts' is an empty list"),
        (lambda record: record["requested_rewrite"].pop("target_new"), "'requested_rewrite.target_new' is missing"),
        (
            lambda record: record["requested_rewrite"].update(target_new={"str": "French"}),
            "edit 'counterfact-7': the new target ' French' is the true one",
        ),
    ],
)  # fmt: skip
def test_bad_records(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    record = json.loads(json.dumps(COUNTERFACT))
    change(record)
    with pytest.raises(DatasetError, match=message) as caught:
        load_edits("counterfact", _written(tmp_path / "x.jsonl", record))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
@pytest.mark.parametrize("split", ["locate", "evaluate", None])
def test_the_embedded_edits_are_the_examples(name: str, split: str | None) -> None:
    examples = load_examples(name, DATA, split, limit=20, seed=3)
    requests = load_edits(name, DATA, split, limit=20, seed=3)
    assert [request.id for request in requests] == [example.id for example in examples]
    for request, example in zip(requests, examples, strict=True):
        assert (request.prompt, request.target_true, request.subject) == (
            example.prompt,
            example.answer,
            example.subject,
        )
        assert request.subject in request.prompt and request.paraphrases and request.neighbours


def test_other_datasets_hold_no_edits() -> None:
    with pytest.raises(
        UnknownNameError, match="dataset 'gsm8k' holds no edits; those that do: counterfact, zsre"
    ):
        load_edits("gsm8k")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared, with samples of the real datasets, is not here")
@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_real_records(name: str) -> None:
    requests = load_edits(name, SHARED / "data")
    assert len(requests) == len(load_examples(name, SHARED / "data")) > 200
    assert all(request.target_new != request.target_true for request in requests)
