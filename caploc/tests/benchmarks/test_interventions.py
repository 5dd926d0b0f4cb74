"""The editing, enhancement and erasure benchmarks do the same both ways, refuse what differs, and count the work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from caploc.benchmarks import BENCHMARKS, Options, editing, enhancement, erasure
from caploc.benchmarks.__main__ import main
from caploc.errors import ModelError
from caploc.evaluation import Prepared
from caploc.interventions.rank_one.prompts import Editing
from caploc.model.loading import LanguageModel
from caploc.tests.oracles.evaluation import Way, direct_scores


@pytest.mark.parametrize("token", editing.TOKENS)
def test_both_ways_to_edit_take_the_same_steps(token: str) -> None:
    contest = editing.Contest(*editing.random_case(3, 16, token), Editing(steps=3, stop_loss=0.0))
    ours, theirs = contest.together(), contest.one_by_one()
    assert [len(losses) for losses in ours] == [3, 3, 1 if token == "last-subject" else 3]
    for own, other in zip(ours, theirs, strict=True):
        assert own == pytest.approx(other, rel=1e-5)


def test_edits_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    assert main(["editing", "--quick", "--repeat", "1", "--json", str(file)]) == 0
    assert "one by one / together" in capsys.readouterr().out
    fast, success = json.loads(file.read_text())["benchmarks"]["editing"]
    assert [row["model"] for row in fast["rows"]] == ["random-llama-2x32", "tiny-llama"] * len(editing.TOKENS)
    layers = [row["layer"] for row in success["rows"]]
    assert layers == [None, *range(8), *range(8)]
    assert success["rows"][0]["efficacy %"] == 0


def test_edits_that_disagree_are_a_note_and_not_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "_SAME", -1.0)
    (table,) = editing.measure_speed(editing.QUICK, Options(quick=True, repeat=1))
    assert not table.rows
    assert any("losses together and one by one differ by" in note for note in table.notes)


def test_a_row_for_each_trained_set_with_what_was_asked() -> None:
    table, memory = BENCHMARKS["enhancement"].run(Options(quick=True, repeat=1))
    assert [row["lowest layer"] for row in table.rows] == [0, 1, 0] and table.rows[0]["met"] is None
    assert {table.key, memory.key} == set(BENCHMARKS["enhancement"].questions)
    few, most = table.rows[0], table.rows[2]
    assert 0 < few["memory %"] < most["memory %"] < 100  # type: ignore[operator]
    asked = enhancement.Case("one", 0.0, least_ratio=1e9, most_memory=1e-9)
    row = enhancement.step_row(enhancement.QUICK, asked, 1)
    assert (row["met"], row["memory met"], row["memory asked"]) == ("NO", "NO", "<= 1e-07")


def test_memory_grows_with_the_neurons_and_nothing_else() -> None:
    """A gradient and two moments of 4 bytes for each of a neuron's weights, and Adam's count of steps."""
    (table,) = BENCHMARKS["enhancement"].run(Options(quick=True, only=("memory",)))
    weights = 3 * enhancement.QUICK.width
    for row in table.rows:
        count, held = int(row["neurons trained"]), 1e6 * float(row["MB"])  # type: ignore[arg-type]
        assert 0 <= held - 12 * weights * count <= 4 * 3 * enhancement.QUICK.layers
    assert table.rows[-1]["neurons trained"] == enhancement.QUICK.layers * enhancement.QUICK.neurons


def test_the_promised_share_of_memory() -> None:
    """By count, at the promised size: what full fine-tuning holds is three numbers a parameter."""
    case = enhancement.FULL.cases[0]
    count = case.mask(enhancement.FULL.layers, enhancement.FULL.neurons).count
    assert count == 17 and case.most_memory == 0.01
    per_layer = 4 * enhancement.FULL.width**2 + 3 * enhancement.FULL.width * enhancement.FULL.neurons
    assert 3 * enhancement.FULL.width * count < 0.0011 * enhancement.FULL.layers * per_layer


def test_masks_start_at_the_lowest_layer() -> None:
    for case in enhancement.FULL.cases:
        values = case.mask(enhancement.FULL.layers, enhancement.FULL.neurons).values
        assert int(values.any(1).nonzero()[0]) == case.lowest
        assert int(values.sum()) == round(case.share * values.numel())


def test_refuses_to_compare_the_times_of_different_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    own = enhancement.Contest.rows_step
    monkeypatch.setattr(enhancement.Contest, "rows_step", lambda contest: own(contest) + np.float64(0.01))
    with pytest.raises(ModelError, match=r"differ by 0\.01 nats a token on few"):
        list(enhancement.measure_steps(enhancement.QUICK, Options(quick=True, repeat=1)))


def test_a_row_for_each_erased_case() -> None:
    (table,) = BENCHMARKS["erasure"].run(Options(quick=True, repeat=1))
    assert table.key == "ratios"
    assert [row["direct way"] for row in table.rows] == [case.way for case in erasure.QUICK.cases]
    for row in table.rows:
        assert (row["scores differ"], row["sets timed"]) == ("0 of 3", "1 of 3")
        assert float(row["by count"]) > 0 and float(row["together k tokens"]) > 0  # type: ignore[arg-type]


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
def test_both_ways_score_alike_where_scores_vary(model: str, dataset: str, way: Way) -> None:
    """Of all layers a tenth to nearly all neurons: some answers go wrong and others do not."""
    contest = erasure.Contest(erasure.Case(model, dataset, way), erasure.Sizes(4, 12, 1, ()))
    shares = torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None, None]
    contest.sets = torch.rand(contest.sets.shape, generator=torch.Generator().manual_seed(0)) < shares
    expected = contest.together().score
    np.testing.assert_allclose(contest.direct(range(4)), expected, atol=1e-12)
    assert 0 < expected.mean() < 1


def test_the_model_is_left_as_it_was() -> None:
    contest = erasure.Contest(erasure.QUICK.cases[0], erasure.QUICK)
    before = {name: value.clone() for name, value in contest.lm.model.state_dict().items()}
    contest.direct([0, 1])
    with erasure.counted(contest.lm):
        contest.together()
    assert all(torch.equal(value, before[name]) for name, value in contest.lm.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in contest.lm.model.modules())


def test_counts_the_tokens_that_are_fed() -> None:
    """One forward pass of all items, padded to the longest."""
    contest = erasure.Contest(erasure.QUICK.cases[2], erasure.QUICK)
    with erasure.counted(contest.lm) as work:
        contest.direct([0])
    longest = max(item.tokens.answer_start for item in contest.prepared.all_items)
    assert work.tokens == contest.lm.num_layers * erasure.QUICK.items * longest


def test_sets_are_of_one_size_in_one_layer_and_differ() -> None:
    contest = erasure.Contest(
        erasure.Case("tiny-llama", "gsm8k", "generate()", neurons=7, layer=3), erasure.QUICK
    )
    assert contest.sets.sum(2).tolist() == [[0, 0, 0, 7, 0, 0, 0, 0]] * erasure.QUICK.sets
    assert not torch.equal(contest.sets[0], contest.sets[1])


def test_the_promised_extent_is_what_is_measured() -> None:
    assert (erasure.FULL.sets, erasure.FULL.items) == (100, 40)
    measured = {(case.model, case.dataset) for case in erasure.FULL.cases}
    assert len(measured) == 6


def test_refuses_to_compare_the_times_of_different_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(lm: LanguageModel, prepared: Prepared, members: Tensor, way: Way) -> np.ndarray:
        scores = direct_scores(lm, prepared, members, way)
        scores[0] = 1 - scores[0]
        return scores

    monkeypatch.setattr(erasure, "direct_scores", wrong)
    with pytest.raises(ModelError, match=r"1 of 3 scores of tiny-llama on gsm8k differ"):
        list(erasure.measure_ratios(erasure.QUICK, Options(quick=True, repeat=1)))


def test_a_model_that_is_not_there_is_named(tmp_path: object) -> None:
    sizes = dataclasses.replace(
        erasure.QUICK, cases=(erasure.Case(f"{tmp_path}/absent", "gsm8k", "generate()"),)
    )
    (table,) = erasure.measure_ratios(sizes, Options(quick=True, repeat=1))
    assert not table.rows
    assert any("absent on gsm8k not measured: " in note for note in table.notes)
