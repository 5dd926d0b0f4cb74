"""Where records are read from: data roots, files and folders of hub repositories."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.datasets import load_examples
from caploc.errors import DatasetError
from caploc.tests.datasets.conftest import GSM8K, RECORDS

ROWS = [{"question": f"q{i}?", "answer": f"a{i}\n#### {i}"} for i in range(10)]
MORE = [{"question": f"t{i}?", "answer": f"b{i}"} for i in range(4)]


def questions(examples):
    return [e.prompt.removeprefix("Question: ").removesuffix("\nAnswer:") for e in examples]


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def csv_table(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


WRITERS = {
    ".parquet": parquet,
    ".jsonl": lambda path, rows: path.write_text("\n".join(map(json.dumps, rows))),
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
    ".csv": csv_table,
}


def test_a_pair_of_files(write_jsonl, tmp_path):
    write_jsonl("gsm8k_train.jsonl", ROWS)
    write_jsonl("gsm8k_test.jsonl", [*MORE, ROWS[3]])
    for split in (None, "locate", "train"):
        examples = load_examples("gsm8k", path=tmp_path, split=split)
        assert questions(examples) == [row["question"] for row in ROWS]
        assert examples[7].id == "gsm8k-train-00007"
    for split in ("evaluate", "test"):
        with pytest.warns(UserWarning, match="1 of 5 examples of gsm8k left out of the evaluation"):
            examples = load_examples("gsm8k", path=str(tmp_path), split=split)
        assert questions(examples) == [row["question"] for row in MORE]  # ROWS[3] is located with
        assert examples[0].id == "gsm8k-test-00000"


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("place", ["root", "file"])
def test_a_single_file_of_any_type(suffix, place, tmp_path):
    file = tmp_path / f"gsm8k{suffix}"
    WRITERS[suffix](file, ROWS)
    examples = load_examples("gsm8k", path=tmp_path if place == "root" else file)
    assert questions(examples) == [row["question"] for row in ROWS]
    assert examples[2].answer == " a2\n#### 2"
    assert examples[2].id == "gsm8k-00002"


def test_json_suffix_on_json_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / "gsm8k.json").write_bytes(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, ROWS)).encode())
    assert len(load_examples("gsm8k", path=tmp_path)) == 10


def test_csv_words_for_nothing_are_text(tmp_path):
    (tmp_path / "mytask.csv").write_text('prompt,answer\nNA, None\nnull," NaN"\n')
    assert [(e.prompt, e.answer) for e in load_examples("mytask", path=tmp_path / "mytask.csv")] == [
        ("NA", " None"),
        ("null", " NaN"),
    ]


def test_folder_with_the_files_of_the_hub_repository(tmp_path):
    parquet(tmp_path / "gsm8k/main/train-00000-of-00001.parquet", ROWS)
    parquet(tmp_path / "gsm8k/main/test-00000-of-00001.parquet", MORE)
    parquet(tmp_path / "gsm8k/socratic/train-00000-of-00001.parquet", [{"question": "no", "answer": "no"}])
    for path in (tmp_path, tmp_path / "gsm8k"):
        assert len(load_examples("gsm8k", path=path)) == 10
        assert questions(load_examples("gsm8k", path=path, split="evaluate")) == [r["question"] for r in MORE]


def test_code25k_folder_is_not_counted_twice(write_jsonl, tmp_path):
    record = RECORDS["code25k"][0]
    write_jsonl("code25k/python-codes-25k.jsonl", [record])
    (tmp_path / "code25k/python-codes-25k.json").write_text(json.dumps([record]))
    assert len(load_examples("code25k", path=tmp_path)) == 1


def test_nested_records_survive_parquet(tmp_path):
    record = RECORDS["counterfact"][0]
    parquet(tmp_path / "counterfact/data/train-00000-of-00001-05d11247db7abce8.parquet", [record])
    (example,) = load_examples("counterfact", path=tmp_path)
    assert example.id == "counterfact-train-7"
    assert (example.prompt, example.answer) == RECORDS["counterfact"][1][0][:2]


@pytest.mark.parametrize("suffix", WRITERS)
def test_folder_of_an_unknown_layout_is_read_by_the_names_of_its_files(suffix, tmp_path):
    folder = tmp_path / "gsm8k"
    for split, rows in (("train", ROWS), ("test", MORE)):
        file = folder / "some" / f"{split}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[suffix](file, rows)
    assert questions(load_examples("gsm8k", path=tmp_path)) == [r["question"] for r in ROWS]
    assert questions(load_examples("gsm8k", path=tmp_path, split="evaluate")) == [r["question"] for r in MORE]


def test_folder_with_one_split_is_divided(tmp_path):
    parquet(tmp_path / "gsm8k/data.parquet", ROWS)
    sides = [load_examples("gsm8k", path=tmp_path, split=split) for split in ("locate", "evaluate")]
    assert sorted(questions(sides[0] + sides[1])) == [row["question"] for row in ROWS]


def test_folder_with_other_splits_says_which(tmp_path):
    parquet(tmp_path / "meta_math/data/test-00000.parquet", [RECORDS["meta_math"][0]])
    parquet(tmp_path / "meta_math/data/validation-00000.parquet", [RECORDS["meta_math"][0]])
    with pytest.raises(DatasetError, match=r"has the splits validation, test, but train is needed"):
        load_examples("meta_math", path=tmp_path)


CARD = """---
configs:
- config_name: main
  data_files: a.jsonl
