"""The scrambled control: text without meaning, with the same tokens."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.examples import TokenizedExample
from caploc.experiments.study import scrambled

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
