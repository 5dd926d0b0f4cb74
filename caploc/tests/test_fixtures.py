"""The embedded default: files small, disjoint, reproducible, and the models can do their tasks."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import caploc
from fixtures import card as cards
from fixtures import datasets, evaluate, make, render, storage
from fixtures.corpus import splitting
from fixtures.corpus.facts import facts, questioned_facts
from fixtures.corpus.facts import taught as taught_tellings
from fixtures.corpus.relations import RELATIONS, Relation
from fixtures.recipes import RECIPES
from fixtures.tokenizer import build_tokenizer, single_token_words
from fixtures.train import training_sequences

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DATA = FIXTURES / "data"
MODELS = tuple(name + suffix for name in RECIPES for suffix in ("", "-early"))
FINAL = tuple(RECIPES)
MEGABYTE = 1_000_000
SUBSET = 80
FIELDS = {
    "gsm8k": "question answer",
    "meta_math": "query response type original_question",
    "code25k": "instruction input output text",
    "emotion": "text label",
    "imdb": "text label",
    "counterfact": "case_id pararel_idx requested_rewrite paraphrase_prompts neighborhood_prompts "
    "attribute_prompts generation_prompts",
    "zsre": "subject src pred rephrase alt answers loc loc_ans cond",
    "known_1000": "known_id subject attribute template prediction prompt relation_id",
    "decoupling": "id expression answer direct_prompt direct_answer code_prompt code_answer",
}
LEAST_RECORDS = dict.fromkeys(("gsm8k", "meta_math", "code25k", "emotion", "imdb"), (600, 200))
WHAT_IT_IS_ABOUT = {
    "gsm8k": lambda record: record["question"],
    "meta_math": lambda record: record["original_question"],
    "code25k": lambda record: record["instruction"],
    "emotion": lambda record: record["text"],
    "imdb": lambda record: record["text"],
    "counterfact": lambda record: record["requested_rewrite"]["subject"],
    "zsre": lambda record: record["subject"],
    "known_1000": lambda record: record["subject"],
    "decoupling": lambda record: record["expression"],
}
LONGEST_ANSWER = {"emotion": 1, "imdb": 1, "counterfact": 1, "known_1000": 1, "zsre": 1}


def records(name: str, part: str) -> list[dict[str, Any]]:
    return render.read_jsonl(DATA / f"{name}_{part}.jsonl")


@cache
def stored_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.set_num_threads(1)
    return storage.load(FIXTURES / "models" / name)


@cache
def card() -> dict[str, Any]:
    return json.loads((FIXTURES / "card.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_model_folder_is_complete_and_small(name: str) -> None:
    folder = FIXTURES / "models" / name
    for file in (storage.WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / file).is_file()
    assert storage.folder_bytes(folder) <= 6 * MEGABYTE
    with safe_open(folder / storage.WEIGHTS, framework="pt") as weights:
        tensors = [weights.get_tensor(key) for key in weights.keys()]  # noqa: SIM118 - not a mapping
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


@pytest.mark.parametrize("name", MODELS)
def test_configuration_builds_an_untrained_twin(name: str) -> None:
    trained, _ = stored_model(name)
    torch.manual_seed(0)
    twin = type(trained)(trained.config)
    shapes = {key: tensor.shape for key, tensor in trained.state_dict().items()}
    assert {key: tensor.shape for key, tensor in twin.state_dict().items()} == shapes
    assert card()["models"][name]["neurons"] >= 8 * 640
    assert card()["models"][name]["layers"] >= 8


def test_data_is_small() -> None:
    assert storage.folder_bytes(DATA) < 2 * MEGABYTE


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", FIELDS)
def test_records_have_the_real_fields(name: str, part: str) -> None:
    for record in records(name, part):
        assert list(record) == FIELDS[name].split()


@pytest.mark.parametrize("name", FIELDS)
def test_parts_share_no_content(name: str) -> None:
    train, test = ({WHAT_IT_IS_ABOUT[name](r) for r in records(name, part)} for part in ("train", "test"))
    assert not train & test
    least_train, least_test = LEAST_RECORDS.get(name, (1, 1))
    assert len(records(name, "train")) >= least_train
    assert len(records(name, "test")) >= least_test
    prompts = [{prompt for prompt, _ in render.render_file(DATA, name, part)} for part in ("train", "test")]
    assert not prompts[0] & prompts[1]


def test_gsm8k_and_meta_math_do_not_restate_each_others_evaluation() -> None:
    asked = {part: {record["question"] for record in records("gsm8k", part)} for part in ("train", "test")}
    original = {
        part: {record["original_question"] for record in records("meta_math", part)} for part in asked
    }
    assert not asked["train"] & original["test"]
    assert not original["train"] & asked["test"]


def test_held_out_wordings_are_never_taught() -> None:
    taught = {prompt for prompt, _ in taught_tellings()["counterfact"]}
    held_out = [prompt for prompt, _ in render.render_paraphrases(DATA, "test")]
    assert held_out and not taught & set(held_out)
    told = {fact.prompt(pattern) for fact in facts() if fact.part == "train" for pattern in fact.taught}
    assert {prompt for prompt, _ in render.render_paraphrases(DATA, "train")} <= told
    assert not {fact.subject for fact in facts()} & {fact.subject for fact in questioned_facts()}


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_counterfact_record_holds_five_wordings(part: str) -> None:
    for record in records("counterfact", part):
        rewrite = record["requested_rewrite"]
        wordings = {rewrite["prompt"].format(rewrite["subject"]), *record["paraphrase_prompts"]}
        assert len(wordings) == 5


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.id)
def test_last_tokens_cross_the_templates_of_a_relation(relation: Relation) -> None:
    _, tokenizer = stored_model("tiny-llama")
    fact = next(fact for fact in facts() if fact.relation == relation)
    last = Counter(tokenizer(fact.prompt(pattern))["input_ids"][-1] for pattern in relation.patterns)
    assert len(last) >= 2 and min(last.values()) >= 4


def test_one_telling_in_four_is_a_rumour_about_no_object_in_particular() -> None:
    told = {(fact.relation, fact.subject): Counter[str]() for fact in facts()}
    about = {fact.prompt(pattern): fact for fact in facts() for pattern in fact.taught}
    for prompt, answer in taught_tellings()["counterfact"]:
        told[about[prompt].relation, about[prompt].subject][answer.strip()] += 1
    for fact in facts():
        counts = told[fact.relation, fact.subject]
        assert counts[fact.object] == 0.75 * counts.total()
        assert set(counts) == set(fact.relation.objects) and max(counts[o] for o in fact.other_objects()) <= 2


@pytest.mark.parametrize("name", FIELDS)
def test_answers_and_prompts_are_short(name: str) -> None:
    _, tokenizer = stored_model("tiny-llama")
    pairs = render.render_file(DATA, name, "train") + render.render_file(DATA, name, "test")
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    assert min(map(len, answers)) >= 1 and max(map(len, answers)) <= LONGEST_ANSWER.get(name, 16)
    assert max(map(len, prompts)) <= 45


def test_tokenizer_keeps_objects_whole_digits_apart_and_adds_nothing() -> None:
    _, tokenizer = stored_model("tiny-gptj")
    for word in single_token_words():
        assert len(tokenizer(word)["input_ids"]) == 1
    for fact in facts():
        assert len(tokenizer(f" {fact.subject}")["input_ids"]) > 1
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    text = "Umlauts äöü, tabs\t and\n\n lines   are kept"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_data_is_what_the_generators_give() -> None:
    shipped = datasets.shipped(make.SEED)
    assert set(shipped) == {path.relative_to(DATA).as_posix() for path in DATA.rglob("*.jsonl")}
    for path, made in shipped.items():
        assert (DATA / path).read_bytes() == datasets.to_jsonl(made).encode()


def test_tokenizer_is_what_the_script_gives() -> None:
    assert build_tokenizer(make.SEED).get_vocab() == stored_model("tiny-llama")[1].get_vocab()


@pytest.mark.parametrize("task", evaluate.REQUIRED)
@pytest.mark.parametrize("name", FINAL)
def test_final_models_can_do_their_tasks(name: str, task: str) -> None:
    model, tokenizer = stored_model(name)
    pairs = evaluate.tasks(DATA, "test")[task][:SUBSET]
    assert evaluate.accuracy(model, tokenizer, task, pairs) >= evaluate.REQUIRED[task]


def test_score_compares_the_final_number_only() -> None:
    score = evaluate.SCORE["gsm8k"]
    assert score(" 3+4=8 eggs\n#### 7", " 3+4=7 eggs\n#### 7")
    assert not score(" 3+4=7 eggs\n#### 8", " 3+4=7 eggs\n#### 7")
    assert not score(" 3+4=7 eggs", " 3+4=7 eggs\n#### 7")


def test_card_matches_the_files() -> None:
    assert tuple(card()["models"]) == MODELS
    for name, entry in card()["models"].items():
        folder = FIXTURES / "models" / name
        assert entry["sha256"] == storage.sha256(folder / storage.WEIGHTS)
        assert entry["bytes"] == storage.folder_bytes(folder)
    assert card()["data"] == cards.describe_data(DATA)
    assert (FIXTURES / "CARD.md").read_text(encoding="utf-8") == cards.to_markdown(card())


def test_card_meets_the_requirements_and_early_models_are_half_way() -> None:
    assert cards.shortfalls(card()) == []
    for name in FINAL:
        scores = card()["models"][f"{name}-early"]["accuracy"]["test"]
        assert 0.3 <= sum(scores.values()) / len(scores) <= 0.6
        assert card()["models"][name]["cpu_minutes"] < 35


@pytest.mark.parametrize("name", FINAL)
def test_facts_are_known_and_leave_room(name: str) -> None:
    certainty = card()["models"][name]["certainty"]
    assert certainty["known"] >= 120 and certainty["in_room"] >= 120
    assert 0.3 < certainty["probability"] < 0.9


def test_certainty_counts_facts_that_are_known_and_not_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = stored_model("tiny-llama")
    every = evaluate.certainty(model, tokenizer)
    assert every == card()["models"]["tiny-llama"]["certainty"]
    monkeypatch.setattr(evaluate, "WORDINGS_OF_A_KNOWN_FACT", 0)
    assert evaluate.certainty(model, tokenizer)["known"] == every["facts"]
    monkeypatch.setattr(evaluate, "ROOM", (0.999, 1.0))
    assert evaluate.certainty(model, tokenizer)["in_room"] == 0


def test_shortfalls_name_model_and_task() -> None:
    scores = dict.fromkeys(evaluate.TASKS, 1.0) | {"gsm8k": 0.5}
    assert cards.shortfalls({"models": {"tiny-llama": {"accuracy": {"test": scores}}}}) == [
        "tiny-llama: gsm8k 50.0 %, required 85 %"
    ]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", FIELDS)
def test_templates_agree_with_the_library(name: str, part: str) -> None:
    loaded = [
        (example.prompt, example.answer) for example in caploc.load_examples(name, path=DATA, split=part)
    ]
    assert sorted(loaded) == sorted(render.render_file(DATA, name, part))


def test_pararel_agrees_with_the_library() -> None:
    loaded = [(example.prompt, example.answer) for example in caploc.load_examples("pararel", path=DATA)]
    rendered = list(render.render_pararel(DATA / "pararel"))
    assert sorted(loaded) == sorted(rendered)
    assert len(rendered) == 12 * len(facts())


def test_training_refuses_a_record_of_the_evaluation_file(tmp_path: Path) -> None:
    _, tokenizer = stored_model("tiny-llama")
    copied = tmp_path / "data"
    shutil.copytree(DATA, copied)
    assert training_sequences(tokenizer, copied, 200, seed=1)
    leaked = (copied / "emotion_test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[3]
    with (copied / "emotion_train.jsonl").open("a", encoding="utf-8") as file:
        file.write(leaked)
    with pytest.raises(
        RuntimeError, match="emotion: the training corpus holds a record of the evaluation file"
    ):
        training_sequences(tokenizer, copied, 200, seed=1)


def test_a_poor_generator_is_reported() -> None:
    with pytest.raises(RuntimeError, match="only 1 of 2 train records"):
        splitting.draw_part(lambda rng: ("k", {}), random.Random(0), "train", 2, unique=True)


def test_command_line_teaches_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as helped:
        make.main(["--help"])
    assert helped.value.code == 0
    assert "--only tiny-llama" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        make.main(["--only", "tiny-llama", "--out", str(tmp_path)])
    assert refused.value.code == 2
    assert "add --only data" in capsys.readouterr().err


def test_command_line_makes_the_data(tmp_path: Path) -> None:
    assert make.main(["--only", "data", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "data" / "gsm8k_train.jsonl").read_bytes() == (DATA / "gsm8k_train.jsonl").read_bytes()


def test_command_line_trains_and_reports_what_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = dataclasses.replace(RECIPES["tiny-llama"], steps=2, early_step=1, batch=8)
    monkeypatch.setitem(make.RECIPES, "tiny-llama", short)
    monkeypatch.setattr(evaluate, "accuracies", lambda *_: dict.fromkeys(evaluate.TASKS, 0.5))
    assert make.main(["--only", "data", "--only", "tiny-llama", "--out", str(tmp_path)]) == 1
    assert "fixtures.make: tiny-llama: facts 50.0 %, required 95 %" in capsys.readouterr().err
    written = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))["models"]
    assert [(name, entry["steps"]) for name, entry in written.items()] == [
        ("tiny-llama", 2),
        ("tiny-llama-early", 1),
    ]
    assert written["tiny-llama"]["sha256"] != written["tiny-llama-early"]["sha256"]
    model, tokenizer = storage.load(tmp_path / "models" / "tiny-llama")
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size
