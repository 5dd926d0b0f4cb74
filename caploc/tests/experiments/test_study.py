"""A study's data and controls: what runs, what does not and why, and what the scrambled control keeps."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest

from caploc.attribution.engine import Method
from caploc.errors import DatasetError, ModelError, OptionError
from caploc.experiments import locating
from caploc.experiments.evaluating import PreparedItems
from caploc.experiments.locating import LocatedOn, Scores, control_examples, shard_members
from caploc.experiments.study import (
    CPU_SAMPLES,
    TWINS,
    NotRunError,
    Study,
    StudySettings,
    pairs,
)
from caploc.model.loading import untrained_twin
from caploc.statistics import Shards, growing
from caploc.store import Store
from caploc.tests.attribution.families import CONTEXT
from caploc.tests.gpu.simulated import SimulatedGpus
from caploc.tests.tiny import save_tiny, tiny_lm

MakeStudy = Callable[..., Study]


def write(file: Path, records: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def sums(count: int, long: int = 0) -> list[dict[str, Any]]:
    """Records of a dataset of one's own, the first ``long`` beyond the model's context."""
    return [
        {
            "id": f"r{index}",
            "prompt": f"{index}+1" + " and so on" * CONTEXT * (index < long),
            "answer": f"={index + 1}",
        }
        for index in range(count)
    ]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """A study of a tiny model on ``mine``, records of one's own split in two files."""

    def make(records: list[dict[str, Any]] | None = None, **settings: Any) -> Study:
        if records is not None:
            write(tmp_path / "mine_train.jsonl", records)
            write(tmp_path / "mine_test.jsonl", [{"prompt": "held", "answer": " out"}])
        defaults: dict[str, Any] = {
            "data_root": str(tmp_path),
            "datasets": ["mine"],
            "method": Method(steps=2),
            "store": Store(tmp_path / "store"),
        }
        return Study("tiny", StudySettings(**{**defaults, **settings}), tiny_lm())

    return make


# ------------------------------------------------------------------------------------------------ what runs


def test_examples_are_loaded_once_and_limited(make_study: MakeStudy) -> None:
    study = make_study(sums(40), samples=20)
    located = study.located("mine")
    assert len(located.examples) == len(located.tokenized) == 20 and not located.excluded
    assert [example.id for example in located.examples] == [tokens.id for tokens in located.tokenized]
    assert study.located("mine") is located
    assert "held" not in {example.prompt for example in located.examples}


def test_examples_beyond_the_context_are_counted(make_study: MakeStudy) -> None:
    located = make_study(sums(30, long=5)).located("mine")
    assert len(located.examples) == len(located.tokenized) == 25
    assert {exclusion.id for exclusion in located.excluded} == {f"mine-train-r{index}" for index in range(5)}
    assert all("the context of tiny-llama holds" in exclusion.reason for exclusion in located.excluded)
    assert [example.id for example in located.examples] == [tokens.id for tokens in located.tokenized]


def test_how_many_samples(make_study: MakeStudy) -> None:
    assert make_study()._samples("gsm8k") == CPU_SAMPLES
    assert make_study(samples=33)._samples("gsm8k") == 33
    on_gpu = make_study(device="cuda")
    assert (
        on_gpu._samples("gsm8k")
        and on_gpu._samples("gsm8k") > CPU_SAMPLES
        and on_gpu._samples("mine") is None
    )


