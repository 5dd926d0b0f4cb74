"""A model that writes the reference token for token scores 1 by every scoring, or the item is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import PreTrainedTokenizerFast

from caploc import Example
from caploc.errors import CaplocError, UnscorableError
from caploc.evaluation import SCORINGS, Prepared, evaluate, prepare
from caploc.evaluation.evaluator import Evaluator
from caploc.evaluation.generating import Writer
from caploc.evaluation.preparing import LETTERS
from caploc.model.loading import LanguageModel, wrap
from caploc.tests.attribution.families import CONFIGS, make_model
from caploc.tests.tiny import SHAPE, tiny_lm

SPECIAL = ["<unk>", "<s>", "</s>", "[UNK]"]
CORPUS = [
    "how many apples are there? 12 - 7 + 50 = 1,234\n#### 55",
    "Rome, A B C D\n\nthe answer is: 3.5",
    "joy fear new york",
    "Question: x = 1\n\ny = 2",
]


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return made


def metaspace() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=90, special_tokens=SPECIAL))
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer, made.decoder = (
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
    )
    made.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>")
    )
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL))
    return made


def characters() -> Tokenizer:
    """Drops what it does not know."""
    letters = dict.fromkeys("".join(CORPUS))
    made = Tokenizer(models.BPE({token: number for number, token in enumerate([*SPECIAL, *letters])}, []))
    made.decoder = decoders.Fuse()
    made.add_special_tokens(SPECIAL)
    return made


KINDS: tuple[Callable[[], Tokenizer], ...] = (byte_level, metaspace, unigram, word_piece, characters)


@cache
def model_with(kind: Callable[[], Tokenizer], ends: bool) -> LanguageModel:
    """A random model, with or without an end of sequence."""
    backend = kind()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    end = {"eos_token": "</s>"} if ends else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=SPECIAL[3 if kind is word_piece else 0], bos_token="<s>", **end
    )
    config = CONFIGS["llama"](*SHAPE)
    config.vocab_size, config.eos_token_id = len(tokenizer), 2 if ends else None
    model = make_model(config, torch.float32)
    model.generation_config.eos_token_id = config.eos_token_id  # type: ignore[union-attr]
    return wrap(kind.__name__, model, tokenizer)


def perfect(lm: LanguageModel, prepared: Prepared, patch: pytest.MonkeyPatch) -> Any:
    """The scores of a model whose every prediction is the reference's next token, and then the end of sequence."""
    take = Evaluator._take

    def with_right_logits(self: Evaluator, batch: Any, sets: list[int], logits: Tensor, kept: Any) -> None:
        right = torch.where(batch.targets < 0, 2, batch.targets)
        take(self, batch, sets, 1e4 * one_hot(right, logits.shape[-1]).to(logits)[None], kept)

    with patch.context() as patched:
        patched.setattr(Evaluator, "_take", with_right_logits)
        return evaluate(lm, prepared).score


TEXTS = st.sampled_from(
    [
        *(
            " joy",
            " Rome",
            " New York",
            " new york",
            " 12 apples",
            "\nx = 1\n\ny = 2\n",
            " café",
            " 日本",
            " a  b",
            " #1",
        ),
        *(
            " 5 - 3 ,",
            " [UNK]",
            " x</s>y",
            " ﬁne",
            "joy",
            " joy\n",
            " A",
            " …",
            "\tx",
            " Question: x?",
            "\n\nQuestion:",
        ),
    ]
)
NUMBERS = st.tuples(
    st.sampled_from([" 7+5=12\n", " So many.\n", " ", "\n", " <s>"]),
    st.sampled_from(["#### ", "####", "The answer is: ", "the answer is "]),
    st.sampled_from(
        ["12", "1,234", "-5", "3.5", "$50", "25%", "½", "\uff11\uff12", "1 234", "2x+1", "1/2", "55 apples"]
    ),
).map("".join)
LABELS = st.sampled_from(
    [("joy", "fear"), ("new york", "rome"), ("A", "a"), ("日", "本"), ("ab", "abc"), ("joy", "joy 2")]
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(sorted(SCORINGS)), st.data())
def test_a_perfect_model_scores_1_or_the_item_is_left_out(
    kind: Any, scoring: str, data: st.DataObject
) -> None:
    lm, labels = model_with(kind, ends=True), None
    if SCORINGS[scoring].needs_labels:
        labels = None if scoring == "option" else data.draw(LABELS)
        one = st.sampled_from(labels or LETTERS).map(
            lambda label: data.draw(st.sampled_from([" ", "\n", ""])) + label
        )
    else:
        one = NUMBERS if scoring == "number" else TEXTS | NUMBERS
    answers = data.draw(st.lists(one, min_size=1, max_size=4))
    most = data.draw(st.sampled_from([None, 6, 30]))
    some = [Example(f"e{number}", "How many?", answer) for number, answer in enumerate(answers)]
    try:
        prepared = prepare(lm, "mine", some, scoring, labels, most)
    except CaplocError as error:
        assert "\n" not in str(error) and ";" in str(error)
        return
    with pytest.MonkeyPatch.context() as patch:
        assert (perfect(lm, prepared, patch) > 1 - 1e-6).all()
    assert sorted([*prepared.ids, *(one.id for one in prepared.excluded)]) == [one.id for one in some]
    assert all(one.id in one.reason and "\n" not in one.reason for one in prepared.excluded)


