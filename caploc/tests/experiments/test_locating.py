"""Scores in shards equal a direct attribution, are computed once, and never taken for those of something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caploc
from caploc import Example
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.method import Tolerance
from caploc.examples import TokenizedExample
from caploc.experiments import locating
from caploc.experiments.locating import Scores, ShardSums, scrambled, shard_members
from caploc.experiments.study import Located, Study, StudySettings
from caploc.model.loading import LanguageModel, untrained_twin, wrap
from caploc.statistics import random_halves, resampled
from caploc.store import Store
from caploc.tests.tiny import NEURONS, SHAPE, tiny_lm

EXAMPLES = [Example(f"e{index}", f"{index}+{index}", f"={2 * index}\n") for index in range(11)]
METHOD = Method(steps=4)


class Given(Study):
    """A study of a given model on given examples, of a dataset called "mine"."""

    def __init__(
        self, lm: LanguageModel, examples: list[TokenizedExample], method: Method, store: Store
    ) -> None:
        super().__init__("given", StudySettings(method=method, store=store, datasets=["mine"]), lm)
        self._located["mine"] = Located("mine", [], examples, [])


def sharded_sums(
    lm: LanguageModel, examples: list[TokenizedExample], method: Method, store: Store
) -> ShardSums:
    study = Given(lm, examples, method, store)
    found = study.result(Scores("mine"))
    study.release()
    return found


def tokens(lm: LanguageModel, examples: list[Example] = EXAMPLES) -> list[TokenizedExample]:
    return [caploc.tokenize(lm, example) for example in examples]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and nothing may be attributed any more."""

    def forbid() -> None:
        def computed(*_: object) -> None:
            raise AssertionError("a shard was computed")

        monkeypatch.setattr("caploc.experiments.locating.Attributor.__init__", computed)

    return forbid


@pytest.mark.parametrize("most", [128, 11, 4, 1])
def test_sums_equal_a_direct_attribution(store: Store, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "MOST_SHARDS", most)
    lm = tiny_lm(dtype=torch.float64)
    result = sharded_sums(lm, tokens(lm), METHOD, store)
    whole = caploc.attribute(lm, EXAMPLES, steps=4, progress=False)
    assert (result.layers, result.neurons) == (SHAPE[0], NEURONS) == whole.values.shape
    assert np.allclose(result.whole.total / 11, whole.values, rtol=1e-12, atol=1e-18)
    assert np.allclose(result.whole.completeness / 11, whole.completeness, rtol=1e-9)
    assert result.whole.count == 11 and np.allclose(result.totals.sum(0), result.whole.total.ravel())
    assert [index for members in result.members for index in members] == list(range(11))
    assert len(result.counts) <= most and result.counts.tolist() == [
        len(members) for members in result.members
    ]
    for members, total in zip(result.members, result.totals, strict=True):
        direct = caploc.attribute(lm, [EXAMPLES[index] for index in members], steps=4, progress=False)
        assert np.allclose(
            total.reshape(result.layers, -1), direct.values * len(members), rtol=1e-12, atol=1e-18
        )


