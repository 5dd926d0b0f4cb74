"""Evaluations of the embedded models, restoration, and memory that runs out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from caploc import load_examples, load_model
from caploc.errors import ModelError
from caploc.evaluation import Prepared, evaluate, prepare
from caploc.evaluation.rows import ErasingModel, GoingRows
from caploc.model.loading import LanguageModel
from caploc.rows.model import RowModel
from caploc.tests.evaluation.cases import examples, labelled, sets, tiny_ending_lm
from caploc.tests.oracles.evaluation import evaluate_slowly
from caploc.tests.tiny import REPOSITORY, tiny_lm

DATA = REPOSITORY / "fixtures" / "data"
OutOfMemory = torch.cuda.OutOfMemoryError


@pytest.mark.parametrize("name", ["tiny-llama-early", "tiny-gptj"])
@pytest.mark.parametrize(
    ("dataset", "scoring"), [("gsm8k", None), ("emotion", "label_text"), ("emotion", None)]
)
def test_embedded_models_equal_the_oracle(name: str, dataset: str, scoring: str | None) -> None:
    """A trained model, its real tokenizer, answers that are right, wrong and cut short by erasure."""
    lm = load_model(name)
    some = load_examples(dataset, DATA, split="evaluate", limit=6)
    prepared = prepare(lm, dataset, some, scoring)
    members = torch.rand(2, lm.num_layers, lm.num_neurons, generator=torch.Generator().manual_seed(1)) < 0.05
    members[1, :2] = False
    made = evaluate(lm, prepared, members)
    for index, one in enumerate(members):
        slow = evaluate_slowly(lm, prepared, some, one)
        np.testing.assert_allclose(made.nll[index], slow["nll"], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(made.score[index], slow["score"])
        np.testing.assert_array_equal(made.ended[index], slow["ended"])


def test_the_model_is_left_as_it_was_found_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")
    lm.model.train()
    lm.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    modes = [module.training for module in lm.model.modules()]
    prepared = prepare(lm, "mine", examples(lm, 4, seed=0, own=False), "exact", max_new_tokens=4)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    evaluate(lm, prepared, sets(lm, 0))
    monkeypatch.setattr(GoingRows, "activations", broken)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(lm, prepared, sets(lm, 0))
    assert torch.is_grad_enabled()
    assert [module.training for module in lm.model.modules()] == modes
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    assert not any("forward" in vars(module) for module in lm.model.modules())
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("scoring", ["exact", "label"])
def test_memory_that_runs_out_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, most: int, scoring: str
) -> None:
    lm = tiny_ending_lm("llama", torch.float64, seed=3)
    prepared, members = _prepared(lm, scoring), sets(lm, 2)
    whole = evaluate(lm, prepared, members)
    _run_out(monkeypatch, most)
    made = evaluate(lm, prepared, members, batch_tokens=10_000)
    for name in ("score", "exact", "ended"):
        np.testing.assert_array_equal(getattr(made, name), getattr(whole, name))
    np.testing.assert_allclose(made.nll, whole.nll, rtol=1e-9)


@pytest.mark.parametrize("scoring", ["exact", "label"])
def test_a_row_too_large_for_the_memory_is_an_error(monkeypatch: pytest.MonkeyPatch, scoring: str) -> None:
    lm = tiny_ending_lm("llama", torch.float64, seed=3)
    prepared = _prepared(lm, scoring)
    with RowModel(lm.model, lm.architecture):
        pass  # the model was sound, its self-check passed
    _run_out(monkeypatch, 0)
    with pytest.raises(ModelError, match="a single row does not fit"):
        evaluate(lm, prepared, sets(lm, 2))


def test_bfloat16_comes_close_to_float32() -> None:
    wide, narrow = tiny_lm("llama", torch.float32), tiny_lm("llama", torch.bfloat16)
    prepared, members = _prepared(wide, "label"), sets(wide, 1)
    made = evaluate(narrow, prepared, members).nll
    np.testing.assert_allclose(made, evaluate(wide, prepared, members).nll, rtol=0.05)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    lm = tiny_lm("llama")
    with RowModel(lm.model, lm.architecture):
        pass  # the model was sound, its self-check passed
    lm.model.get_input_embeddings().weight.data.fill_(torch.inf)  # type: ignore[operator, union-attr]
    with pytest.raises(ModelError, match="the loss of tiny-llama on 'l0' is not finite"):
        evaluate(lm, _prepared(lm, "label"))


def test_a_model_without_an_end_stops_at_the_datasets_own() -> None:
    """A newline ends a fact, whatever would follow; in a text of one's own it takes a blank line."""
    lm = tiny_lm("gptj", torch.float64, seed=3)
    for owner in (lm.model.config, lm.model.generation_config):
        owner.eos_token_id = None  # type: ignore[union-attr]
    newline = lm.tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    lm.model.get_output_embeddings().bias.data[newline] += 1  # type: ignore[operator, union-attr]
    some = [replace(one, answer=" ab") for one in examples(lm, 12, seed=5, own=False)]
    mine, fact = (prepare(lm, name, some, "exact", max_new_tokens=12) for name in ("mine", "counterfact"))
    assert 1 > evaluate(lm, fact).ended.mean() > evaluate(lm, mine).ended.mean()


def _prepared(lm: LanguageModel, scoring: str) -> Prepared:
    if scoring == "label":
        labels = ("abc", "abd", "bca", "c")
        return prepare(lm, "mine", labelled(labels, 7, seed=1), labels=labels)
    return prepare(lm, "mine", examples(lm, 7, seed=1, own=False), "exact", max_new_tokens=9)


def _run_out(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let a run of the model on more than ``most`` rows fail as CUDA does."""
    run = ErasingModel.logits

    def limited(self: ErasingModel, current: Any) -> Any:
        if len(current.tokens) * len(getattr(current, "lowest", [0])) > most:
            raise OutOfMemory("out of memory")
        return run(self, current)

    monkeypatch.setattr(ErasingModel, "logits", limited)