- config_name: other
  data_files: b.jsonl
---
"""


def test_folder_with_configurations_takes_the_datasets_own(write_jsonl, tmp_path):
    write_jsonl("gsm8k/a.jsonl", ROWS)
    write_jsonl("gsm8k/b.jsonl", MORE)
    (tmp_path / "gsm8k/README.md").write_text(CARD)
    assert len(load_examples("gsm8k", path=tmp_path)) == 10
    (tmp_path / "gsm8k").rename(tmp_path / "emotion")
    with pytest.raises(DatasetError, match=r"holds the configurations main, other but not 'split';"):
        load_examples("emotion", path=tmp_path)


# --------------------------------------------------------------------- folders that hold more than the dataset

DECOYS = (
    "train_socratic.jsonl", "test_socratic.jsonl", "test-v2.json", "old/train_1.csv", "example_model_solutions.jsonl",
    "notes.csv", "validation.jsonl", "dataset_infos.json", ".cache/train.jsonl", "train.txt", "README.md", "LICENSE",
)  # fmt: skip


def one_line_error(name, path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_examples(name, path=path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.sets(st.sampled_from(DECOYS)), st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
@settings(max_examples=40, deadline=None)
def test_whatever_else_lies_there_the_files_called_like_the_splits_are_read(decoys, suffix):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "gsm8k"
        for name in decoys:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text('{"question": "decoy?", "answer": "no"}\n')
        folder.mkdir(exist_ok=True)
        WRITERS[suffix](folder / f"train{suffix}", ROWS)
        WRITERS[suffix](folder / f"test{suffix}", MORE)
        assert questions(load_examples("gsm8k", root, "locate")) == [row["question"] for row in ROWS]
        assert questions(load_examples("gsm8k", root, "evaluate")) == [row["question"] for row in MORE]


READ_FROM = {"zsre": "src", "mbpp": "text", "code25k": "instruction"}


@pytest.mark.parametrize(
    ("name", "files", "read"),
    [
        ("zsre", ["zsre_mend_train.json", "zsre_mend_train_10000.json", "zsre_mend_eval.json"],
         ["zsre_mend_train.json"]),
        ("mbpp", ["mbpp.jsonl", "sanitized-mbpp.json"], ["mbpp.jsonl"]),
        ("code25k", ["old/python-codes-25k.jsonl", "old/python-codes-25k.txt"], ["old/python-codes-25k.jsonl"]),
        ("gsm8k", ["main/train-1.jsonl", "main/test-1.jsonl", "socratic/train-1.jsonl", "socratic/test.jsonl"],
         ["main/train-1.jsonl"]),
        ("gsm8k", ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test.jsonl"],
         ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]),
        ("gsm8k", ["gsm8k_train.jsonl", "gsm8k_train_socratic.jsonl", "gsm8k_eval.jsonl"], ["gsm8k_train.jsonl"]),
        ("gsm8k", ["gsm8k.jsonl", "gsm8k_socratic.jsonl"], ["gsm8k.jsonl"]),
        ("gsm8k", ["anything.jsonl", "dataset_infos.json", ".ipynb_checkpoints/anything.jsonl"], ["anything.jsonl"]),
        ("gsm8k", ["train/part.jsonl", "test/part.jsonl", "dev/part.jsonl"], ["train/part.jsonl"]),
        ("gsm8k", ["train.jsonl", "train_socratic.jsonl", "test_socratic.jsonl"], ["train.jsonl"]),
        ("gsm8k", ["main/train.jsonl", "socratic/train.jsonl", "socratic/test.jsonl"], ["main/train.jsonl"]),
        ("gsm8k", ["training-data/gsm8k_eval.jsonl", "training-data/gsm8k_train.jsonl"],
         ["training-data/gsm8k_train.jsonl"]),
    ],
)  # fmt: skip
def test_which_files_of_a_folder_are_read(name, files, read, write_jsonl, tmp_path):
    for file in files:
        record = {**RECORDS[name][0], READ_FROM.get(name, "question"): file}
        write_jsonl(f"{name}/{file}", [record])
    prompts = [one.prompt for one in load_examples(name, path=tmp_path)]
    assert len(prompts) == len(read) and all(
        file in prompt for file, prompt in zip(read, prompts, strict=True)
    )


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a/train.jsonl", "b/train.jsonl"], "that may be meant (a/train.jsonl, b/train.jsonl);"),
        (["train.jsonl", "train.json", "test.json"], "be meant (test.json, train.json, train.jsonl);"),
        (["train-v1.csv", "train-v2.csv"], "that may be meant (train-v1.csv, train-v2.csv)"),
        (["train_main.csv", "test_socratic.csv"], "that may be meant (test_socratic.csv, train_main.csv)"),
        (["one.jsonl", "two.jsonl"], "be meant (one.jsonl, two.jsonl); keep one for each split, or call"),
        (["data/train-00000-of-00002.jsonl"], "some of several shards (train-00000-of-00002.jsonl); get a complete"),
        (["train-00000-of-00001.jsonl", "train.jsonl"], "some of several shards"),
        (["validation.jsonl", "other.jsonl"], "has the splits validation, but train or test is needed"),
    ],
)  # fmt: skip
def test_candidates_are_named_where_no_rule_decides(files, told, write_jsonl, tmp_path):
    for file in files:
        write_jsonl(f"gsm8k/{file}", [GSM8K])
    assert told in one_line_error("gsm8k", tmp_path)


@pytest.mark.parametrize(
    ("configs", "told"),
    [
        ("[{config_name: main, data_files: [a.jsonl, b.jsonl]}]", 14),
        (
            "[{config_name: main, data_files: [{split: train, path: 'a*'}, {split: test, path: [b.jsonl]}]}]",
            10,
        ),
        ("[{config_name: main, data_files: {train: 'a*', test: b.jsonl}}]", 10),
        ("[{config_name: main, data_dir: deep, data_files: c.jsonl}, {config_name: other}]", 1),
        ("[{config_name: other, data_dir: deep}]", 1),
        ("[{config_name: main, data_files: none*}]", "names none* for the train split, and"),
        ("[{config_name: main, data_files: ../*}]", "configs cannot be read (../* leads out of the folder)"),
        ("[{config_name: main, data_files: 3}]", "configs cannot be read"),
        ("[main]", "configs cannot be read"),
        ("[{config_name: a}, {config_name: b}]", "holds the configurations a, b but not 'main';"),
        ("[", "configs cannot be read"),
    ],
)
def test_the_configurations_of_a_readme(configs, told, write_jsonl, tmp_path):
    for name, rows in (("a", ROWS), ("b", MORE), ("deep/c", ROWS[:1])):
        write_jsonl(f"gsm8k/{name}.jsonl", rows)
    (tmp_path / "gsm8k/README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    if isinstance(told, int):
        assert len(load_examples("gsm8k", path=tmp_path)) == told
    else:
        assert told in one_line_error("gsm8k", tmp_path)


@pytest.mark.parametrize("home", ["pararel", "pararel/pattern_data"])
def test_pararel_in_its_original_folders(home, write_jsonl, tmp_path):
    write_jsonl(f"{home}/graphs_json/P19.jsonl", [{"pattern": "[X] is from [Y]."}, {"pattern": "[Y]: [X]"}])
    write_jsonl(f"{home}/graphs_json/P20.jsonl", [{"pattern": "[X] died in [Y]."}])  # has no facts
    fact = {"uuid": "u", "sub_label": "S", "obj_label": "Rome"}
    write_jsonl("pararel/trex_lms_vocab/P19.jsonl", [fact])
    write_jsonl("pararel/trex_lms_vocab/P31.jsonl", [fact])  # has no patterns
    for path in (tmp_path, tmp_path / "pararel"):
        (example,) = load_examples("pararel", path=path)
        assert (example.id, example.prompt, example.answer) == ("pararel-P19:u:0", "S is from", " Rome")


def test_own_dataset_from_a_data_root(write_jsonl, tmp_path):
    write_jsonl("mytask_train.jsonl", [{"prompt": "p", "answer": " a"}])
    write_jsonl("mytask_test.jsonl", [{"prompt": "q", "answer": " b"}])
    assert [e.id for e in load_examples("mytask", path=tmp_path, split="evaluate")] == ["mytask-test-00000"]


def test_known_dataset_from_a_file_of_any_name(write_jsonl):
    assert len(load_examples("gsm8k", path=write_jsonl("whatever.jsonl", [GSM8K]))) == 1
