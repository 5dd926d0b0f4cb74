"""Where the answer begins, for every kind of tokenizer, and every example that cannot be tokenized."""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from caploc.errors import ExampleError, OptionError, TooLongError
from caploc.examples import Example, Exclusion, fit, tokenize

LETTERS = "ab xy:=\n19"
CORPUS = [
    "a x b y: 19 = 91\n\n\nab xy",
    "xxyy aabb  ab:xy\n a\n x 1 9",
    "by the way: ax = 19\n:\n:x :a =a",
]


def byte_level(add_prefix_space=False):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def sentencepiece_like():
    """As Llama 2's tokenizer: a space in front of any text, whatever it begins with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    return tokenizer


def metaspace():
    """As newer exports of the same: a space in front of a text that has none."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    return tokenizer


def dropping():
    """Makes no token of "¤"."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Replace("¤", "")
    return tokenizer


BACKENDS = {
    "byte-level": byte_level,
    "byte-level with prefix": lambda: byte_level(add_prefix_space=True),
    "sentencepiece": sentencepiece_like,
    "metaspace": metaspace,
    "dropping": dropping,
}


def model(kind, template=None, max_length=10_000, rows=None):
    """What `tokenize` needs of a language model; `template` places the special tokens, "<s> $A </s>"."""
    backend = BACKENDS[kind]()
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    if template:
        special = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", model_max_length=max_length
    )
    embedding = SimpleNamespace(num_embeddings=len(tokenizer) if rows is None else rows)
    return SimpleNamespace(
        name="tiny",
        tokenizer=tokenizer,
        structure=SimpleNamespace(get_input_embeddings=lambda: embedding),
        max_length=max_length,
    )


def surface(lm, ids) -> str:
    text = "".join(lm.tokenizer.convert_ids_to_tokens(ids.tolist()))
    for token in ("<s>", "</s>"):
        text = text.replace(token, "")
    return text.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")


KINDS = ["byte-level", "byte-level with prefix", "sentencepiece", "metaspace"]
LANGUAGE_MODELS = {kind: model(kind, "<s> $A") for kind in KINDS}

texts = st.text(st.sampled_from(LETTERS), min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize("kind", KINDS)
@given(prompt=texts, answer=texts)
def test_the_tokens_of_both_sides_spell_prompt_and_answer(kind, prompt, answer):
    lm = LANGUAGE_MODELS[kind]
    tokens = tokenize(lm, Example("e", prompt, answer))
    assert tokens.input_ids.dtype == torch.long and tokens.input_ids.dim() == 1
    assert 0 < tokens.answer_start < len(tokens.input_ids)
    assert tokens.num_answer_tokens == len(tokens.answer_ids)
    assert torch.equal(torch.cat([tokens.prompt_ids, tokens.answer_ids]), tokens.input_ids)
    assert tokens.input_ids.tolist()[: tokens.answer_start] == lm.tokenizer(prompt)["input_ids"]
    assert surface(lm, tokens.prompt_ids) in (prompt, " " + prompt)
    assert surface(lm, tokens.answer_ids) == answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", [" xy", "xy", "\nxy", "19", " \n ab", "  ab"])
def test_no_space_is_added_to_the_answer_and_none_is_lost(kind, answer):
    lm = LANGUAGE_MODELS[kind]
    tokens = tokenize(lm, Example("e", "ab:", answer))
    assert surface(lm, tokens.answer_ids) == answer


def test_the_dummy_space_of_sentencepiece_is_what_is_avoided():
    lm = LANGUAGE_MODELS["sentencepiece"]
    naive = lm.tokenizer(" xy", add_special_tokens=False)["input_ids"]
    assert surface(lm, torch.tensor(naive)) == "  xy"


def test_a_tokenizer_that_merges_every_head_still_gets_no_second_space(monkeypatch):
    monkeypatch.setattr("caploc.examples.CONTINUATION_HEADS", ())
    tokens = tokenize(LANGUAGE_MODELS["sentencepiece"], Example("e", "ab:", " xy"))
    assert surface(LANGUAGE_MODELS["sentencepiece"], tokens.answer_ids) == " xy"


@pytest.mark.parametrize(
    ("template", "start", "added"),
    [(None, None, 0), ("<s> $A", "<s>", 1), ("<s> $A </s>", "<s>", 1), ("$A </s>", None, 0)],
)
def test_special_tokens_of_the_prompt(template, start, added):
    lm = model("byte-level", template)
    tokens = tokenize(lm, Example("e", "ab", " xy"))
    assert tokens.answer_start == len(lm.tokenizer("ab", add_special_tokens=False)["input_ids"]) + added
    assert lm.tokenizer.eos_token_id not in tokens.input_ids.tolist()
    first = lm.tokenizer.convert_ids_to_tokens(tokens.input_ids[0].item())
    assert (first == start) if start else (first not in ("<s>", "</s>"))


def test_an_end_of_sequence_that_the_prompt_itself_spells_is_kept():
    tokens = tokenize(model("byte-level", "$A"), Example("e", "ab</s>", " xy"))
    assert tokens.prompt_ids.tolist()[-1] == tokenize_id("</s>")


def tokenize_id(token):
    return model("byte-level").tokenizer.convert_tokens_to_ids(token)


def test_answer_tokens_keeps_the_first_ones():
    lm = LANGUAGE_MODELS["byte-level"]
    example = Example("e", "ab", " x y x y x y")
    whole = tokenize(lm, example)
    for count in (1, 3, 100):
        part = tokenize(lm, example, answer_tokens=count)
        kept = min(count, whole.num_answer_tokens)
        assert part.num_answer_tokens == kept
        assert torch.equal(part.input_ids, whole.input_ids[: whole.answer_start + kept])
    for count in (0, -1):
        with pytest.raises(OptionError, match=f"answer_tokens must be at least 1, got {count}"):
            tokenize(lm, example, answer_tokens=count)


@pytest.mark.parametrize("field", ["prompt", "answer"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("ok \udc80", "has a lone surrogate at character 3"),
        (None, "is of type NoneType; it must be a string"),
    ],
)
def test_bad_texts_name_the_example(field, text, reason):
    example = dataclasses.replace(Example("q7", "ab", " xy"), **{field: text})
    for check in (example.validate, lambda: tokenize(LANGUAGE_MODELS["byte-level"], example)):
        with pytest.raises(ExampleError) as caught:
            check()
        assert str(caught.value).startswith(f"example 'q7': the {field} {reason}")


@pytest.mark.parametrize("field", ["prompt", "answer"])
@pytest.mark.parametrize("template", [None, "<s> $A </s>"])
def test_texts_that_tokenize_to_nothing(field, template):
    example = dataclasses.replace(Example("q7", "ab", " xy"), **{field: "¤¤"})
    with pytest.raises(
        ExampleError, match=rf"example 'q7': the tokenizer .*makes no token of the {field} '¤¤'"
    ):
        tokenize(model("dropping", template), example)


def test_too_long_says_both_numbers():
    example = Example("q7", "ab", " xy")
    length = len(tokenize(LANGUAGE_MODELS["byte-level"], example).input_ids)
    assert len(tokenize(model("byte-level", "<s> $A", max_length=length), example).input_ids) == length
    lm = model("byte-level", "<s> $A", max_length=length - 1)
    reason = (
        f"'q7': prompt and answer have {length} tokens, the context of tiny holds {length - 1}; shorten it"
    )
    with pytest.raises(TooLongError, match=reason):
        tokenize(lm, example)


def test_a_text_beyond_the_context_prints_no_warning_of_the_tokenizer(caplog, capfd):
    lm = model("byte-level", "<s> $A", max_length=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooLongError):
            tokenize(lm, Example("q7", "x " * 50, " xy"))
    assert caplog.text == "" and capfd.readouterr() == ("", "")


def test_a_token_outside_of_the_embedding():
    example = Example("q7", "ab", " xy")
    last = tokenize(model("byte-level"), example).input_ids.max().item()
    tokenize(model("byte-level", rows=last + 1), example)
    with pytest.raises(
        ExampleError, match=f"'q7': token {last} is outside of the {last} embeddings of tiny; load"
    ):
        tokenize(model("byte-level", rows=last), example)


def test_fit_leaves_out_what_is_too_long_and_says_why():
    lm = model("byte-level", "<s> $A", max_length=12)
    examples = [Example("a", "ab", " xy"), Example("b", "a:" * 40, " xy"), Example("c", "ab", " x")]
    fitting, excluded = fit(lm, examples)
    assert [tokens.id for tokens in fitting] == ["a", "c"]
    (exclusion,) = excluded
    assert exclusion == Exclusion("b", exclusion.reason)
    assert "the context of tiny holds 12" in exclusion.reason
    assert fit(lm, []) == ([], [])


def test_fit_measures_the_shortened_answer():
    lm = model("byte-level", "<s> $A", max_length=12)
    example = Example("a", "ab", " x" * 40)
    with pytest.raises(TooLongError):
        fit(lm, [example])
    (tokens,), excluded = fit(lm, [example], answer_tokens=2)
    assert (tokens.num_answer_tokens, excluded) == (2, [])


def test_fit_raises_if_nothing_is_left_or_an_example_is_bad():
    lm = model("byte-level", "<s> $A", max_length=5)
    long = Example("b", "a:" * 40, " xy")
    with pytest.raises(TooLongError, match=r"none of the 2 examples fits into the 5 tokens of tiny"):
        fit(lm, [long, long])
    with pytest.raises(ExampleError, match="'c': the answer is empty"):
        fit(lm, [long, Example("c", "ab", "")])


def test_examples_are_frozen_and_hashable():
    example = Example(id="q1", prompt="...", answer="...")
    assert example.group is None
    assert len({example, Example("q1", "...", "...")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.answer = "other"
