"""The attribution benchmark measures what it says: work counts are exact, samples even, disagreement is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from caploc.benchmarks import Options, attribution
from caploc.benchmarks.attribution import QUICK, speed
from caploc.benchmarks.attribution.speed import all_pairs_work, packed_work, pair_work
from caploc.benchmarks.measuring import Pair, executed, sample_pairs
from caploc.benchmarks.models import random_example, random_llama
from caploc.errors import ModelError
from caploc.rows.model import RowModel

LAYERS, WIDTH = 3, 16


@pytest.mark.parametrize(("prompt", "answer"), [(5, 3), (2, 40)])
def test_the_packed_engines_work_is_counted_exactly(prompt: int, answer: int) -> None:
    """Against the matrix products that torch executes; the second size needs several passes."""
    lm, example = random_llama(LAYERS, WIDTH), random_example(prompt, answer)
    with RowModel(lm.model, lm.architecture):
        pass  # its self-check, once for every model
    with executed() as operations:
        speed.packed(lm, example)
    assert operations.matrix == packed_work(lm, prompt, answer).operations(lm)
    assert operations.attention > 0


@pytest.mark.parametrize("pair", [Pair(0, 2), Pair(3, 0), Pair(1, 1)])
def test_the_rivals_work_is_counted_exactly(pair: Pair) -> None:
    lm, example = random_llama(LAYERS, WIDTH), random_example(5, 4)
    counted = pair_work(LAYERS, 5, *pair).operations(lm)
    with executed() as operations:
        speed.naive(lm, example, pair)
    assert operations.matrix == counted
    pytest.importorskip("captum", reason="captum is not installed (extra: test)")
    with executed() as operations:
        speed.captum(lm, example, pair)
    assert operations.matrix == counted


def test_all_methods_give_the_same_scores() -> None:
    lm, example = random_llama(LAYERS, WIDTH), random_example(6, 3)
    ours = speed.packed_by_position(lm, example)
    torch.testing.assert_close(
        speed.packed(lm, example), ours.sum(1), rtol=0, atol=2e-6 * float(ours.abs().max())
    )
    pytest.importorskip("captum", reason="captum is not installed (extra: test)")
    for pair in (Pair(0, 0), Pair(2, 1), Pair(1, 2)):
        own = ours[pair.layer, pair.position]
        for rival in (speed.naive, speed.captum):
            torch.testing.assert_close(
                rival(lm, example, pair), own, rtol=0, atol=2e-6 * float(own.abs().max())
            )


@pytest.mark.parametrize(("layers", "answer"), [(8, 8), (8, 64), (4, 3), (3, 10)])
def test_the_sample_is_even_and_scales_without_bias(layers: int, answer: int) -> None:
    """Every pair equally often in the long run, every layer once a round, positions over the whole answer."""
    rounds = sample_pairs(layers, answer, rounds=3000)
    for pairs in rounds[:20]:
        assert [pair.layer for pair in pairs] == list(range(layers))
        stretches = [pair.position * layers // answer for pair in pairs]
        if answer % layers == 0:
            assert sorted(stretches) == list(range(layers))
    often = Counter(pair for pairs in rounds for pair in pairs)
    expected = 3000 / answer
    assert len(often) == layers * answer
    assert all(abs(count - expected) < 6 * expected**0.5 for count in often.values())
    total = all_pairs_work(layers, 32, answer).layers
    sampled = (
        sum(pair_work(layers, 32, *pair).layers for pairs in rounds for pair in pairs) / len(rounds) * answer
    )
    assert sampled == pytest.approx(total, rel=0.01)


def test_refuses_to_compare_the_times_of_different_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "naive", lambda lm, example, pair: 1.001 * speed.captum(lm, example, pair))
    pytest.importorskip("captum", reason="captum is not installed (extra: test)")
    with pytest.raises(ModelError, match=r"the packed engine and naive differ by 0\.001"):
        list(attribution.measure_ratios(QUICK, Options(quick=True, repeat=1)))


def test_whole_times_every_pair() -> None:
    table, _ = attribution.measure_ratios(QUICK, Options(quick=True, whole=True, repeat=1))
    assert [row["pairs timed"] for row in table.rows] == ["12 of 12"]


def test_without_captum_its_column_is_empty_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    table, _ = attribution.measure_ratios(QUICK, Options(quick=True, repeat=1))
    assert all(row["captum / packed"] is None for row in table.rows)
    assert any("captum not measured: captum is not installed" in note for note in table.notes)


def test_memory_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # starting a process takes seconds: one is enough
    monkeypatch.setattr(attribution, "METHODS", {"packed": speed.packed})
    (table,) = attribution.measure_memory(QUICK, Options(quick=True))
    for row in table.rows:
        assert isinstance(row["added MB"], float) and isinstance(row["loaded MB"], float)
        assert 0 <= row["added MB"] < row["loaded MB"]


def test_memory_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "PROBE", "import caploc.benchmarks.absent")
    (table,) = attribution.measure_memory(QUICK, Options(quick=True))
    assert all("added MB" not in row for row in table.rows)
    assert "packed at X=8, Y=4 not measured: " in table.notes[-2] and "absent" in table.notes[-2]


def test_memory_grows_with_the_work() -> None:
    """The naive method keeps 20 x 200 tokens' activations of 3 layers, far above a page. In a process of its own: this
    one has memory to spare from the tests before."""
    (table,) = attribution.measure_memory(
        replace(QUICK, layers=LAYERS, width=64, memory=((200, 1),)), Options(quick=True)
    )
    (naive,) = (row for row in table.rows if row["method"] == "naive")
    assert float(naive["added MB"]) > 20 * 200 * LAYERS * 64 * 4 / 1e6


def test_quadratures_of_the_embedded_model() -> None:
    (table,) = attribution.measure_quadratures(QUICK, Options(quick=True, repeat=1))
    if not table.rows:
        pytest.skip(f"no embedded model or data: {table.notes[0]}")
    rows = {row["rule"]: row for row in table.rows}
    assert rows["paper"]["points"] == rows["gauss-legendre"]["points"] == 20
    assert rows["adaptive"]["error / bound"] <= 1 < rows["paper"]["error / bound"]


def test_quadratures_without_the_embedded_model_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "MODEL", "no-such-model")
    (table,) = attribution.measure_quadratures(QUICK, Options(quick=True))
    assert (
        table.rows == [] and table.notes[0].startswith("not measured: ") and "no-such-model" in table.text()
    )
