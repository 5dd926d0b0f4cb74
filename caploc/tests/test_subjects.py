"""Where a subject stands: characters and tokens, borders, repetitions, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.datasets import load_examples
from caploc.datasets.edits import EditRequest
from caploc.errors import ExampleError, ModelError, SubjectError
from caploc.examples import Example, subject_characters, subject_tokens, tokenize, with_subject
from caploc.interventions.rank_one.prompts import edit_prompts
from caploc.model.loading import LanguageModel, load_model
from caploc.model.registry import embedded_folder
from caploc.tests.tiny import SHARED, tiny_lm

STORIES = SHARED / "models" / "stories260K"
REAL = SHARED / "data"


def fact(prompt: str, subject: str | None, answer: str = " rome") -> Example:
    return Example("f", prompt, answer, subject=subject)


def text_of(lm: LanguageModel, example: Example) -> str:
    span = subject_tokens(lm, example)
    return lm.tokenizer.decode(tokenize(lm, example).input_ids[span.start : span.stop])


@pytest.mark.parametrize(
    ("prompt", "subject", "start"),
    [
        ("the capital of italy is", "italy", 15),
        ("ann met ann in", "ann", 8),  # the last
        ("a cat in catania is", "cat", 2),  # a word of its own before a part of one
        ("the railways of", "rail", 4),  # a part of a word if there is no other
        ("(po) poet po's", "po", 10),
        ("aaa", "aa", 1),
        ("12-10 and 2-1", "2-1", 10),
        ("(ann's) annes", "ann", 1),
        ("ann\u0303 and ann", "ann", 9),  # a combining mark makes another letter
        ("ann ann\u0303", "ann", 0),
        ("東京都の東京は", "東京", 4),  # no spaces between words: the last
        ("rome ", " rome", 0),
    ],
)
def test_the_last_occurrence_as_a_word(prompt: str, subject: str, start: int) -> None:
    assert subject_characters(fact(prompt, subject)) == range(start, start + len(subject.strip()))


@given(st.text("ab ", max_size=8), st.text("ab ", min_size=1, max_size=4), st.text("ab ", max_size=8))
def test_characters_spell_the_subject(before: str, subject: str, after: str) -> None:
    if not subject.strip():
        return
    prompt = before + subject + after
    found = subject_characters(fact(prompt, subject))
    assert prompt[found.start : found.stop] == subject.strip()


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (None, r"example 'f' names no subject; give it one"),
        ("  ", r"example 'f' names no subject"),
        ("ital y", r"example 'f': its subject 'ital y' is not in its prompt"),
        ("Italy", r"example 'f': its subject 'Italy' is not in its prompt 'the capital of italy is'"),
    ],
)
def test_refuses_what_is_not_there(subject: str | None, said: str) -> None:
    for find in (subject_characters, lambda example: subject_tokens(tiny_lm(), example)):
        with pytest.raises(ExampleError, match=said) as caught:
            find(fact("the capital of italy is", subject))
        assert "\n" not in str(caught.value)


def test_tokens_of_one_character_each() -> None:
    """The tiny tokenizer puts <s> in front."""
    assert subject_tokens(tiny_lm(), fact("of italy is", "italy")) == range(4, 9)
    assert subject_tokens(tiny_lm(), fact("italy", "italy")) == range(1, 6)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gptj"])
@pytest.mark.parametrize("dataset", ["counterfact", "zsre", "known_1000", "pararel", "decoupling"])
def test_embedded_facts_name_their_subjects(name: str, dataset: str) -> None:
    if not embedded_folder(name).is_dir():
        pytest.skip(f"the embedded model {name} is not there; make it with python -m fixtures.make")
    lm = load_model(name)
    examples = load_examples(dataset, path=embedded_folder(name).parents[1] / "data", limit=20)
    assert all(text_of(lm, example).strip() == example.subject for example in examples)


def test_a_subject_that_shares_a_token_is_refused() -> None:
    """A subject that begins and ends in the middle of tokens; its whole tokens are found."""
    lm = load_model("tiny-llama")
    prompt = load_examples("counterfact", path=embedded_folder("tiny-llama").parents[1] / "data", limit=1)[
        0
    ].prompt
    offsets = lm.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    inside = [not prompt[start].isspace() and stop - start >= 3 for start, stop in offsets]
    first, second = [index for index, long in enumerate(inside) if long][:2]
    begin, end = offsets[first][0], offsets[second][1]
    assert subject_tokens(lm, fact(prompt, prompt[begin:end])) == range(first, second + 1)
    for inner in (prompt[begin + 1 : end], prompt[begin : end - 1], prompt[begin + 1 : end - 1]):
        with pytest.raises(SubjectError, match="has no tokens of its own for tiny-llama"):
            subject_tokens(lm, fact(prompt, inner))
        assert with_subject(lm, [fact(prompt, inner)])[1][0].why == "no tokens of the subject"


@pytest.mark.parametrize("subject", ["ada byrne ", " ada byrne", "\nada byrne\t", "ada byrne"])
def test_space_around_a_subject_is_no_part_of_it(subject: str) -> None:
    """As some of the records of facts that others publish have it."""
    for prompt in ("ada byrne was born in", "ada byrne  was born in"):
        assert subject_tokens(tiny_lm(), fact(prompt, subject)) == range(1, 10)
    request = EditRequest("f", "ada byrne was born in", subject, " rome")
    prompts = edit_prompts(tiny_lm(), request, (), "last-subject")
    assert tiny_lm().tokenizer.decode(prompts.essence.fed[1:]).replace(" ", "") == "adabyrneisa"
    assert prompts.essence.fed.tolist().count(tiny_lm().tokenizer(" ")["input_ids"][1]) == 3
    assert (prompts.rewriting[0].edited, prompts.essence.edited) == (9, 9)


@pytest.mark.parametrize("dataset", ["counterfact", "zsre", "known_1000", "pararel"])
def test_real_facts_under_a_real_tokenizer(dataset: str) -> None:
    if not (STORIES.is_dir() and REAL.is_dir()):
        pytest.skip(f"no real model and samples in {SHARED}: put stories260K and the datasets' samples there")
    lm = load_model(STORIES)
    examples, excluded = with_subject(lm, load_examples(dataset, path=REAL, limit=60))
    assert len(examples) >= 60 and not excluded
    assert all(text_of(lm, example).strip() == example.subject for example in examples)


def test_examples_without_subject_are_excluded_with_the_reason() -> None:
    examples = [fact("a b", "b"), fact("a b", "c"), fact("a b", None)]
    kept, excluded = with_subject(tiny_lm(), examples)
    assert kept == examples[:1]
    assert ["not in its prompt" in one.reason for one in excluded] == [True, False]
    assert "names no subject" in excluded[1].reason and excluded[1].id == "f"


def test_refuses_a_tokenizer_without_offsets() -> None:
    class Slow:
        is_fast = False

    lm = tiny_lm()
    lm.tokenizer = Slow()  # type: ignore[assignment]
    with pytest.raises(ModelError, match="the tokenizer of tiny-llama does not tell which characters"):
        subject_tokens(lm, fact("a b", "b"))
    with pytest.raises(ModelError):
        with_subject(lm, [fact("a b", "b")])


def test_own_records_may_name_a_subject(tmp_path: object) -> None:
    file = tmp_path / "mine.jsonl"  # type: ignore[operator]
    file.write_text('{"prompt": "a b", "answer": " c", "subject": "b"}\n{"prompt": "d", "answer": " e"}\n')
    assert [example.subject for example in load_examples("mine", path=file)] == ["b", None]
