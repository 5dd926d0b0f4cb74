"""The erasure benchmark scores alike both ways, refuses what differs, and counts what is executed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from caploc.benchmarks import BENCHMARKS, Options
from caploc.benchmarks import erasure as ratios
from caploc.benchmarks.erasure import (
    FULL,
    QUESTIONS,
    QUICK,
    Case,
    Contest,
    Sizes,
    counted,
    measure_ratios,
    spread_over,
)
from caploc.errors import ModelError
from caploc.evaluation import Prepared
from caploc.model.loading import LanguageModel
from caploc.tests.oracles import evaluation as reference


def test_a_row_for_each_case() -> None:
    (table,) = BENCHMARKS["erasure"].run(Options(quick=True, repeat=1))
    assert list(QUESTIONS) == list(BENCHMARKS["erasure"].questions) == [table.key]
    assert [row["way"] for row in table.rows] == [case.way for case in QUICK.cases]
    for row in table.rows:
        assert (row["differ"], row["sets"]) == ("0 of 3", "1 of 3")
        assert float(row["count"]) > 0 and float(row["together_tokens"]) > 0  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-gptj"])
@pytest.mark.parametrize(
    ("dataset", "way"),
    [
        ("gsm8k", "generate()"),
        ("emotion", "forward per label"),
        ("emotion", "one forward"),
        ("code25k", "one forward"),
    ],
)
def test_both_ways_score_alike_where_scores_vary(model: str, dataset: str, way: reference.Way) -> None:
    """Of all layers a tenth to nearly all neurons: some answers go wrong and others do not."""
    contest = Contest(Case(model, dataset, way), Sizes(4, 12, 1, ()))
    shares = torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None, None]
    contest.sets = torch.rand(contest.sets.shape, generator=torch.Generator().manual_seed(0)) < shares
    expected = contest.together().score
    np.testing.assert_allclose(contest.direct(range(4)), expected, atol=1e-12)
    assert 0 < expected.mean() < 1


def test_the_model_is_left_as_it_was() -> None:
    contest = Contest(QUICK.cases[0], QUICK)
    before = {name: value.clone() for name, value in contest.lm.model.state_dict().items()}
    contest.direct([0, 1])
    with counted(contest.lm):
        contest.together()
    assert all(torch.equal(value, before[name]) for name, value in contest.lm.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in contest.lm.model.modules())


def test_counts_the_tokens_that_are_fed() -> None:
    """One forward pass of all items, padded to the longest."""
    contest = Contest(QUICK.cases[2], QUICK)
    with counted(contest.lm) as work:
        contest.direct([0])
    longest = max(item.tokens.answer_start for item in contest.prepared.all_items)
    assert work.tokens == contest.lm.num_layers * QUICK.items * longest


def test_sets_are_of_one_size_in_one_layer_and_differ() -> None:
    contest = Contest(Case("tiny-llama", "gsm8k", "generate()", neurons=7, layer=3), QUICK)
    assert contest.sets.sum(2).tolist() == [[0, 0, 0, 7, 0, 0]] * QUICK.sets
    assert not torch.equal(contest.sets[0], contest.sets[1])


def test_the_promised_extent_is_what_is_measured() -> None:
    assert (FULL.sets, FULL.items) == (100, 40)
    measured = {(case.model, case.dataset) for case in FULL.cases}
    assert len(measured) == 6


@pytest.mark.parametrize(("sets", "timed", "rounds"), [(100, 3, 3), (100, 100, 2), (5, 9, 2), (3, 1, 4)])
def test_a_sample_lies_all_over_the_sets(sets: int, timed: int, rounds: int) -> None:
    found = spread_over(sets, timed, rounds)
    assert len(found) == rounds
    for numbers in found:
        assert len(set(numbers)) == min(timed, sets) and set(numbers) <= set(range(sets))
        distances = np.diff([*numbers, numbers[0] + sets])
        assert distances.max() - distances.min() <= 1
    if timed * rounds <= sets:
        assert len({number for numbers in found for number in numbers}) == timed * rounds


def test_refuses_to_compare_the_times_of_different_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = reference.direct_scores

    def wrong(lm: LanguageModel, prepared: Prepared, members: Tensor, way: reference.Way) -> np.ndarray:
        scores = direct(lm, prepared, members, way)
        scores[0] = 1 - scores[0]
        return scores

    monkeypatch.setattr(ratios, "direct_scores", wrong)
    with pytest.raises(ModelError, match=r"1 of 3 scores of tiny-llama on gsm8k differ"):
        list(measure_ratios(QUICK, Options(quick=True, repeat=1)))


def test_a_model_that_is_not_there_is_named(tmp_path: object) -> None:
    sizes = dataclasses.replace(QUICK, cases=(Case(f"{tmp_path}/absent", "gsm8k", "generate()"),))
    (table,) = measure_ratios(sizes, Options(quick=True, repeat=1))
    assert not table.rows
    assert any("absent on gsm8k not measured: " in note for note in table.notes)
