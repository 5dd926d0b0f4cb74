"""Tokens spell their text, whatever the tokenizer and the text, or the example is left out for a reason."""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from caploc.errors import ExampleError, SubjectError, UnfitError, UnspelledError
from caploc.evaluation.evaluator import text_loss
from caploc.examples import Example, fit, subject_characters, subject_tokens, tokenize
from caploc.model.loading import wrap
from caploc.tests import tokenizers
from caploc.tests.tiny import tiny_lm
from caploc.tests.tokenizers import (
    ADDED,
    KINDS,
    LETTERS,
    NORMALIZERS,
    SPELL_ALL,
    TEMPLATES,
    made,
    reading,
)

model = cache(lambda *of: reading(made(*of)))
drawn = st.tuples(
    st.sampled_from(list(KINDS)),
    st.sampled_from(TEMPLATES),
    st.one_of(st.just("none"), st.sampled_from(list(NORMALIZERS))),
    st.one_of(st.just(()), st.sampled_from([*((token,) for token in ADDED), ADDED])),
)
pieces = st.sampled_from(
    [
        "Rome",
        "(Rome)",
        " Rome",
        "\n",
        " ",
        "<|x|>",
        "é",
        "e\u0301",
        "ﬁ",
        "日本",
        "🙂",
        "▁",
        "\r",
        "Ġ",
        "<0x41>",
    ]
)
texts = st.lists(st.one_of(pieces, st.text(LETTERS, max_size=5), st.text(max_size=3)), max_size=5).map(
    "".join
)
full = st.tuples(texts, st.sampled_from("Rox1"), texts).map("".join)


def normal(tokenizer: Tokenizer, normalizer: str, text: str) -> str:
    """The text as its normalizer leaves it, by itself."""
    step = NORMALIZERS[normalizer]()
    known = sorted((token.content for token in tokenizer.get_added_tokens_decoder().values()), key=len)
    parts = re.split(f"({'|'.join(map(re.escape, reversed(known)))})", text)
    return "".join(part if part in known else step.normalize_str(part) for part in parts)


def held(lm: SimpleNamespace, ids: list[int]) -> str:
    """What tokens hold, by the tokenizers library's own decoder, unknown ones as such."""
    backend = lm.tokenizer.backend_tokenizer
    text = backend.decode(ids, skip_special_tokens=False)
    return text.removeprefix("##") if isinstance(backend.model, models.WordPiece) else text


def bare(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=200, deadline=None)
@given(drawn, full, full)
@example(("characters", "$A", "none", ()), "Rome: 7", " 12")
@example(("metaspace first", "<s> $A", "none", ADDED), "a<|x|>Rome", "Rome")
@example(("word pieces", "<s> $A </s>", "none", ()), "ab", "c")
@example(("metaspace with bytes", "$A", "none", ()), "a▁b", " c")
@example(("byte-level", "$A", "stripped", ()), "ab", " c")
def test_tokens_spell_prompt_and_answer_joined(
    of: tuple[str, str, str, tuple[str, ...]], prompt: str, answer: str
) -> None:
    kind, template, normalizer, added = of
    lm = model(*of)
    try:
        tokens = tokenize(lm, Example("e", prompt, answer))
    except UnspelledError as error:
        assert str(error).startswith("example 'e': ") and "\n" not in str(error)
        assert kind not in SPELL_ALL or normalizer != "none" or added or "▁" in prompt + answer
        return
    begins = template.partition("$A")[0].split()
    front, ids = len(begins), tokens.input_ids.tolist()
    assert lm.tokenizer.convert_ids_to_tokens(ids[:front]) == begins
    written = held(lm, ids[front:])
    expected = normal(lm.tokenizer.backend_tokenizer, normalizer, prompt + answer)
    assert bare(written) == bare(expected)
    if kind != "word pieces" and normalizer != "stripped" and not added:
        assert written in (expected, f" {expected}")


