"""``evaluate`` equals weights set to zero and ``generate()``, item by item, for every family."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from caploc.errors import UnscorableError
from caploc.evaluation import Prepared, evaluate, prepare, text_loss
from caploc.examples import Example
from caploc.model.loading import LanguageModel
from caploc.tests.attribution.families import CONFIGS, FURTHER, in_float64
from caploc.tests.evaluation.cases import examples, labelled, sets, tiny_ending_lm
from caploc.tests.oracles.evaluation import evaluate_slowly, without

LABELS = ("abc", "abd", "bca", "c")  # three letters are three tokens


@pytest.fixture(autouse=True)
def exact_softmax() -> Iterator[None]:
    with in_float64():
        yield


def check(
    lm: LanguageModel, prepared: Prepared, some: list[Example], members: Tensor, batch: int | None
) -> None:
    made = evaluate(lm, prepared, members, batch_tokens=batch)
    for index, one in enumerate(members):
        slow = evaluate_slowly(lm, prepared, some, one)
        np.testing.assert_allclose(made.nll[index], slow["nll"], rtol=1e-9, atol=1e-15)
        for name in ("score", "exact", "ended"):
            np.testing.assert_array_equal(getattr(made, name)[index].astype(float), slow[name], err_msg=name)


@pytest.mark.parametrize("family", [*CONFIGS, *FURTHER])
@pytest.mark.parametrize("kind", ["exact", "label"])
def test_every_family_equals_the_oracle(family: str, kind: str) -> None:
    lm = tiny_ending_lm(family, torch.float64, seed=3)
    if kind == "label":
        some = labelled(LABELS, 4, seed=1)
        prepared = prepare(lm, "mine", some, labels=LABELS)
    else:
        some = examples(lm, 5, seed=1)
        prepared = prepare(lm, "mine", some, "exact", max_new_tokens=9)
    check(lm, prepared, some, sets(lm, seed=1), batch=60)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["llama", "gptj"]),
    st.integers(0, 1000),
    st.sampled_from([1, 37, 10_000]),
    st.sampled_from(["exact", "tokens", "chrf", "bleu"]),
    st.integers(2, 12),
)
def test_any_examples_and_batches_equal_the_oracle(
    family: str, seed: int, batch: int, scoring: str, most: int
) -> None:
    lm = tiny_ending_lm(family, torch.float64, seed)
    some = examples(lm, 6, seed)
    try:
        prepared = prepare(lm, "mine", some, scoring=scoring, max_new_tokens=most)
    except UnscorableError:
        reject()  # no answer is that short
    some = [one for one in some if one.id in prepared.ids]
    check(lm, prepared, some, sets(lm, seed)[:4], batch)


def test_the_references_reach_every_case() -> None:
    """What is compared above holds texts that end, that do not, that are right, and that stray half-way."""
    lm = tiny_ending_lm("llama", torch.float64, seed=3)
    some = examples(lm, 40, seed=1)
    prepared = prepare(lm, "mine", some, "exact", max_new_tokens=9)
    made = evaluate(lm, prepared, sets(lm, seed=1))
    tokens = evaluate(lm, prepare(lm, "mine", some, scoring="tokens"))
    assert 0 < made.exact.mean() < 1 and 0 < made.ended.mean() < 1 and 0 < made.score.mean() < 1
    assert ((tokens.score > 0) & (tokens.score < 1)).any()


def test_without_sets_is_the_empty_set() -> None:
    lm = tiny_ending_lm("gptj", torch.float64, seed=0)
    prepared = prepare(lm, "mine", examples(lm, 6, seed=2), "exact", max_new_tokens=9)
    plain = evaluate(lm, prepared)
    empty = evaluate(lm, prepared, torch.zeros(2, lm.num_layers, lm.num_neurons, dtype=torch.bool))
    for name in ("score", "nll", "exact", "ended"):
        assert getattr(plain, name).shape == (6,)
        for row in getattr(empty, name):
            np.testing.assert_array_equal(row, getattr(plain, name))


def test_text_loss_is_that_of_every_token() -> None:
    lm = tiny_ending_lm("opt", torch.float64, seed=0)
    texts, members = ["abc", "x 12 y 3", "a"], sets(lm, seed=4)
    made = text_loss(lm, texts, members, batch_tokens=20)
    for index, one in enumerate(members):
        prepared = prepare(lm, "mine", [Example("whole", "x", "y")], scoring="tokens")
        for number, text in enumerate(texts):
            slow = (
                evaluate_slowly(lm, prepared, [Example("t", text[:1], text[1:])], one) if text[1:] else None
            )
            first = _first_token(lm, text, one)
            whole = first if slow is None else (first + slow["nll"][0] * (len(text) - 1)) / len(text)
            assert made[index, number] == pytest.approx(whole, rel=1e-8)
    np.testing.assert_allclose(text_loss(lm, texts), text_loss(lm, texts, torch.zeros_like(members))[0])


def _first_token(lm: LanguageModel, text: str, members: Tensor) -> float:
    """The loss of the first letter behind the beginning of sequence."""
    ids = torch.tensor(lm.tokenizer(text)["input_ids"])
    with torch.no_grad():
        logits = without(lm, members)(input_ids=ids[None, :1]).logits[0, 0]
    return -float(logits.log_softmax(-1)[ids[1]])
