"""What ``prepare`` makes of a dataset, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from caploc import Example, load_examples, load_model
from caploc.errors import CaplocError, DatasetError, ExampleError, OptionError, TooLongError, UnknownNameError
from caploc.evaluation import SCORINGS, evaluate, prepare, text_loss
from caploc.interventions.rank_one import key_covariance
from caploc.model.loading import LanguageModel, wrap
from caploc.tests.attribution.families import VOCABULARY
from caploc.tests.evaluation.cases import labelled
from caploc.tests.tiny import REPOSITORY, tiny_lm

DATA = REPOSITORY / "fixtures" / "data"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_lm()


def refused(
    kind: type[CaplocError], lm: LanguageModel, dataset: str, *args: object, **options: object
) -> str:
    with pytest.raises(kind) as caught:
        prepare(lm, dataset, *args, **options)  # type: ignore[arg-type]
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "answer", "scoring"),
    [
        ("gsm8k", " 4\n#### 4", "number"),
        ("meta_math", " the answer is: 4", "number"),
        ("gsm8k_backward", " 4", "number"),
        ("code25k", "\nx = 1", "tokens"),
        ("mbpp", "\nx = 1", "tokens"),
        ("emotion", " joy", "label"),
        ("imdb", " positive", "label"),
        ("counterfact", " rome", "exact"),
        ("mine", " rome", "tokens"),
    ],
)
def test_default_scorings(lm: LanguageModel, dataset: str, answer: str, scoring: str) -> None:
    prepared = prepare(lm, dataset, [Example("one", "question", answer)])
    assert prepared.scoring.name == scoring and prepared.items == 1 and prepared.ids == ["one"]


@pytest.mark.parametrize(
    ("answers", "scoring"),
    [
        ([" joy"] * 6 + [" fear"] * 4, "label"),
        ([" joy"] * 6 + [" fear"] * 3, "tokens"),  # fewer than five a label
        ([" joy"] * 19 + [" fear"], "tokens"),  # one that never comes back
        ([" joy"] * 10, "tokens"),  # nothing to choose from
        ([f" {number}" for number in range(21) for _ in range(5)], "tokens"),
        ([" jo", " joy"] * 5, "tokens"),  # begin with the same tokens: likelihoods cannot tell them apart
    ],
)
def test_ones_own_data_are_scored_by_label_where_answers_are_a_closed_set(
    lm: LanguageModel, answers: list[str], scoring: str
) -> None:
    some = [Example(str(number), "x", answer) for number, answer in enumerate(answers)]
    prepared = prepare(lm, "mine", some)
    assert prepared.scoring.name == scoring
    assert prepared.labels == (("fear", "joy") if scoring == "label" else ())
    assert prepare(lm, "mine", some, "label_text" if len(set(answers)) > 1 else "exact").items


def test_labels_given_decide_the_scoring(lm: LanguageModel) -> None:
    prepared = prepare(lm, "mine", labelled(("ab", "cd"), 5, 0), labels=[" ab", "cd"])
    assert prepared.scoring.name == "label" and prepared.labels == ("ab", "cd")


def test_what_follows_a_label_is_not_scored(lm: LanguageModel) -> None:
    """Or the right label alone would have to be followed by a line break."""
    (item,) = prepare(lm, "mine", [Example("one", "x", " cd \n")], labels=("ab", "cd")).all_items
    assert item.candidates[item.label] == tuple(item.tokens.answer_ids.tolist())


def test_chance_is_the_better_of_two_ways_to_guess(lm: LanguageModel) -> None:
    some = [Example(str(n), "x", " ab" if n < 4 else " cd") for n in range(5)]
    assert prepare(lm, "mine", some, labels=("ab", "cd")).chance == pytest.approx(0.8)
    assert prepare(lm, "mine", some[3:], labels=("ab", "cd", "e")).chance == pytest.approx(0.5)
    assert prepare(lm, "mine", some, "exact").chance == 0
    tokens = [Example("a", "x", "aab"), Example("b", "x", "b")]
    assert prepare(lm, "mine", tokens, scoring="tokens").chance == pytest.approx((1 / 3 + 1) / 2)


def test_a_text_may_be_twice_the_longest_reference_and_a_bit(lm: LanguageModel) -> None:
    some = [Example("a", "x", "abc"), Example("b", "x", "abcde")]
    assert prepare(lm, "mine", some).max_new_tokens == 18
    assert prepare(lm, "mine", some, max_new_tokens=3).max_new_tokens == 3


def test_items_that_cannot_be_scored_or_are_too_long_are_left_out(lm: LanguageModel) -> None:
    some = [
        Example("good", "x", "#### 5"),
        Example("none", "x", "five"),
        Example("long", "x" * 100, "#### 5"),
    ]
    prepared = prepare(lm, "gsm8k", some)
    assert prepared.ids == ["good"]
    assert [
        (one.id, word in one.reason)
        for one, word in zip(prepared.excluded, ("number", "tokens"), strict=True)
    ] == [
        ("none", True),
        ("long", True),
    ]
    assert evaluate(lm, prepared).score.shape == (1,)


def test_bad_input_is_one_clear_line(lm: LanguageModel) -> None:
    one = [Example("e", "x", " joy")]
    assert "no items" in refused(OptionError, lm, "emotion", [])
    assert "'nice'" in refused(UnknownNameError, lm, "emotion", one, scoring="nice")
    assert "pass labels" in refused(OptionError, lm, "counterfact", one, scoring="label")
    assert "two or more different" in refused(OptionError, lm, "mine", one, scoring="label")
    assert "' joy' of 'e' is none of the labels (a, b)" in refused(
        DatasetError, lm, "mine", one, labels=["a", "b"]
    )
    assert "'number' does not fit" in refused(OptionError, lm, "emotion", one, scoring="number")
    assert "A to D" in refused(OptionError, lm, "emotion", one, scoring="option")
    assert "no use for labels" in refused(
        OptionError, lm, "mine", one, scoring="exact", labels=["joy", "fear"]
    )
    assert "two or more different" in refused(OptionError, lm, "mine", one, labels=["joy"])
    assert "two or more different" in refused(OptionError, lm, "mine", one, labels=["joy", " joy"])
    assert "max_new_tokens" in refused(OptionError, lm, "mine", one, max_new_tokens=0)
    assert "ids unique" in refused(OptionError, lm, "mine", one * 2)
    refused(TooLongError, lm, "mine", [Example("long", "x" * 100, " y")])


def test_labels_that_tokenize_alike_are_named(lm: LanguageModel) -> None:
    some = [Example("e", "x", " joy")]
    alike = refused(
        OptionError, lm, "mine", some, labels=["joy", "jo€", "jo£"]
    )  # both have a letter not known
    assert "'jo€' and 'jo£' tokenize alike" in alike
    assert "'jo' and 'joy' begin with the same tokens" in refused(
        OptionError, lm, "mine", some, labels=["jo", "joy"]
    )


def test_sets_of_another_shape_are_refused(lm: LanguageModel) -> None:
    prepared = prepare(lm, "mine", [Example("e", "x", " joy")])
    good = torch.zeros(2, lm.num_layers, lm.num_neurons, dtype=torch.bool)
    for bad in (good[:, 1:], good[..., 1:], good[0], good[:0], good.float()):
        with pytest.raises(OptionError, match=r"sets must be bool of shape \(sets, 2, 20\)"):
            evaluate(lm, prepared, bad)
    with pytest.raises(OptionError, match="batch_tokens"):
        evaluate(lm, prepared, good, batch_tokens=0)


def test_items_of_another_tokenizer_are_refused(lm: LanguageModel) -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=lm.tokenizer.backend_tokenizer)
    other.add_tokens(["more"])
    prepared = replace(prepare(lm, "mine", [Example("e", "x", " joy")]), tokenizer=other)
    with pytest.raises(OptionError, match="another tokenizer"):
        evaluate(lm, prepared)


def test_texts_that_have_no_loss_are_refused(lm: LanguageModel) -> None:
    for texts, words in (
        ([], "no texts"),
        ("abc", "no texts"),
        (["ab", ""], "text 1 .* fewer"),
        (["x" * 99], "holds 96"),
    ):
        with pytest.raises(CaplocError, match=words):
            text_loss(lm, texts)


def test_texts_with_a_token_that_has_no_embedding_are_refused() -> None:
    """Tokenizers that were given more tokens than the model was."""
    lm = tiny_lm()
    more = PreTrainedTokenizerFast(tokenizer_object=lm.tokenizer.backend_tokenizer)
    more.add_tokens([f"more{number}" for number in range(VOCABULARY)])
    lm = wrap("tiny", lm.model, more)
    last = f"more{VOCABULARY - 1}"
    for run, what in (
        (lambda: text_loss(lm, ["ab", last]), "text 1"),
        (lambda: key_covariance(lm, ["ab", "b", last], progress=False), "text 2 of the corpus"),
        (lambda: prepare(lm, "mine", [Example("e", "x", last)]), "example 'e'"),
    ):
        with pytest.raises(
            ExampleError, match=f"^{what}: token .* is outside of the {VOCABULARY} embeddings"
        ):
            run()


def test_every_scoring_gives_a_right_text_everything() -> None:
    for scoring in SCORINGS.values():
        if scoring.reads == "text":
            reference = " 6*4=24 coins\n#### 24"
            assert scoring.of_text(reference, reference) == pytest.approx(1)
            assert scoring.of_text(" five", reference) < 0.2


def test_real_formats_are_prepared() -> None:
    lm = load_model("tiny-llama")
    assert Path(DATA).is_dir()
    for dataset in ("gsm8k", "meta_math", "code25k", "emotion", "imdb"):
        prepared = prepare(lm, dataset, load_examples(dataset, DATA, "evaluate", limit=5))
        outcomes = evaluate(lm, prepared)
        assert prepared.items == 5 and not prepared.excluded and np.isfinite(outcomes.nll).all()


def test_multiple_choice_is_scored_by_its_letters() -> None:
    choice = load_examples("gsm8k", DATA, "evaluate", limit=8, form="choice")
    prepared = prepare(load_model("tiny-llama"), "gsm8k", choice)
    assert (
        prepared.scoring.name == "option"
        and prepared.labels == ("A", "B", "C", "D")
        and prepared.chance >= 0.25
    )
