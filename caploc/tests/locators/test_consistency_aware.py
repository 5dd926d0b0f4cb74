"""Consistency-aware neurons: mean minus beta spreads over the wordings of one fact, by scores that equal KN's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caploc
from caploc.errors import CaplocError, OptionError
from caploc.examples import Example, tokenize
from caploc.experiments import fidelity, rival_sets
from caploc.locators import LOCATORS, knowledge_neurons
from caploc.locators.consistency_aware import BETAS, consistency, locate, sweep
from caploc.locators.method import Conditions
from caploc.store import Store
from caploc.tests.tiny import tiny_lm

WORDINGS = [
    Example("a", "ann was born in", " rome", "fact", "ann"),
    Example("b", "the town of ann is", " rome", "fact", "ann"),
    Example("c", "ann comes from", " rome", "fact", "ann"),
]
QUIET: dict[str, Any] = {"progress": False, "steps": 4}


def plain_choice(values: np.ndarray, beta: float, top_k: int) -> list[int]:
    """One neuron after the other, in plain Python."""
    wordings, _, neurons = values.shape
    scored = []
    for place in range(values[0].size):
        own = [float(values[row, place // neurons, place % neurons]) for row in range(wordings)]
        mean = sum(own) / wordings
        spread = (sum((one - mean) ** 2 for one in own) / wordings) ** 0.5
        scored.append(mean - beta * spread)
    best = sorted(range(len(scored)), key=lambda place: (-scored[place], place))[:top_k]
    return sorted(place for place in best if scored[place] > 0)


def test_it_equals_the_plain_choice_from_scores_of_each_wording(tmp_path: Path) -> None:
    lm = tiny_lm()
    values = torch.stack(
        [caploc.attribute(lm, [one], steps=4, progress=False).values for one in WORDINGS]
    ).numpy()
    found = sweep(lm, WORDINGS, top_k=9, store=Store(tmp_path), **QUIET)
    assert tuple(found) == BETAS
    for beta, mask in found.items():
        assert mask.values.flatten().nonzero().ravel().tolist() == plain_choice(values, beta, 9)
        assert torch.equal(
            LOCATORS["consistency-aware"](lm, WORDINGS, beta=beta, top_k=9, **QUIET).values, mask.values
        )
    assert len({tuple(mask.values.flatten().tolist()) for mask in found.values()}) > 2, "beta matters"
    cut = locate(lm, WORDINGS, 0.5, threshold=0.4, **QUIET)
    scores = consistency(values, 0.5)
    assert np.array_equal(cut.values.numpy(), (scores >= 0.4 * scores.max()) & (scores > 0))


def test_without_spread_it_is_kn_on_several_prompts() -> None:
    lm = tiny_lm()
    mean = knowledge_neurons.locate(lm, WORDINGS, top_k=9, **QUIET)
    assert torch.equal(locate(lm, WORDINGS, beta=0, top_k=9, **QUIET).values, mean.values)


def test_a_neuron_of_one_wording_alone_loses_to_one_of_all() -> None:
    values = np.zeros((4, 1, 3))
    values[:, 0, 0] = 1.0  # in all wordings
    values[0, 0, 1] = 6.0  # in one: the larger mean, 1.5
    assert consistency(values, 0.0).argmax() == 1 and consistency(values, 1.0).argmax() == 0
    assert consistency(values, 1.0)[0, 1] == pytest.approx(1.5 - np.sqrt((4.5**2 + 3 * 1.5**2) / 4))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"beta": "1"}, "beta must be a number of at least 0, got '1'"),
    ({"beta": None}, "got None"),
    ({"beta": True}, "got True"),
    ({"beta": float("nan")}, "got nan"),
    ({"beta": -1.0}, "got -1.0; 0 takes the plain mean"),
    ({"top_k": 0}, "top_k must be a number of neurons"),
    ({"threshold": 0.0}, "threshold must be a fraction of the largest score"),
    ({"examples": []}, "over the wordings of a fact, and 0 was given; give at least 2"),
    ({"examples": WORDINGS[:1]}, "and 1 was given"),
    ({"examples": [WORDINGS[0], WORDINGS[0]]}, "and 1 was given"),
    (
        {"examples": [WORDINGS[0], Example("d", "bob was born in", " paris", "fact")]},
        "the wordings are not of one fact: their answers are ' paris', ' rome'; locate each fact by itself",
    ),
    (
        {"examples": [WORDINGS[0], Example("d", "bob was born in", " rome", "other")]},
        "not of one fact: their groups are 'fact', 'other'",
    ),
]


@pytest.mark.parametrize(("bad", "message"), REFUSED)
def test_bad_input_is_told_in_one_line_before_any_work(
    bad: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caploc.locators.consistency_aware.example_scores", None)
    with pytest.raises(OptionError) as caught:
        locate(tiny_lm(), **{"examples": WORDINGS, **bad})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_it_takes_no_part_where_prompts_are_given_one_at_a_time() -> None:
    entry = LOCATORS["consistency-aware"]
    assert (
        entry.aim == "fact" and entry.wordings == 2 and {one.wordings for one in LOCATORS.values()} == {1, 2}
    )
    assert entry.key not in rival_sets.compared() and entry.key not in fidelity._ranked()
    assert set(rival_sets.compared()) == {key for key, one in LOCATORS.items() if one.audited} - {entry.key}
    for of in (entry.on_facts, entry.on_samples):
        with pytest.raises(CaplocError, match="'consistency-aware' needs 2 wordings of a fact together"):
            of(Conditions())
    assert tokenize(tiny_lm(), WORDINGS[0]).num_answer_tokens > 1, "the answers here have several tokens"
