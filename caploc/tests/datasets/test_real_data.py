"""The loaders on samples of the real datasets, and these texts under a real tokenizer."""

from __future__ import annotations

import string
from collections import Counter
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from caploc.datasets import load_examples
from caploc.errors import UnfitError
from caploc.examples import fit, subject_tokens, tokenize
from caploc.tests import tokenizers
from caploc.tests.datasets.conftest import SHARED

COUNTS = {
    "meta_math": 3,
    "emotion": 1200,
    "imdb": 400,
    "code25k": 171,
    "mbpp": 200,
    "gsm8k_backward": 300,
    "counterfact": 250,
    "zsre": 250,
    "known_1000": 605,
}
ENDINGS = {  # of every prompt, and beginnings of every answer
    "gsm8k": ("\nAnswer:", " "),
    "meta_math": ("\nAnswer:", " "),
    "gsm8k_backward": ("\nAnswer:", " "),
    "code25k": ("\nCode:", "\n```python\n"),
    "mbpp": ("\nCode:", "\n"),
    "emotion": ("\nEmotion:", " "),
    "imdb": ("\nSentiment:", " "),
    "counterfact": ("", " "),
    "zsre": ("", " "),
    "known_1000": ("", " "),
    "pararel": ("", " "),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_record_loads(name, real_data):
    assert len(load_examples(name, path=real_data)) == COUNTS[name]


def test_gsm8k_has_its_own_two_parts(real_data):
    located = load_examples("gsm8k", path=real_data, split="locate")
    evaluated = load_examples("gsm8k", path=real_data, split="evaluate")
    assert (len(located), len(evaluated)) == (1600, 150)
    assert not {e.prompt for e in located} & {e.prompt for e in evaluated}
    assert all("\n#### " in e.answer and "<<" not in e.answer for e in located + evaluated)


def test_pararel_has_ten_relations_of_paraphrased_facts(real_data):
    examples = load_examples("pararel", path=real_data)
    facts = Counter(e.group for e in examples)
    assert len({group.split(":")[0] for group in facts}) == 10
    assert len(facts) == 250
    assert max(facts.values()) == 17  # P495, whose patterns all end in [Y]
    assert not any("[X]" in e.prompt or "[Y]" in e.prompt or e.prompt.endswith(" ") for e in examples)


@pytest.mark.parametrize("name", ENDINGS)
def test_templates(name, real_data):
    ending, beginning = ENDINGS[name]
    for example in load_examples(name, path=real_data):
        assert example.prompt.endswith(ending) and example.answer.startswith(beginning)
        assert not example.answer.startswith("  ")


@pytest.mark.parametrize("name", sorted(set(ENDINGS) - {"meta_math", "gsm8k"}))
def test_a_single_real_file_divides_in_two(name, real_data):
    sides = [load_examples(name, path=real_data, split=split) for split in ("locate", "evaluate")]
    assert sum(map(len, sides)) == len(load_examples(name, path=real_data))
    assert not {e.prompt for e in sides[0]} & {e.prompt for e in sides[1]}
    assert 0.55 < len(sides[0]) / sum(map(len, sides)) < 0.85


def test_known_quirks(real_data):
    code = load_examples("code25k", path=real_data)
    assert sum(e.prompt.count("\n") == 1 for e in code) == 10  # these have an empty input
    emotion = Counter(e.prompt for e in load_examples("emotion", path=real_data))
    assert list(emotion.values()).count(2) == 1  # one text under two labels
    assert "<br />" not in "".join(e.prompt for e in load_examples("imdb", path=real_data))
    assert any("\r\n" in e.answer for e in load_examples("mbpp", path=real_data))


@pytest.fixture(scope="module")
def stories():
    folder = SHARED / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no real model: put stories260K into {folder}")
    embedding = SimpleNamespace(num_embeddings=512)
    return SimpleNamespace(
        name="stories260K",
        tokenizer=AutoTokenizer.from_pretrained(folder),
        structure=SimpleNamespace(get_input_embeddings=lambda: embedding),
        max_length=512,
    )


@pytest.mark.parametrize("name", sorted(ENDINGS))
def test_no_token_straddles_the_border(name, real_data, stories):
    stories.max_length = 100_000
    for example in load_examples(name, path=real_data, limit=60):
        tokens = tokenize(stories, example)
        # the tokenizer's own leading space stands once, at the start of the sequence
        assert decode(stories, tokens.prompt_ids) == " " + example.prompt
        assert decode(stories, tokens.answer_ids) == example.answer
        assert tokens.input_ids[0] == stories.tokenizer.bos_token_id


def test_too_long_reviews_are_left_out_and_named(real_data, stories):
    stories.max_length = 512
    examples = load_examples("imdb", path=real_data)
    fitting, excluded = fit(stories, examples)
    assert len(fitting) + len(excluded) == 400 and 0 < len(fitting) < 400
    assert all(len(tokens.input_ids) <= 512 for tokens in fitting)
    assert all("the context of stories260K holds 512" in exclusion.reason for exclusion in excluded)


KINDS = {
    "byte-level": tokenizers.byte_level,
    "metaspace with bytes": tokenizers.metaspace,
    "unigram": tokenizers.unigram,
    "word pieces": tokenizers.word_piece,
    "characters": lambda corpus: tokenizers.characters(letters=string.printable),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_record_has_a_wrong_subject_and_what_is_left_out_has_its_reason(kind, real_data):
    """The tokenizers were trained on half of the texts that they read here."""
    facts = [
        example
        for name in ("counterfact", "zsre", "known_1000", "pararel")
        for example in load_examples(name, path=real_data)
    ]
    lm = tokenizers.reading(KINDS[kind]([one.prompt + one.answer for one in facts[::2]]))
    backend, left_out = lm.tokenizer.backend_tokenizer, Counter()
    for one in facts:
        try:
            span = subject_tokens(lm, one)
        except UnfitError as error:
            left_out[error.why] += 1
            continue
        ids = tokenize(lm, one).input_ids.tolist()[span.start : span.stop]
        assert "".join(backend.decode(ids).split()) == "".join(one.subject.split())
    assert len(facts) == 2730 and left_out.total() < 0.05 * len(facts)
    assert set(left_out) <= {"not spelled by the tokenizer", "no tokens of the subject"}
    if kind in ("byte-level", "metaspace with bytes"):
        assert "not spelled by the tokenizer" not in left_out


def decode(lm, ids) -> str:
    """The text of the tokens, of a tokenizer with byte fallback ("<0x0A>")."""
    content = b""
    for token in lm.tokenizer.convert_ids_to_tokens(ids.tolist()):
        if token.startswith("<0x"):
            content += bytes.fromhex(token[3:5])
        elif token != lm.tokenizer.bos_token:
            content += token.replace("▁", " ").encode()
    return content.decode()
