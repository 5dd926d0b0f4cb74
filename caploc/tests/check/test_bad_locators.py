"""Every way in which a locator can misbehave is a failed check of its own, by name, and the model is unharmed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import caploc
from caploc.check import LocatorReport
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.check.planted import planted

Locate = Callable[..., Any]


def truth(lm: LanguageModel) -> torch.Tensor:
    return planted().neurons.double()


def check(locate: Locate, **options: Any) -> LocatorReport:
    before = planted().lm.fingerprint
    report = caploc.check_locator(locate, [planted()], progress=False, workers=1, **options)
    model = planted().lm.model
    del planted().lm.__dict__["fingerprint"]
    assert planted().lm.fingerprint == before, "the zoo's model was changed"
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    return report


def missed(locate: Locate, **options: Any) -> dict[str, str]:
    """The duties that fail, with the reason."""
    return {one.check.key: one.reason for one in check(locate, **options).missed if one.check.mark is None}


def test_the_planted_truth_misses_nothing() -> None:
    report = check(lambda lm, examples: NeuronMask(planted().neurons, scores=truth(lm)))
    assert [one.check.key for one in report.missed] == ["own-task"], "it answers alike for another task"
    measured = report.measured["planted"]
    assert measured["AUC"] == measured["AP"] == measured["precision"] == measured["recall"] == 1
    assert measured["accuracy"] == 1 and measured["erased"] <= 0.25 and measured["side effect"] == 0


def test_one_that_raises() -> None:
    def locate(lm: LanguageModel, examples: Any) -> Any:
        raise KeyError("no such layer")

    found = missed(locate)
    assert list(found) == ["runs"]
    assert "raised KeyError: 'no such layer' at" in found["runs"] and "test_bad_locators.py" in found["runs"]


def test_one_that_leaves_or_kills_its_process() -> None:
    def leave(lm: LanguageModel, examples: Any) -> Any:
        raise SystemExit(3)

    def die(lm: LanguageModel, examples: Any) -> Any:
        os.write(2, b"something terrible\n")
        os._exit(7)

    def abort(lm: LanguageModel, examples: Any) -> Any:
        os.abort()

    assert "raised SystemExit: 3" in missed(leave)["runs"]
    found = missed(die)
    assert list(found) == ["runs"]
    assert found["runs"].startswith("ended its process (exit status 7); it wrote last: something terrible")
    assert "ended its process (signal SIGABRT)" in missed(abort)["runs"]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, "returned NoneType; return a NeuronMask"),
        ([[1.0]], "returned list; return"),
        (torch.zeros(3, 41), r"returned shape [3, 41], the model has [3, 40]"),
        (torch.zeros(120), r"returned shape [120], the model has [3, 40]"),
        (NeuronMask(torch.ones(2, 40, dtype=torch.bool)), r"returned shape [2, 40]"),
        (np.full((3, 40), "a"), "returned values of type <U1"),
        (torch.zeros(3, 40, dtype=torch.complex64), "returned values of type torch.complex64"),
    ],
)
def test_one_that_returns_something_else(result: Any, reason: str) -> None:
    found = missed(lambda lm, examples: result)
    assert list(found) == ["shape"] and reason in found["shape"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_whose_scores_are_not_finite(bad: float) -> None:
    def locate(lm: LanguageModel, examples: Any) -> Any:
        scores = truth(lm)
        scores[0, :2] = bad
        return scores

    assert missed(locate) == {"finite": "2 of 120 scores are nan or infinite (call: all examples)"}


def test_one_that_finds_nothing_or_all() -> None:
    empty = check(lambda lm, examples: NeuronMask(torch.zeros(3, 40, dtype=torch.bool), scores=truth(lm)))
    assert "found no neuron where some were planted" in next(
        one.reason for one in empty.missed if one.check.key == "not-empty"
    )
    assert empty.measured["planted"]["AUC"] == 1, "its ranking is judged all the same"
    assert empty.measured["planted"]["recall"] == 0 and "precision" not in empty.measured["planted"]
    assert list(missed(lambda lm, examples: torch.ones(3, 40, dtype=torch.bool))) == ["not-all"]
    assert "gave all neurons one score" in missed(lambda lm, examples: torch.ones(3, 40))["not-empty"]


def test_one_that_changes_the_model() -> None:
    def weights(lm: LanguageModel, examples: Any) -> Any:
        with torch.no_grad():
            lm.model.lm_head.weight[5, 5] += 1e-6
        return truth(lm)

    def replaces(lm: LanguageModel, examples: Any) -> Any:
        lm.layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(128, 40))
        return truth(lm)

    def freezes(lm: LanguageModel, examples: Any) -> Any:
        lm.model.requires_grad_(False)
        return truth(lm)

    def leaves_gradients(lm: LanguageModel, examples: Any) -> Any:
        lm.model(input_ids=torch.tensor([[1, 2]])).logits.sum().backward()
        return truth(lm)

    def trains(lm: LanguageModel, examples: Any) -> Any:
        lm.layers[1].train()
        return truth(lm)

    def switches(lm: LanguageModel, examples: Any) -> Any:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return truth(lm)

    assert missed(weights) == {
        "weights": "changed lm_head.weight; restore it, also where an exception is raised (call: all examples)"
    }
    assert "changed model.layers.0.mlp.down_proj.weight" in missed(replaces)["weights"]
    assert "requires_grad was True, is False" in missed(freezes)["flags"]
    assert ".grad is None was True, is False" in missed(leaves_gradients)["flags"]
    assert "training mode of model.layers.1 was False, is True" in missed(trains)["flags"]
    assert "torch.is_grad_enabled() was True, is False" in missed(switches)["flags"]


def test_one_that_leaves_hooks() -> None:
    def hooks(lm: LanguageModel, examples: Any) -> Any:
        lm.layers[2].mlp.register_forward_hook(lambda module, inputs, output: None)
        return truth(lm)

    def wraps(lm: LanguageModel, examples: Any) -> Any:
        own = lm.layers[0].forward
        lm.layers[0].forward = partial(own)
        return truth(lm)

    assert missed(hooks) == {"hooks": "changed hooks of model.layers.2.mlp (call: all examples)"}
    assert "changed forward of model.layers.0" in missed(wraps)["hooks"]


def test_one_that_is_not_deterministic() -> None:
    def locate(lm: LanguageModel, examples: Any) -> Any:
        return truth(lm) + 0.01 * torch.rand(3, 40)

    assert list(missed(locate)) == ["deterministic"]

    def seeded() -> np.ndarray:
        return np.random.default_rng(0).random((3, 40))

    rng = np.random.default_rng(0)  # a generator that lives outside is not the same the second time
    assert list(missed(lambda lm, examples: truth(lm) + 0.01 * torch.from_numpy(rng.random((3, 40))))) == [
        "deterministic"
    ]
    assert missed(lambda lm, examples: truth(lm) + 0.01 * torch.from_numpy(seeded())) == {}


def test_one_that_takes_forever_is_killed_with_what_it_started(tmp_path: Any) -> None:
    beats = tmp_path / "beats"

    def locate(lm: LanguageModel, examples: Any) -> Any:
        if os.fork() == 0:
            while True:  # a process of its own, which must not live on
                beats.write_text(str(time.monotonic()))
                time.sleep(0.05)
        while True:
            try:
                time.sleep(60)
            except BaseException:  # noqa: BLE001  it swallows whatever it is told
                continue

    start = time.monotonic()
    found = missed(locate, timeout=1.0)
    assert found == {"in-time": "took longer than timeout=1 s and was killed (call: all examples)"}
    assert time.monotonic() - start < 20
    last = beats.read_text()
    time.sleep(0.3)
    assert beats.read_text() == last


def test_a_slow_one_is_in_time_if_each_call_is() -> None:
    def locate(lm: LanguageModel, examples: Any) -> Any:
        time.sleep(0.6)
        return truth(lm)

    assert missed(locate, timeout=2.0) == {}


def test_a_later_call_gets_a_fresh_model() -> None:
    def locate(lm: LanguageModel, examples: Any) -> Any:
        scores = lm.layers[0].mlp.down_proj.weight.detach().clone()[0, 0] + truth(lm)
        with torch.no_grad():
            lm.layers[0].mlp.down_proj.weight.zero_()
        return scores

    assert list(missed(locate)) == ["weights"], "deterministic, since every call starts from the same weights"
