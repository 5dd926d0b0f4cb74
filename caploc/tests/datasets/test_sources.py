"""Where records are read from: data roots, files and folders of hub repositories."""

from __future__ import annotations

import csv
import json

import datasets as hf_datasets
import pytest

from caploc.datasets import load_examples
from caploc.errors import DatasetError
from caploc.tests.datasets.conftest import GSM8K, RECORDS

ROWS = [{"question": f"q{i}?", "answer": f"a{i}\n#### {i}"} for i in range(10)]
MORE = [{"question": f"t{i}?", "answer": f"b{i}"} for i in range(4)]


def questions(examples):
    return [e.prompt.removeprefix("Question: ").removesuffix("\nAnswer:") for e in examples]


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    hf_datasets.Dataset.from_list(rows).to_parquet(str(path))


def test_a_pair_of_files(write_jsonl, tmp_path):
    write_jsonl("gsm8k_train.jsonl", ROWS)
    write_jsonl("gsm8k_test.jsonl", [*MORE, ROWS[3]])
    for split in (None, "locate", "train"):
        examples = load_examples("gsm8k", path=tmp_path, split=split)
        assert questions(examples) == [row["question"] for row in ROWS]
        assert examples[7].id == "gsm8k-train-00007"
    for split in ("evaluate", "test"):
        examples = load_examples("gsm8k", path=str(tmp_path), split=split)
        assert questions(examples) == [row["question"] for row in MORE]  # ROWS[3] is located with
        assert examples[0].id == "gsm8k-test-00000"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize("place", ["root", "file"])
def test_a_single_file_of_any_type(suffix, place, tmp_path):
    file = tmp_path / f"gsm8k{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(ROWS))
    elif suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, ROWS)))
    elif suffix == ".parquet":
        parquet(file, ROWS)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["question", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
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


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_folder_of_an_unknown_layout_is_read_by_the_datasets_library(suffix, tmp_path):
    folder = tmp_path / "gsm8k"
    for split, rows in (("train", ROWS), ("test", MORE)):
        file = folder / "some" / f"{split}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        table = hf_datasets.Dataset.from_list(rows)
        {".parquet": table.to_parquet, ".jsonl": table.to_json, ".csv": table.to_csv}[suffix](str(file))
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
    with pytest.raises(DatasetError, match=r"holds the configurations main, other but not 'split'; keep one"):
        load_examples("emotion", path=tmp_path)


def test_local_data_leaves_no_cache_and_no_trace_of_the_library_behind(tmp_path, monkeypatch, capfd):
    parquet(tmp_path / "root/gsm8k.parquet", ROWS)
    parquet(tmp_path / "root/imdb/data.parquet", [RECORDS["imdb"][0]])
    capfd.readouterr()
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(hf_datasets.config, "HF_DATASETS_CACHE", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(home))
    hf_datasets.enable_progress_bars()
    monkeypatch.setattr(hf_datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    settings = hf_datasets.are_progress_bars_disabled(), hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    load_examples("gsm8k", path=tmp_path / "root")
    load_examples("imdb", path=tmp_path / "root")
    assert not list(home.iterdir())
    assert capfd.readouterr() == ("", "")
    assert (
        hf_datasets.are_progress_bars_disabled(),
        hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS,
    ) == settings


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