@settings(max_examples=200, deadline=None)
@given(drawn, texts, full.map(str.strip), texts)
@example(("byte-level", "<s> $A", "none", ()), "In (", "Rome", ") it is")
@example(("byte-level", "$A", "none", ()), "R", "om", "e")
@example(("legacy", "<s> $A", "none", ()), "", "Ödön", " is")
@example(("metaspace with bytes", "$A", "none", ("om",)), "In ", "Rome", " it is")
@example(("unigram", "<s> $A </s>", "NFKC, lower case", ()), "ﬁ", "ﬁ", "ﬁ")
def test_tokens_of_a_subject_hold_it_and_nothing_else(
    of: tuple[str, str, str, tuple[str, ...]], before: str, subject: str, after: str
) -> None:
    _, _, normalizer, _ = of
    lm, prompt = model(*of), before + subject + after
    fact = Example("e", prompt, " a", subject=subject)
    try:
        span = subject_tokens(lm, fact)
    except UnfitError as error:
        assert str(error).startswith("example 'e': ")
        return
    ids, at = tokenize(lm, fact).prompt_ids.tolist(), subject_characters(fact)
    front = len(ids) - len(reencoded(lm, prompt))
    backend = lm.tokenizer.backend_tokenizer
    assert bare(held(lm, ids[span.start : span.stop])) == bare(normal(backend, normalizer, subject))
    assert bare(held(lm, ids[front : span.start])) == bare(normal(backend, normalizer, prompt[: at.start]))
    assert bare(held(lm, ids[span.stop :])) == bare(normal(backend, normalizer, prompt[at.stop :]))


def reencoded(lm: SimpleNamespace, text: str) -> list[int]:
    return lm.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_stands_in_front_once_and_nothing_behind(kind: str, template: str) -> None:
    lm, begins = model(kind, template), template.partition("$A")[0].split()
    for prompt in ("Rome", "".join(begins) + "Rome"):
        ids = tokenize(lm, Example("e", prompt, " Rome")).prompt_ids.tolist()
        assert lm.tokenizer.convert_ids_to_tokens(ids[: len(begins)]) == begins
        assert held(lm, ids[len(begins) :]).strip() == "Rome"
    # one that stands in the text is that token, as the tokenizer itself reads it
    ids = tokenize(lm, Example("e", "Rome</s>", " a</s>")).input_ids.tolist()
    assert ids.count(lm.tokenizer.eos_token_id) == 2 and ids[-1] == lm.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("kind", "prompt", "answer", "said"),
    [
        ("characters", "Rome 7", " a", "cannot spell '7' in the prompt 'Rome 7'"),
        ("characters", "Rome", " \t", "is empty"),
        ("characters with unknown", "a", " éa", "cannot spell 'é' in the answer ' éa'"),
        ("metaspace without bytes", "a", " ▁é", "cannot spell '▁é' in the answer"),
        ("unigram", "日本 a", " a", "cannot spell '日本' in the prompt"),
        ("word pieces", "Ro", "me", "the prompt 'Ro' and the answer 'me' do not spell both joined"),
    ],
)
def test_what_cannot_be_spelled_is_named(kind: str, prompt: str, answer: str, said: str) -> None:
    with pytest.raises(ExampleError, match=re.escape(said)):
        tokenize(model(kind), Example("e", prompt, answer))


def test_what_is_not_spelled_is_left_out_and_counted() -> None:
    lm = model("characters")
    fitting, excluded = fit(lm, [Example("a", "Rome", " a"), Example("b", "Rome 7", " a")])
    assert [one.id for one in fitting] == ["a"]
    assert [(one.id, one.why) for one in excluded] == [("b", "not spelled by the tokenizer")]
    with pytest.raises(UnspelledError, match=r"none of the 1 examples .*\(first: example 'b'"):
        fit(lm, [Example("b", "Rome 7", " a")])


def test_characters_put_aside_by_the_pre_tokenizer_are_no_white_space() -> None:
    backend = Tokenizer.from_str(made("characters").to_str())
    backend.pre_tokenizer = pre_tokenizers.Punctuation("removed")
    tokenize(reading(backend), Example("e", "Rome a", " a"))
    with pytest.raises(UnspelledError):
        tokenize(reading(backend), Example("e", "Rome, a", " a"))


