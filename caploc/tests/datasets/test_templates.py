"""Raw record -> prompt and answer, for every dataset."""

from __future__ import annotations

import copy

import pytest

from caploc.datasets import DATASETS, load_examples
from caploc.tests.datasets.conftest import RECORDS

PAPER_SAMPLES = {
    "gsm8k": 1600,
    "emotion": 2400,
    "code25k": 1200,
    "meta_math": 700,
    "imdb": 800,
}  # section 5.3

# fields that a prompt is made of: records that differ in none of them are copies
PROMPTED = (
    "question",
    "query",
    "instruction",
    "text",
    "src",
    "sub_label",
    "subject",
    "prompt",
    "direct_prompt",
)
PROMPTED += ("code_prompt",)


def test_every_dataset_has_a_template_here():
    assert set(RECORDS) == set(DATASETS) | {"mytask"}


@pytest.mark.parametrize("name", RECORDS)
def test_record_becomes_its_examples(name, write_jsonl):
    record, expected = RECORDS[name]
    examples = load_examples(name, path=write_jsonl("data.jsonl", [record]))
    assert [(e.prompt, e.answer, e.group) for e in examples] == expected


@pytest.mark.parametrize("name", RECORDS)
def test_ids_are_unique_ascii_and_start_with_the_name(name, write_jsonl):
    records = [copy.deepcopy(RECORDS[name][0]) for _ in range(3)]
    for number, record in enumerate(records):
        record.update({key: number for key in ("case_id", "known_id", "uuid", "id") if key in record})
        for texts in (record, record.get("requested_rewrite", {})):
            texts.update({key: f"{number} {texts[key]}" for key in PROMPTED if key in texts})
    ids = [e.id for e in load_examples(name, path=write_jsonl("data.jsonl", records))]
    assert len(set(ids)) == len(ids) == 3 * len(RECORDS[name][1])
    assert all(i.isascii() and i.startswith(f"{name}-") for i in ids)


def test_registry_names_the_papers_counts_and_pins_every_hub_it_reads():
    assert {n: d.paper_samples for n, d in DATASETS.items() if d.paper_samples} == PAPER_SAMPLES
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.task in {"math", "program", "language", "fact"}
        assert dataset.revision is None or len(bytes.fromhex(dataset.revision)) == 20
        assert set(dataset.hub_files) == (set(dataset.split_names) if dataset.hub else set())
    with pytest.raises(TypeError):
        DATASETS["mine"] = DATASETS["gsm8k"]


def test_code25k_leaves_the_input_line_out_when_it_is_empty(write_jsonl):
    record = RECORDS["code25k"][0] | {"input": ""}
    (example,) = load_examples("code25k", path=write_jsonl("data.jsonl", [record]))
    assert example.prompt == "Instruction: Say hi\nCode:"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("plain\n#### 1", " plain\n#### 1"),
        ("<<1+1=2>>2 and <<2<3=1>>1\n#### 1", " 2 and 1\n#### 1"),
        ("a < b >> c\n#### 1", " a < b >> c\n#### 1"),
    ],
)
def test_gsm8k_loses_its_calculator_marks_only(answer, expected, write_jsonl):
    record = {"question": "q?", "answer": answer}
    (example,) = load_examples("gsm8k", path=write_jsonl("data.jsonl", [record]))
    assert example.answer == expected


@pytest.mark.parametrize("label", range(6))
def test_emotion_labels_are_those_of_dair_ai(label, write_jsonl):
    names = ["sadness", "joy", "love", "anger", "fear", "surprise"]
    (example,) = load_examples("emotion", path=write_jsonl("d.jsonl", [{"text": "t", "label": label}]))
    assert example.answer == f" {names[label]}"


@pytest.mark.parametrize(
    "pattern",
    ["[X] is [Y] today", "[Y] , [X]", "no marks", "[X] and [X] in [Y]", "only [Y]", "[X] of [Y][Y]"],
)
def test_pararel_skips_patterns_a_causal_model_cannot_complete(pattern, write_jsonl):
    record = RECORDS["pararel"][0]
    file = write_jsonl("d.jsonl", [record | {"patterns": [pattern, "[X] hails from [Y]."]}])
    assert [e.prompt for e in load_examples("pararel", path=file)] == ["S [Y] hails from"]


def test_counterfact_templates_are_text_not_formats(write_jsonl):
    record = RECORDS["counterfact"][0]
    rewrite = record["requested_rewrite"] | {"prompt": "{0.__class__} {x!r:} {} }{"}
    (example,) = load_examples(
        "counterfact", path=write_jsonl("d.jsonl", [record | {"requested_rewrite": rewrite}])
    )
    assert example.prompt == "{0.__class__} {x!r:} A. {0} B. }{"


def test_gsm8k_backward_reads_both_of_its_schemas(write_jsonl):
    first = {"question": "a?", "output": "...", "original_question": "A?", "answer": "1"}
    second = {"question": "b?", "answer": "2", "original_question": "B?", "original_answer": "3"}
    examples = load_examples("gsm8k_backward", path=write_jsonl("d.jsonl", [first, second]))
    assert [e.answer for e in examples] == [" 1", " 2"]


def test_own_records_may_bring_ids_and_groups(write_jsonl):
    records = [
        {"prompt": "p", "answer": " a", "id": "one", "group": 5, "note": "ignored"},
        {"prompt": "q", "answer": " b", "id": 2, "group": None},
    ]
    one, two = load_examples("mytask", path=write_jsonl("FILE.jsonl", records))
    assert (one.id, one.group) == ("mytask-one", "5")
    assert (two.id, two.group) == ("mytask-2", None)


def test_own_answers_glued_to_the_prompts_last_word_are_pointed_out(write_jsonl):
    records = [{"prompt": "The capital is", "answer": "Paris"}, {"prompt": "2+2=", "answer": "4"}]
    with pytest.warns(UserWarning, match=r"in 1 of 2 examples, 'mytask-00000' first"):
        load_examples("mytask", path=write_jsonl("FILE.jsonl", records))


@pytest.mark.parametrize("text", ["a\x00b", "tab\tbell\x07", "\u2028line\u0085", "Größe 大", "  padded  "])
def test_texts_are_kept_verbatim(text, write_jsonl):
    file = write_jsonl("FILE.jsonl", [{"prompt": text, "answer": f" {text}"}])
    (example,) = load_examples("mytask", path=file)
    assert (example.prompt, example.answer) == (text, f" {text}")