def reasons(lm: LanguageModel, dataset: str, answers: list[str], **options: Any) -> list[str]:
    some = [Example(f"e{number}", "how many?", answer) for number, answer in enumerate(answers)]
    return [one.reason for one in prepare(lm, dataset, some, **options).excluded]


def test_what_a_tokenizer_changes_is_left_out_and_said() -> None:
    pieces, letters = model_with(word_piece, True), model_with(characters, True)
    (spaced,) = reasons(pieces, "mine", [" rome", " 1,234"], scoring="exact")
    assert spaced == (
        "example 'e1': with word_piece, the tokens of its answer ' 1,234' read '1, 234', which is not right by 'exact'"
    )
    (dropped,) = reasons(letters, "gsm8k", [" #### 5", " #### 9"])
    assert "'e1'" in dropped
    assert not reasons(model_with(byte_level, True), "gsm8k", [" #### 5", " €\n#### 9"])


def test_a_tokenizer_that_can_write_no_answer_is_refused() -> None:
    with pytest.raises(
        UnscorableError, match=r"'number' does not fit word_piece.* any of the 2 answers rightly.*'# # # # 5'"
    ):
        reasons(model_with(word_piece, True), "gsm8k", [" #### 5", " #### 55"])


def test_answers_longer_than_a_text_may_be_are_left_out() -> None:
    (reason,) = reasons(tiny_lm(), "mine", [" ab", " abcde"], scoring="exact", max_new_tokens=3)
    assert "'e1': its answer has 6 tokens, a text may have 3" in reason


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_end_of_sequence_texts_end_at_a_line_break_or_not_at_all(
    kind: Callable[[], Tokenizer],
) -> None:
    """A sequence of pieces of words has no line breaks: what its model writes has no end, but a first number."""
    lm = model_with(kind, ends=False)
    answer = "\nx = 1\n\ny = 2"  # has the only end that a text of another dataset could have
    with pytest.raises(UnscorableError, match="whose texts never end"):
        reasons(lm, "mine", [answer, " Question: 5\n\nQuestion: 5"], scoring="exact")
    if kind is word_piece:
        with pytest.raises(UnscorableError, match="whose texts never end"):
            reasons(lm, "mine", [" rome"], scoring="exact")
        return
    prepared = prepare(lm, "counterfact", [Example("one", "how many?", " apples")])
    (item,), writer = prepared.all_items, Writer(lm, prepared.ends, prepared.max_new_tokens)
    more = lm.tokenizer("\n", add_special_tokens=False)["input_ids"]
    text = writer.start((0, 0), item.tokens.answer_start, [*item.tokens.answer_ids.tolist(), *more])
    assert text.ended and prepared.scoring.of_text(text.text or "", item.reference) == 1


def test_as_many_as_asked_for_are_taken_of_those_that_can_be_right() -> None:
    answers = [" New York", " Old York", " rome", " Rome", " joy", " joy"]  # the tokenizer lowers case
    examples = [Example(f"{number}", "it is:", answer) for number, answer in enumerate(answers)]
    prepared = prepare(model_with(word_piece, True), "own", examples, "exact", limit=2)
    assert prepared.ids == ["2", "4"]
    assert {one.id for one in prepared.excluded} == {"0", "1", "3"}