def test_where_the_data_come_from(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(files={"mine": "own.jsonl"})
    assert (study.source("mine"), study.source("gsm8k")) == ("own.jsonl", str(tmp_path))
    embedded = Study("tiny-llama", StudySettings())
    source = embedded.source("gsm8k")
    assert source is not None and (Path(source) / "gsm8k_train.jsonl").is_file()
    assert Study("gptj-6b", StudySettings()).source("gsm8k") is None


def test_controls_are_other_scores_on_the_same_examples(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(sums(20))
    shards = {control: study.result(Scores("mine", control)) for control in ("", "untrained", "scrambled")}
    study.release()
    assert {len(found.counts) for found in shards.values()} == {20}
    totals = [found.whole.total for found in shards.values()]
    assert all(not np.allclose(a, b) for a, b in pairs(totals))  # type: ignore[arg-type, type-var]
    assert study.result(Scores("mine")) is shards[""] and study.untrained is study.untrained
    assert study.untrained.name == "tiny-llama-untrained-0"

    itself = Study("given", study.settings, untrained_twin(study.lm, study.settings.seed))
    assert itself.untrained.name.endswith("-1") and itself.untrained.fingerprint != itself.lm.fingerprint

    monkeypatch.setattr(locating.Attributor, "__init__", lambda *_: 1 / 0)
    again = make_study()
    for control, found in shards.items():
        warm = again.result(Scores("mine", control))
        assert np.array_equal(warm.totals, found.totals), "a second study is warm"


def test_the_record_says_how_numbers_came_about(make_study: MakeStudy) -> None:
    study = make_study(sums(20), seed=5)
    record = {**study.record, **LocatedOn.of(study, "mine").settings}
    assert {name: record[name] for name in ("quadrature", "steps", "seed", "dtype", "device")} == {
        "quadrature": "paper", "steps": 2, "seed": 5, "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    assert study.lm.fingerprint.startswith(record["model_fingerprint"])
    whole = study.result(Scores("mine")).whole
    assert record["completeness_error"] == pytest.approx((whole.completeness / 20).tolist())
    assert record["points"] == [3, 3] and len(record["completeness_gap"]) == 2
    assert "points" not in study.record


# ------------------------------------------------------------------------------------------------ what does not


def reason(study: Study, dataset: str) -> str:
    start = time.monotonic()
    with pytest.raises(NotRunError) as caught:
        study.located(dataset)
    assert time.monotonic() - start < 5 and "\n" not in str(caught.value)
    return str(caught.value)


def test_too_few_samples(make_study: MakeStudy) -> None:
    expected = (
        "mine has 15 examples that fit tiny-llama (4 longer than the model's context), and 16 are the fewest that can "
        "be halved; give"
    )
    assert reason(make_study(sums(19, long=4)), "mine").startswith(expected)
    assert len(make_study(sums(20, long=4)).located("mine").tokenized) == 16


def test_nothing_fits_the_context(make_study: MakeStudy) -> None:
    assert reason(make_study(sums(20, long=20)), "mine").startswith(
        "none of the 20 examples fits into the 96 tokens"
    )


def test_answers_that_the_tokenizer_cannot_write(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(sums(20), scorings={"mine": "exact"})
    write(tmp_path / "mine_test.jsonl", [{"prompt": "held", "answer": " OUT"}])
    with pytest.raises(
        NotRunError, match=r"'exact' does not fit tiny-llama, .* cannot write any of the 1 answers"
    ):
        study.result(PreparedItems("mine"))


def test_a_dataset_that_the_data_root_lacks(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(sums(20), datasets=["gsm8k", "mine", "imdb"])
    assert reason(study, "gsm8k").startswith(f"gsm8k: {tmp_path} holds none of gsm8k.jsonl, ")
    assert study.available() == ["mine"]


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub_constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)


def test_a_dataset_of_the_hub_without_network(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_network(monkeypatch)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    study = make_study(data_root=None, datasets=["gsm8k", "imdb"])
    text = reason(study, "gsm8k")
    assert text.startswith("openai/gsm8k cannot be fetched (ConnectError: ") and "--data-root" in text
    assert study.available() == []


def test_a_model_of_the_hub_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_network(monkeypatch)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        NotRunError, match=r"^model 'EleutherAI/gpt-j-6b' cannot be fetched .*check the network"
    ):
        _ = Study("gptj-6b", StudySettings()).lm


def test_a_broken_model_is_an_error_and_no_reason(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    assert Study(str(folder), StudySettings()).lm.name == "model"
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json") as caught:
        _ = Study(str(folder), StudySettings()).lm
    assert not isinstance(caught.value, NotRunError)


@pytest.mark.parametrize("record", [{"prompt": "a"}, {"prompt": "a", "answer": ""}])
def test_a_bad_record_is_an_error_and_no_reason(make_study: MakeStudy, record: dict[str, Any]) -> None:
    study = make_study([*sums(20), record])
    for ask in (lambda: study.located("mine"), study.available):
        with pytest.raises(DatasetError, match=r"mine_train\.jsonl:21: field 'answer'") as caught:
            ask()
        assert not isinstance(caught.value, NotRunError)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"draws": 19}, "draws must be at least 20 for a 95 % interval, got 19"),
        ({"samples": 15}, "samples must be at least 16, or halves and curves mean nothing; got 15"),
    ],
)
def test_settings_with_which_nothing_can_be_told(settings: dict[str, int], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        StudySettings(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_a_bad_record_is_found_before_any_work(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dataset is sound; the last one's record 3 is not, and nothing is attributed."""
    records = sums(20)
    del records[2]["answer"]
    bad = write(tmp_path / "bad.jsonl", records)
    study = make_study(sums(20), datasets=["mine", "bad"], files={"bad": bad})

    def worked(*args: Any, **options: Any) -> None:
        raise AssertionError("attribution began")

    monkeypatch.setattr(locating, "Attributor", worked)
    with pytest.raises(DatasetError, match=r"bad\.jsonl:3: field 'answer' is missing"):
        study.result(Scores("mine"))


def test_what_cannot_be_had_is_asked_for_once(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(sums(20), datasets=["mine", "emotion"])
    with pytest.raises(NotRunError, match="emotion"):
        study.located("emotion")
    monkeypatch.setattr("caploc.experiments.study.read_part", None)
    with pytest.raises(NotRunError, match="emotion"):
        study.located("emotion")


def test_an_unknown_control_is_refused(make_study: MakeStudy) -> None:
    with pytest.raises(OptionError, match="unknown control 'typo'; choose one of"):
        make_study(sums(20)).result(Scores("mine", "typo"))


def test_twins_are_of_seeds_that_follow_and_none_is_the_model_itself(make_study: MakeStudy) -> None:
    study = make_study(sums(50))
    named = [study.named(control) for control in TWINS]
    assert [one.name for one in named] == [f"tiny-llama-untrained-{seed}" for seed in range(len(TWINS))]
    assert len({one.fingerprint for one in (study.lm, *named)}) == 1 + len(TWINS)
    second = Study("given", study.settings, untrained_twin(study.lm, study.settings.seed + 1))
    names = [second.named(control).name for control in TWINS]
    assert [name.rpartition("-")[2] for name in names] == ["0", "2", "3", "4"]


def test_controls_take_as_many_examples_as_the_curve_of_the_model_has(make_study: MakeStudy) -> None:
    for examples, twins, scrambled in (
        (16, 16, 16),
        (79, 79, 79),
        (80, 40, 80),
        (320, 40, 80),
        (1600, 50, 100),
    ):
        found = [control_examples(examples, control) for control in (TWINS[0], "scrambled")]
        assert found == [twins, scrambled]
        members = shard_members(examples)
        nothing = Shards(len(members), lambda subsets: np.ones((len(subsets), 1, 1), bool))
        sizes = growing(nothing, 1, 0)[0] * len(members[0])
        assert set(found) <= set(sizes.tolist())
    study = make_study(sums(90))
    assert study.result(Scores("mine", TWINS[1])).whole.count == 45
    assert study.result(Scores("mine")).whole.count == 90


def test_a_gpu_holds_the_model_or_its_twin(make_study: MakeStudy) -> None:
    with SimulatedGpus() as gpus:
        study = make_study(sums(20), device="cuda")
        assert study.weights() is study.lm and study.lm.device.type == "cuda"
        one = gpus.live()
        assert study.weights("untrained") is study.untrained
        assert (study.lm.device.type, study.untrained.device.type) == ("cpu", "cuda")
        assert study.weights("scrambled") is study.lm
        assert (study.lm.device.type, study.untrained.device.type) == ("cuda", "cpu")
        assert gpus.live() == one
