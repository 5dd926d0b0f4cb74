"""Every bad record or file: one line that names the file and line, the field, and the remedy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from caploc.datasets import DATASETS, load_examples
from caploc.errors import CaplocError, DatasetError, OptionError, UnknownNameError
from caploc.tests.datasets.conftest import GSM8K, RECORDS

# The fields whose text or label an example is made of.
READ = {
    "gsm8k": ["question", "answer"],
    "meta_math": ["query", "response"],
    "code25k": ["instruction", "output"],
    "emotion": ["text"],
    "imdb": ["text"],
    "counterfact": [
        "case_id",
        "requested_rewrite.prompt",
        "requested_rewrite.subject",
        "requested_rewrite.target_true.str",
    ],
    "zsre": ["subject", "src", "answers"],
    "pararel": ["relation", "uuid", "sub_label", "obj_label", "patterns"],
    "known_1000": ["known_id", "prompt", "attribute"],
    "mbpp": ["text", "code"],
    "gsm8k_backward": ["question", "answer"],
    "decoupling": ["id", "direct_prompt", "direct_answer", "code_prompt", "code_answer"],
    "mytask": ["prompt", "answer"],
}
FIELDS = [(name, field) for name, fields in READ.items() for field in fields]
LABELS = [("emotion", "label"), ("imdb", "label")]


def edited(name, field, value):
    """The record of `name` with the dotted `field` replaced, or removed where `value` is `...`."""
    record = copy.deepcopy(RECORDS[name][0])
    *parents, last = field.split(".")
    target = record
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return record


def error_of(name, path, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        load_examples(name, path=path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "field"), [*FIELDS, *LABELS, ("code25k", "input")])
@pytest.mark.parametrize("value", [..., None], ids=["absent", "null"])
def test_missing_field(name, field, value, write_jsonl):
    file = write_jsonl("d.jsonl", [RECORDS[name][0], edited(name, field, value)])
    message = error_of(name, file)
    assert message.startswith(f"{file}:2: field '{field}' is missing or null (fields there: ")


@pytest.mark.parametrize(("name", "field"), [*FIELDS, *LABELS])
@pytest.mark.parametrize("value", [True, 1.5, {"a": 1}], ids=["bool", "float", "object"])
def test_wrong_type(name, field, value, write_jsonl):
    file = write_jsonl("d.jsonl", [edited(name, field, value)])
    message = error_of(name, file)
    assert f"{file}:1: field '{field}' is of type {type(value).__name__}; it must be" in message


def test_a_parent_that_is_no_object(write_jsonl):
    file = write_jsonl("d.jsonl", [edited("counterfact", "requested_rewrite", "text")])
    assert "field 'requested_rewrite' is of type str; it must be an object" in error_of("counterfact", file)


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_empty_text(name, field, write_jsonl):
    blank = [" "] if field in ("answers", "patterns") else " \n"
    file = write_jsonl("d.jsonl", [edited(name, field, blank)])
    message = error_of(name, file)
    assert message.startswith(f"{file}:1: field '{field}'") and "empty" in message


def test_zsre_without_answers(write_jsonl):
    file = write_jsonl("d.jsonl", [edited("zsre", "answers", [])])
    assert "field 'answers' is an empty list" in error_of("zsre", file)


def test_gsm8k_answer_that_is_nothing_but_a_calculator_mark(write_jsonl):
    file = write_jsonl("d.jsonl", [{"question": "q", "answer": "<<1+1=2>>"}])
    assert error_of("gsm8k", file).startswith(f"{file}:1: example 'gsm8k-00000': the answer is empty")


@pytest.mark.parametrize(("name", "last"), [("emotion", 5), ("imdb", 1)])
@pytest.mark.parametrize("offset", [-1, 1])
def test_label_out_of_range(name, last, offset, write_jsonl):
    label = -1 if offset < 0 else last + 1
    file = write_jsonl("d.jsonl", [edited(name, "label", label)])
    assert f"{file}:1: field 'label' is {label}; it must lie in 0..{last}" in error_of(name, file)


@pytest.mark.parametrize("template", ["no place", "{} and {}"])
def test_counterfact_template_needs_one_place_for_the_subject(template, write_jsonl):
    file = write_jsonl("d.jsonl", [edited("counterfact", "requested_rewrite.prompt", template)])
    assert "must hold the subject's place {} exactly once" in error_of("counterfact", file)


def test_lone_surrogate(write_jsonl):
    file = write_jsonl("d.jsonl", [GSM8K, {"question": "ok \ud83d", "answer": "1"}])
    message = error_of("gsm8k", file)
    assert message.startswith(f"{file}:2: field 'question' has a lone surrogate at character 3, ")


def test_duplicated_ids_name_both_places(write_jsonl):
    record = RECORDS["known_1000"][0]
    file = write_jsonl("d.jsonl", [record, record | {"known_id": 4}, record])
    message = error_of("known_1000", file)
    assert message == f"{file}:3: id 'known_1000-3' also belongs to {file}:1; make ids unique"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"question": "q"', "not valid JSON"),
        (b"question,answer", "not valid JSON"),
        (b'["q", "a"]', "a JSON object with named fields is expected, not a list"),
        (b'{"question": "\xff"}', "not UTF-8 at byte 14"),
        (b"[" * 100_000, "not usable JSON (RecursionError)"),
        (b'{"question": ' + b"9" * 5000 + b"}", "not usable JSON (ValueError)"),
    ],
    ids=["cut off", "no json", "array", "latin-1", "deep", "huge number"],
)
def test_bad_line_is_named(content, reason, tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b'{"question": "q", "answer": "a"}\n\n' + content + b"\n")
    message = error_of("gsm8k", file)
    assert message.startswith(f"{file}:3: ") and reason in message


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_empty_file(name, content, tmp_path):
    file = tmp_path / name
    file.write_bytes(content)
    assert error_of("gsm8k", file).startswith(f"{file}: the file has no record")


def test_empty_array(tmp_path):
    file = tmp_path / "d.json"
    file.write_text("[]")
    assert error_of("gsm8k", file) == f"{file}: the array has no record"


def test_bad_item_of_an_array_is_named(tmp_path):
    file = tmp_path / "d.json"
    file.write_text('[{"question": "q", "answer": "a"}, 3]')
    assert error_of("gsm8k", file).startswith(f"{file} record 2: a JSON object")


def test_unknown_file_type(tmp_path):
    file = tmp_path / "data.pkl"
    file.write_bytes(b"\x80\x04N.")
    assert error_of("gsm8k", file) == f"{file}: unknown file type; use one of .jsonl, .json, .parquet, .csv"


def test_parquet_that_is_none(tmp_path):
    file = tmp_path / "d.parquet"
    file.write_bytes(b"no parquet")
    assert error_of("gsm8k", file).startswith(f"{file}: cannot be read as Parquet (")


def test_path_that_does_not_exist(tmp_path):
    for name in ("gsm8k", "mytask"):
        assert f"{name}: {tmp_path / 'none'} does not exist" in error_of(name, tmp_path / "none")


def test_data_root_without_the_dataset_lists_what_was_looked_for(tmp_path):
    message = error_of("gsm8k", tmp_path)
    for part in ("gsm8k.jsonl", "gsm8k_train.jsonl", "gsm8k_test.jsonl", "gsm8k/", "github.com/openai"):
        assert part in message


def test_data_root_with_two_copies(write_jsonl, tmp_path):
    write_jsonl("gsm8k.jsonl", [GSM8K])
    write_jsonl("gsm8k_train.jsonl", [GSM8K])
    assert "holds it more than once (gsm8k.jsonl, gsm8k_train.jsonl)" in error_of("gsm8k", tmp_path)
    write_jsonl("imdb.jsonl", [GSM8K])
    write_jsonl("imdb.json", [GSM8K])
    assert "more than once" in error_of("imdb", tmp_path)


def test_missing_part(write_jsonl, tmp_path):
    write_jsonl("gsm8k_train.jsonl", [GSM8K])
    assert "has no test part; add gsm8k_test.jsonl" in error_of("gsm8k", tmp_path, split="evaluate")
    assert len(load_examples("gsm8k", path=tmp_path, split="locate")) == 1


def test_test_part_that_repeats_the_training_part(write_jsonl, tmp_path):
    write_jsonl("gsm8k_train.jsonl", [GSM8K])
    write_jsonl("gsm8k_test.jsonl", [GSM8K])
    assert "every prompt of the test part" in error_of("gsm8k", tmp_path, split="evaluate")


def test_single_file_too_small_to_divide(write_jsonl):
    file = write_jsonl("d.jsonl", [GSM8K])
    sides = {}
    for split in ("locate", "evaluate"):
        try:
            sides[split] = load_examples("gsm8k", path=file, split=split)
        except DatasetError as error:
            assert f"falls on the {split} side" in str(error)
    assert len(sides) == 1


def test_pararel_without_a_usable_pattern(write_jsonl):
    file = write_jsonl("d.jsonl", [edited("pararel", "patterns", ["[Y] bore [X]."])])
    assert "yields an example" in error_of("pararel", file)


def test_pararel_folders_without_a_common_relation(write_jsonl, tmp_path):
    write_jsonl("pararel/graphs_json/P1.jsonl", [{"pattern": "[X] in [Y]."}])
    write_jsonl("pararel/trex_lms_vocab/P2.jsonl", [{"uuid": "u", "sub_label": "s", "obj_label": "o"}])
    assert "no relation has both" in error_of("pararel", tmp_path)


def test_folder_without_data(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "README.md").write_text("nothing")
    assert "holds no .jsonl, .json, .parquet, .csv file" in error_of("gsm8k", tmp_path)


@pytest.mark.parametrize("limit", [0, -1, True, 2.0, "3"])
def test_limit_must_be_a_positive_whole_number(limit):
    with pytest.raises(OptionError, match="limit must be a whole number of at least 1"):
        load_examples("gsm8k", limit=limit)


@pytest.mark.parametrize("seed", [None, 1.0, True])
def test_seed_must_be_a_whole_number(seed):
    with pytest.raises(OptionError, match="seed must be a whole number"):
        load_examples("gsm8k", seed=seed)


def test_unknown_split():
    with pytest.raises(OptionError, match="split must be one of locate, train, evaluate, test or None"):
        load_examples("gsm8k", split="validation")


@pytest.mark.parametrize(
    ("name", "hint"), [("gsm8", "did you mean gsm8k?"), ("GSM8K", "did you mean gsm8k?")]
)
@pytest.mark.parametrize("path", [None, "."])
def test_unknown_name_lists_the_known_and_the_nearest(name, hint, path, tmp_path):
    with pytest.raises(UnknownNameError) as caught:
        load_examples(name, path=None if path is None else tmp_path)
    assert hint in str(caught.value)
    assert all(known in str(caught.value) for known in DATASETS)


@pytest.mark.parametrize("name", ["my task", "../x", "", "tâche", "a\nb"])
def test_own_name_must_suit_a_test_id(name, write_jsonl):
    with pytest.raises(OptionError, match="may hold only ASCII"):
        load_examples(name, path=write_jsonl("FILE.jsonl", [RECORDS["mytask"][0]]))


def test_all_errors_share_one_base():
    assert {e.__mro__[1] for e in (DatasetError, OptionError, UnknownNameError)} == {CaplocError}
    assert issubclass(CaplocError, ValueError)


def test_unreadable_file(tmp_path, monkeypatch):
    file = tmp_path / "d.jsonl"
    file.write_text("{}")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert error_of("gsm8k", file) == f"{file}: cannot be read (Permission denied); check the path"
