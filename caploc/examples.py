"""One prompt with its answer, its tokens, and which of them are its subject.

Prompt and answer are tokenized apart and joined, so that no token straddles the border and the answer begins at a known
index.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Int
from torch import Tensor

from caploc.errors import ExampleError, OptionError, SubjectError, TooLongError, UnfitError, UnspelledError
from caploc.spelling import Speller, TokenizingModel, encode, short

# Heads to continue from, for tokenizers that put a space in front of any text; the first that stays a token
# of its own in front of the answer is taken.
CONTINUATION_HEADS = ("\n", ":", "=", "a")


@dataclass(frozen=True)
class Example:
    """A prompt, and the answer whose probability is attributed.

    id       unique within its dataset, and the same on every load
    prompt   the text before the answer
    answer   the text that follows; it carries its own leading space or newline, " joy" and not "joy"
    group    shared by examples that belong together (paraphrases of one fact, the halves of a pair); else None
    subject  what the prompt asks about, as it stands there (`caploc.examples`); None where the dataset has none
    """

    id: str
    prompt: str
    answer: str
    group: str | None = None
    subject: str | None = None

    def validate(self) -> None:
        """Raise `ExampleError` unless all fields are non-blank texts without lone surrogates; group and subject may be
        None."""
        for part in fields(self):
            text = getattr(self, part.name)
            if text is None and part.name in ("group", "subject"):
                continue
            if not isinstance(text, str):
                raise ExampleError(
                    f"example {self.id!r}: the {part.name} is of type {type(text).__name__}; it must be a string"
                )
            if not text.strip():
                raise ExampleError(
                    f"example {self.id!r}: the {part.name} is empty; fill it in or leave the example out"
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ExampleError(
                    f"example {self.id!r}: the {part.name} has a lone surrogate at character {error.start}, "
                    "which no tokenizer can read; repair the text's encoding"
                ) from None


@dataclass(frozen=True, eq=False)
class TokenizedExample:
    """`input_ids` holds prompt and answer; the answer's first token stands at index `answer_start`.

    There is always at least one token on either side: 0 < answer_start < len(input_ids).
    """

    input_ids: Int[Tensor, " tokens"]
    answer_start: int
    id: str = ""

    @property
    def num_answer_tokens(self) -> int:
        return len(self.input_ids) - self.answer_start

    @property
    def content(self) -> list[int]:
        """Where the answer starts, then all tokens: what a result on this example depends on, for keys of results."""
        return [self.answer_start, *self.input_ids.tolist()]

    @property
    def prompt_ids(self) -> Int[Tensor, " prompt_tokens"]:
        return self.input_ids[: self.answer_start]

    @property
    def answer_ids(self) -> Int[Tensor, " answer_tokens"]:
        return self.input_ids[self.answer_start :]


@dataclass(frozen=True)
class Exclusion:
    """An example that was left out, and why: in one line, and in words shared by all that are left out alike."""

    id: str
    reason: str
    why: str = field(default=TooLongError.why, compare=False)

    @classmethod
    def of(cls, example: Example, error: UnfitError) -> Exclusion:
        return cls(example.id, str(error), error.why)


def counted(excluded: Iterable[Exclusion]) -> list[tuple[int, str]]:
    """How many were left out for which reason, as findings report it."""
    return [(number, why) for why, number in Counter(one.why for one in excluded).items()]


def tokenize(lm: TokenizingModel, example: Example, answer_tokens: int | None = None) -> TokenizedExample:
    """Tokenize `example` for `lm`; keep the first `answer_tokens` tokens of the answer (None: all).

    The prompt has the special tokens that the tokenizer puts in front of a text (a beginning-of-sequence token, if it
    adds one), once, and none of those that it puts behind. The answer has none, and reads as it would right after the
    prompt: a tokenizer that puts a space in front of any text (Llama 2 turns "x" into "▁x") adds none here. Together,
    the tokens spell prompt + answer (`caploc.spelling` says what is allowed for).

    Raises `ExampleError` naming the example if its prompt or answer is empty or not valid Unicode, or if a token has no
    row in the model's embedding; `UnspelledError` if the tokens do not spell its text; `TooLongError` if prompt and
    answer exceed `lm.max_length`; `ModelError` for a tokenizer that cannot be checked; `OptionError` if
    `answer_tokens` is below 1.
    """
    if answer_tokens is not None and answer_tokens < 1:
        raise OptionError(
            f"answer_tokens must be at least 1, got {answer_tokens}; None takes the whole answer"
        )
    example.validate()
    try:
        prompt = encode(lm, example.prompt)
        answer = _continuation(lm, example.prompt, example.answer)
    except UnspelledError as error:
        raise UnspelledError(f"example {example.id!r}: {error}") from None
    for part, ids in (("prompt", prompt.ids[prompt.front :]), ("answer", answer)):
        if not ids:
            raise UnspelledError(
                f"example {example.id!r}: the tokenizer of {lm.name} makes no token of the {part} "
                f"{short(getattr(example, part))}; leave the example out or change its {part}"
            )
    speller, whole = Speller.of(lm.tokenizer), prompt.ids[prompt.front :] + answer
    if not (
        speller.spells(whole, example.prompt + example.answer)
        and speller.joins(example.prompt, example.answer)
    ):
        raise _unspelled(lm, speller, example)
    ids = prompt.ids + answer[:answer_tokens]
    check_vocabulary(lm, f"example {example.id!r}", ids)
    if len(ids) > lm.max_length:
        raise TooLongError(
            f"example {example.id!r}: prompt and answer have {len(ids)} tokens, the context of {lm.name} "
            f"holds {lm.max_length}; shorten it, leave it out, or use a model with a longer context"
        )
    return TokenizedExample(torch.tensor(ids, dtype=torch.long), len(prompt.ids), example.id)


def fit(
    lm: TokenizingModel,
    examples: Iterable[Example],
    answer_tokens: int | None = None,
    limit: int | None = None,
) -> tuple[list[TokenizedExample], list[Exclusion]]:
    """Tokenize `examples`, or the first `limit` that fit, before any costly work; leave out, and report, those among
    them that cannot be given to the model: longer than its context, or not spelled by its tokenizer.

    Any other error of `tokenize` is raised at once. If examples were given and none of them fits, the last one's
    kind of error says so, since nothing can be measured then.
    """
    fitting: list[TokenizedExample] = []
    excluded: list[Exclusion] = []
    kind: type[UnfitError] = UnfitError
    for example in examples:
        if len(fitting) == limit:
            break
        try:
            fitting.append(tokenize(lm, example, answer_tokens))
        except UnfitError as error:
            excluded.append(Exclusion.of(example, error))
            kind = type(error)
    if excluded and not fitting:
        raise kind(
            f"none of the {len(excluded)} examples fits into the {lm.max_length} tokens of {lm.name} and is spelled by "
            f"its tokenizer; take shorter or other examples, or another model (first: {excluded[0].reason})"
        )
    return fitting, excluded


def _continuation(lm: TokenizingModel, prompt: str, text: str) -> list[int]:
    """The tokens of `text` in the middle of a sequence, where no tokenizer puts a space in front of it."""
    speller = Speller.of(lm.tokenizer)
    if speller.reads_alone:
        return encode(lm, text, special=False).ids
    for head in (*CONTINUATION_HEADS, prompt):
        head_ids = encode(lm, head, special=False).ids
        ids = encode(lm, head + text, special=False).ids
        if head_ids and ids[: len(head_ids)] == head_ids and speller.spells(head_ids, head):
            return ids[len(head_ids) :]
    return encode(lm, text.removeprefix(" "), special=False).ids


def _unspelled(lm: TokenizingModel, speller: Speller, example: Example) -> UnspelledError:
    """Which part of an example its tokens do not spell, and what in it."""
    for part in ("prompt", "answer"):
        unknown = speller.unknown(getattr(example, part))
        if unknown:
            return UnspelledError(
                f"example {example.id!r}: the tokenizer of {lm.name} cannot spell {', '.join(map(repr, unknown[:5]))} "
                f"in the {part} {short(getattr(example, part))}; leave the example out"
            )
    return UnspelledError(
        f"example {example.id!r}: the tokens of {lm.name} for the prompt {short(example.prompt)} and the answer "
        f"{short(example.answer)} do not spell both joined; leave the example out"
    )


def check_vocabulary(lm: TokenizingModel, what: str, ids: Sequence[int]) -> None:
    """Raise `ExampleError`, which calls the text `what`, unless the model has an embedding of each of its tokens."""
    rows = lm.structure.get_input_embeddings().num_embeddings
    if max(ids, default=0) >= rows:
        raise ExampleError(
            f"{what}: token {max(ids)} is outside of the {rows} embeddings of {lm.name}; load the tokenizer that "
            "belongs to the model"
        )


def subject_characters(example: Example) -> range:
    """The characters of `example.prompt` that are its subject, without white space around it.

    It must stand there letter for letter. One that occurs several times is taken where it stands last: a sentence put
    in front of a prompt (ROME's prefixes, COUNTERFACT's paraphrases) does not move it. An occurrence that is a word of
    its own goes before one inside of another word. (ROME itself takes the first; the facts of COUNTERFACT, zsRE and
    known_1000 that were looked at name their subject once.)

    Raises `SubjectError` for an example without subject, or whose prompt does not contain it.
    """
    prompt, subject = example.prompt, (example.subject or "").strip()
    if not subject:
        raise SubjectError(
            f"example {example.id!r} names no subject; give it one, Example(..., subject='Rome'), or take a dataset "
            "of facts"
        )
    places = [start for start in range(len(prompt)) if prompt.startswith(subject, start)]
    if not places:
        raise SubjectError(
            f"example {example.id!r}: its subject {subject!r} is not in its prompt {prompt!r}; write it as it stands "
            "there, letter for letter, or leave the example out"
        )
    words = [start for start in places if _is_word(prompt, start, start + len(subject))]
    start = (words or places)[-1]
    return range(start, start + len(subject))


def subject_tokens(lm: TokenizingModel, example: Example) -> range:
    """The tokens of `caploc.tokenize(lm, example).input_ids` that are its subject; at least one.

    They spell the subject and nothing else but white space around it (" Rome"): a subject that shares a token with
    other characters ("(Ro", "me's") has no tokens of its own and is refused. `span[-1]` is the last subject token.

    Raises `SubjectError` for that and as `subject_characters` does; whatever `caploc.tokenize` does.
    """
    characters = subject_characters(example)
    tokenize(lm, example, answer_tokens=1)  # so offsets can be trusted: they count what the tokens spell
    prompt, speller = encode(lm, example.prompt), Speller.of(lm.tokenizer)
    inside = [
        index
        for index, (start, stop) in enumerate(prompt.offsets)
        if start < characters.stop and stop > characters.start
    ]
    # the space that a tokenizer puts in front of a text is said to come from its first character
    while inside and speller.is_space(prompt.ids[inside[0]]):
        del inside[0]
    subject = example.prompt[characters.start : characters.stop]
    span = prompt.ids[inside[0] : inside[-1] + 1] if inside else []
    if not speller.spells_within(span, subject):
        raise SubjectError(
            f"example {example.id!r}: its subject {subject!r} has no tokens of its own for {lm.name}, whose tokenizer "
            f"reads {speller.written(span)!r} there; leave the example out"
        )
    return range(inside[0], inside[-1] + 1)


def with_subject(lm: TokenizingModel, examples: Iterable[Example]) -> tuple[list[Example], list[Exclusion]]:
    """The `examples` whose subject is found, and the others with the reason; other errors are raised at once."""
    found: list[Example] = []
    excluded: list[Exclusion] = []
    for example in examples:
        try:
            subject_tokens(lm, example)
        except UnfitError as error:
            excluded.append(Exclusion.of(example, error))
        else:
            found.append(example)
    return found, excluded


def _is_word(text: str, start: int, stop: int) -> bool:
    around = text[start - 1 : start] + text[stop : stop + 1]
    return not any(one.isalnum() or unicodedata.category(one)[0] == "M" for one in around)