def test_words_are_not_torn_where_white_space_leaves_no_trace() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "Rome": 1, "a": 2, ",": 3}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    lm = reading(backend)
    assert tokenize(lm, Example("e", "Rome", " a")).input_ids.tolist() == [1, 2]
    assert tokenize(lm, Example("e", "Rome", ", a")).input_ids.tolist() == [1, 3, 2]
    with pytest.raises(UnspelledError, match="do not spell both joined"):
        tokenize(lm, Example("e", "Rome", "a"))
    with pytest.raises(UnspelledError, match="cannot spell 'Rom' in the prompt"):
        tokenize(lm, Example("e", "Rom a", " a"))


def test_a_normalizer_that_strips_texts_leaves_the_space_in_front_of_an_answer() -> None:
    lm = model("byte-level", "<s> $A", "stripped")
    tokens = tokenize(lm, Example("e", "Rome", " a (Rome)"))
    assert held(lm, tokens.answer_ids.tolist()) == " a (Rome)"


def test_a_tokenizer_without_decoder_is_compared_all_the_same() -> None:
    backend = Tokenizer(models.BPE({one: number for number, one in enumerate("▁Rome is")}, []))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    lm = reading(backend)
    assert subject_tokens(lm, Example("e", "Rome is", " so", subject="Rome")) == range(1, 5)
    with pytest.raises(UnspelledError, match="cannot spell 'x'"):
        tokenize(lm, Example("e", "Rome x", " so"))


def test_a_runaway_regular_expression_leaves_the_text_out() -> None:
    """It ends in a panic of the tokenizers library, which is no Exception."""
    backend = Tokenizer.from_str(made("characters").to_str())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+b|."), "isolated")
    lm = reading(backend)
    tokenize(lm, Example("e", "Rome", " a"))
    with pytest.raises(UnspelledError, match="example 'e': the tokenizer of tiny breaks off on 'aaaa"):
        tokenize(lm, Example("e", "a" * 60, " a"))


@pytest.mark.parametrize(
    ("kind", "prompt", "subject", "tokens"),
    [
        ("characters", "(Rome) a", "Rome", "Rome"),
        ("byte-level", "R Rome: 1", "Rome ", " Rome"),
        ("legacy", "Rome a", "\n Rome", " Rome"),
        ("word pieces", "a Rome, (Rome) c", "Rome", "Rome"),
    ],
)
def test_tokens_of_subjects(kind: str, prompt: str, subject: str, tokens: str) -> None:
    lm, fact = model(kind, "<s> $A </s>"), Example("e", prompt, " a", subject=subject)
    span = subject_tokens(lm, fact)
    ids = tokenize(lm, fact).input_ids.tolist()
    assert held(lm, ids[span.start : span.stop]) == tokens
    assert "Rome" not in held(lm, ids[span.stop :])


def test_letters_that_stand_for_white_space_in_other_alphabets_are_letters() -> None:
    """Byte-level tokenizers write a carriage return as "č"."""
    backend = tokenizers.characters(letters=LETTERS + "čĠ")
    lm = reading(backend)
    assert subject_tokens(lm, Example("e", "a čabeč b", " a", subject="čabeč")) == range(2, 7)
    assert subject_tokens(lm, Example("e", "Ġ a", " a", subject="Ġ")) == range(1)


def test_a_subject_inside_a_token_is_refused() -> None:
    with pytest.raises(SubjectError, match="its subject 'om' has no tokens of its own for tiny"):
        subject_tokens(model("byte-level"), Example("e", "Rome is", " a", subject="om"))


def test_texts_whose_loss_is_measured_end_where_they_end() -> None:
    lm, losses = tiny_lm(), []
    for template in ("<s> $A", "<s> $A </s>"):
        backend = Tokenizer.from_str(lm.tokenizer.backend_tokenizer.to_str())
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        losses.append(text_loss(wrap("tiny", lm.model, tokenizers.fast(backend)), ["rome is a city"])[0])
    assert losses[0] == losses[1]
    strange = wrap("tiny", lm.model, tokenizers.fast(made("characters")))
    with pytest.raises(UnspelledError, match=r"text 0 \('Rome 7'\) is not spelled by the tokens of tiny"):
        text_loss(strange, ["Rome 7"])