def test_squares_are_the_sum_of_the_examples_squares(store: Store) -> None:
    lm = tiny_lm()
    each = [caploc.attribute(lm, [example], steps=4, progress=False).values for example in EXAMPLES]
    squares = sharded_sums(lm, tokens(lm), METHOD, store).whole.squares
    assert np.allclose(squares, sum(values**2 for values in each), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize(
    ("examples", "size"), [(1, 1), (16, 1), (320, 1), (321, 2), (640, 2), (641, 3), (1600, 5)]
)
def test_shards_hold_one_example_until_there_are_too_many(examples: int, size: int) -> None:
    members = shard_members(examples)
    assert (
        len(members[0]) == min(size, examples)
        and len(members) == -(-examples // size) <= locating.MOST_SHARDS
    )


def test_a_second_run_computes_nothing(store: Store, no_work: Callable[[], None]) -> None:
    lm = tiny_lm()
    first = sharded_sums(lm, tokens(lm), METHOD, store)
    no_work()
    again = sharded_sums(tiny_lm(), tokens(lm), METHOD, store)
    assert np.array_equal(first.totals, again.totals) and np.array_equal(
        first.whole.squares, again.whole.squares
    )


def test_a_run_that_was_stopped_goes_on_where_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, done = tiny_lm(), []  # type: ignore[var-annotated]
    expected = sharded_sums(lm, tokens(lm), METHOD, Store(store.root / "other")).totals
    original = Attributor._attribute

    def one(self: object, example: TokenizedExample) -> object:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(example.id)
        return original(self, example)  # type: ignore[arg-type]

    monkeypatch.setattr(Attributor, "_attribute", one)
    study = Given(lm, tokens(lm), METHOD, store)
    with pytest.raises(KeyboardInterrupt):
        study.result(Scores("mine"))
    study.release()
    assert store.describe().entries == 4 and all(p.requires_grad for p in lm.model.parameters())
    done.clear()

    def once_more(self: Attributor, example: TokenizedExample) -> object:
        done.append(example.id)
        return original(self, example)

    monkeypatch.setattr(Attributor, "_attribute", once_more)
    assert np.array_equal(sharded_sums(lm, tokens(lm), METHOD, store).totals, expected)
    assert done == [f"e{index}" for index in range(4, 11)]


def test_equal_examples_share_a_result_and_both_count(store: Store) -> None:
    lm = tiny_lm()
    result = sharded_sums(lm, tokens(lm, [EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]]), METHOD, store)
    assert result.whole.count == 3 and np.array_equal(result.totals[0], result.totals[2])
    assert store.describe().entries == 2


def key(lm: LanguageModel, examples: list[TokenizedExample], method: Method = METHOD) -> str:
    """The key of the first shard, which holds all of the examples."""
    study = Given(lm, examples, method, Store("nowhere"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locating, "MOST_SHARDS", 1)
        (task,) = Scores("mine").tasks(study)
    return task.key


def test_keys_tell_apart_what_changes_the_numbers() -> None:
    lm = tiny_lm()
    one = tokens(lm)[:2]
    config = tiny_lm().model
    config.config.rms_norm_eps = 1e-3
    weights = tiny_lm()
    weights.model.lm_head.weight.data[3, 3] += 1e-3
    shifted = TokenizedExample(one[0].input_ids, one[0].answer_start + 1, one[0].id)
    other = one[0].input_ids.clone()
    other[1] += 1
    keys = [
        key(lm, one),
        key(weights, one),
        key(wrap("config", config, lm.tokenizer), one),
        key(untrained_twin(lm), one),
        key(untrained_twin(lm, 1), one),
        key(tiny_lm(dtype=torch.float64), one),
        key(tiny_lm(dtype=torch.bfloat16), one),
        key(lm, one, Method(steps=5)),
        key(lm, one, Method(4, "trapezoid")),
        key(lm, one, Method(quadrature="adaptive")),
        key(lm, one, Method(quadrature="adaptive", tolerance=Tolerance(relative=0.02))),
        key(lm, one, Method(quadrature="adaptive", tolerance=Tolerance(most_points=99))),
        key(lm, one[:1]),
        key(lm, one[::-1]),
        key(lm, [shifted, one[1]]),
        key(lm, [replace(one[0], input_ids=other), one[1]]),
    ]
    assert len(set(keys)) == len(keys)


def test_keys_do_not_depend_on_names_or_batch_sizes() -> None:
    lm = tiny_lm()
    one = tokens(lm)[:2]
    expected = key(lm, one)
    assert key(lm, [replace(example, id="other") for example in one]) == expected
    assert key(lm, one, Method(steps=4, chunk_tokens=7)) == expected
    assert (
        key(lm, one, Method(steps=4, tolerance=Tolerance(relative=0.5))) == expected
    )  # a fixed rule has none
    assert key(wrap("another-name", tiny_lm().model, lm.tokenizer), one) == expected


def test_the_code_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    before = key(lm, tokens(lm))
    monkeypatch.setattr(locating, "CODE_VERSION", locating.CODE_VERSION + 1)
    assert key(lm, tokens(lm)) != before


def test_resampling_and_halving() -> None:
    generator = np.random.default_rng(0)
    drawn = resampled(generator, np.array([3, 5, 9]))
    assert len(drawn) == 3 and set(drawn) <= {3, 5, 9}
    assert len({tuple(resampled(generator, np.arange(3))) for _ in range(400)}) == 27  # with replacement
    first, second = random_halves(generator, 7)
    assert (len(first), len(second)) == (3, 4) and sorted([*first, *second]) == list(range(7))


# ------------------------------------------------------------------------------------------- scrambled text

texts = st.lists(
    st.tuples(
        st.lists(st.integers(0, 99), min_size=1, max_size=9),
        st.lists(st.integers(100, 199), min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=12,
)


def tokenized(raw: list[tuple[list[int], list[int]]]) -> list[TokenizedExample]:
    return [
        TokenizedExample(torch.tensor(prompt + answer), len(prompt), str(index))
        for index, (prompt, answer) in enumerate(raw)
    ]


@settings(deadline=None)
@given(texts, st.integers(0, 1000))
def test_scrambling_keeps_tokens_and_never_exceeds_the_context(
    raw: list[tuple[list[int], list[int]]], seed: int
) -> None:
    examples = tokenized(raw)
    result = scrambled(examples, seed)
    longest = max(len(example.input_ids) for example in examples)
    pool = sorted(token for _, answer in raw for token in answer)
    dealt = sorted(token for example in result for token in example.answer_ids.tolist())
    for before, after in zip(examples, result, strict=True):
        assert sorted(after.prompt_ids.tolist()) == sorted(before.prompt_ids.tolist())
        assert after.id == f"{before.id}-scrambled"
        assert 0 < after.answer_start < len(after.input_ids) <= longest
        assert any(set(after.answer_ids.tolist()) <= set(donor.answer_ids.tolist()) for donor in examples), (
            "an answer is made of one example's tokens"
        )
    if all(len(prompt) + max(len(answer) for _, answer in raw) <= longest for prompt, _ in raw):
        assert dealt == pool
    assert len(dealt) <= len(pool)


def test_scrambling_is_seeded_and_scrambles() -> None:
    generator = np.random.default_rng(0)
    examples = tokenized(
        [(generator.permutation(30).tolist(), generator.permutation(20).tolist()) for _ in range(20)]
    )
    first = scrambled(examples, 0)
    state = torch.get_rng_state()
    again, other = scrambled(examples, 0), scrambled(examples, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first, other, strict=True))
    assert not any(torch.equal(a.prompt_ids, b.prompt_ids) for a, b in zip(first, examples, strict=True))
    assert not any(torch.equal(a.answer_ids, b.answer_ids) for a, b in zip(first, examples, strict=True))


def test_answers_are_dealt_out_anew() -> None:
    examples = tokenized([([1, 2], [100 + index]) for index in range(60)])
    answers = [int(example.answer_ids[0]) - 100 for example in scrambled(examples, 3)]
    assert sorted(answers) == list(range(60)) and sum(a == b for a, b in enumerate(answers)) < 8


def test_the_beginning_of_sequence_stays_in_its_place() -> None:
    examples = tokenized([([7, 1, 2, 3, 4, 5], [100, 101]), ([1, 7, 2, 3, 4, 5], [102])])
    with_first, without = scrambled(examples, 0, first_token=7)
    assert with_first.input_ids[0] == 7 and sorted(with_first.prompt_ids.tolist()) == [1, 2, 3, 4, 5, 7]
    assert sorted(without.prompt_ids.tolist()) == [1, 2, 3, 4, 5, 7]
