"""One prompt with its answer, its tokens, and which of them are its subject.

Prompt and answer are tokenized apart and joined, so that no token straddles the border and the answer begins at a known
index.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from caploc.errors import ExampleError, ModelError, OptionError, TooLongError

# Heads to continue from, for tokenizers that put a space in front of any text; the first that stays a token
# of its own in front of the answer is taken.
CONTINUATION_HEADS = ("\n", ":", "=", "a")


class TokenizingModel(Protocol):
    """What tokenization needs of a `caploc.LanguageModel`, stated here so as not to import its module."""

    @property
    def name(self) -> str: ...

    @property
    def structure(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def max_length(self) -> int: ...


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
        for field in fields(self):
            text = getattr(self, field.name)
            if text is None and field.name in ("group", "subject"):
                continue
            if not isinstance(text, str):
                raise ExampleError(
                    f"example {self.id!r}: the {field.name} is of type {type(text).__name__}; it must be a string"
                )
            if not text.strip():
                raise ExampleError(
                    f"example {self.id!r}: the {field.name} is empty; fill it in or leave the example out"
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ExampleError(
                    f"example {self.id!r}: the {field.name} has a lone surrogate at character {error.start}, "
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
    """An example that was left out, and why."""

    id: str
    reason: str


def tokenize(lm: TokenizingModel, example: Example, answer_tokens: int | None = None) -> TokenizedExample:
    """Tokenize `example` for `lm`; keep the first `answer_tokens` tokens of the answer (None: all).

    The prompt has the tokenizer's own special tokens (a beginning-of-sequence token, if it adds one) without
    an appended end-of-sequence token. The answer has none, and reads as it would right after the prompt: a
    tokenizer that puts a space in front of any text (Llama 2 turns "x" into "▁x") adds none here.

    Raises `ExampleError` naming the example if its prompt or answer is empty, not valid Unicode or yields no
    token, or if a token has no row in the model's embedding; `TooLongError` if prompt and answer exceed
    `lm.max_length`; `OptionError` if `answer_tokens` is below 1.
    """
    if answer_tokens is not None and answer_tokens < 1:
        raise OptionError(
            f"answer_tokens must be at least 1, got {answer_tokens}; None takes the whole answer"
        )
    example.validate()
    prompt_ids = _prompt_ids(lm.tokenizer, example)
    answer_ids = _continuation_ids(lm.tokenizer, example.answer)[:answer_tokens]
    if not answer_ids:
        raise ExampleError(
            f"example {example.id!r}: the tokenizer of {lm.name} makes no token of the answer "
            f"{_short(example.answer)}; leave the example out or change its answer"
        )
    ids = prompt_ids + answer_ids
    _check_vocabulary(lm, example, ids)
    if len(ids) > lm.max_length:
        raise TooLongError(
            f"example {example.id!r}: prompt and answer have {len(ids)} tokens, the context of {lm.name} "
            f"holds {lm.max_length}; shorten it, leave it out, or use a model with a longer context"
        )
    return TokenizedExample(torch.tensor(ids, dtype=torch.long), len(prompt_ids), example.id)


def fit(
    lm: TokenizingModel,
    examples: Iterable[Example],
    answer_tokens: int | None = None,
    limit: int | None = None,
) -> tuple[list[TokenizedExample], list[Exclusion]]:
    """Tokenize `examples`, or the first `limit` that fit, before any costly work; leave out, and report, those among
    them that are longer than the context.

    Any other error of `tokenize` is raised at once. If examples were given and none of them fits,
    `TooLongError` says so, since nothing can be measured then.
    """
    fitting: list[TokenizedExample] = []
    excluded: list[Exclusion] = []
    for example in examples:
        if len(fitting) == limit:
            break
        try:
            fitting.append(tokenize(lm, example, answer_tokens))
        except TooLongError as error:
            excluded.append(Exclusion(example.id, str(error)))
    if excluded and not fitting:
        raise TooLongError(
            f"none of the {len(excluded)} examples fits into the {lm.max_length} tokens of {lm.name}; take "
            f"shorter examples or a model with a longer context (first: {excluded[0].reason})"
        )
    return fitting, excluded


def _prompt_ids(tokenizer: Any, example: Example) -> list[int]:
    plain = _encode(tokenizer, example.prompt)
    if not plain:
        raise ExampleError(
            f"example {example.id!r}: the tokenizer makes no token of the prompt {_short(example.prompt)}; "
            "leave the example out or change its prompt"
        )
    ids = _encode(tokenizer, example.prompt, special=True)
    eos = tokenizer.eos_token_id
    if eos is not None and ids[-1] == eos and plain[-1] != eos:
        ids = ids[:-1]  # the answer continues the sequence
    return ids


def _continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text` in the middle of a sequence, where no tokenizer puts a space in front of it."""
    if not _surface(tokenizer, "x").startswith(" "):
        return _encode(tokenizer, text)
    for head in CONTINUATION_HEADS:
        head_ids = _encode(tokenizer, head)
        ids = _encode(tokenizer, head + text)
        if ids[: len(head_ids)] == head_ids:
            return ids[len(head_ids) :]
    return _encode(tokenizer, text.removeprefix(" "))


def _encode(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    # not verbose: a text beyond the context is our error to raise, not the tokenizer's warning to print
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _surface(tokenizer: Any, text: str) -> str:
    tokens = tokenizer.convert_ids_to_tokens(_encode(tokenizer, text))
    return "".join(tokens).replace("▁", " ").replace("Ġ", " ")


def _check_vocabulary(lm: TokenizingModel, example: Example, ids: list[int]) -> None:
    rows = lm.structure.get_input_embeddings().num_embeddings
    if max(ids) >= rows:
        raise ExampleError(
            f"example {example.id!r}: token {max(ids)} is outside of the {rows} embeddings of {lm.name}; "
            "load the tokenizer that belongs to the model"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def subject_characters(example: Example) -> range:
    """The characters of `example.prompt` that are its subject.

    A subject that occurs several times is taken where it stands last: a sentence put in front of a prompt (ROME's
    prefixes, COUNTERFACT's paraphrases) does not move it. An occurrence that is a word of its own goes before one
    inside of another word. (ROME itself takes the first; the facts of COUNTERFACT, zsRE and known_1000 that were
    looked at name their subject once.)

    Raises `ExampleError` for an example without subject, or whose prompt does not contain it.
    """
    prompt, subject = example.prompt, example.subject
    if subject is None or not subject.strip():
        raise ExampleError(
            f"example {example.id!r} names no subject; give it one, Example(..., subject='Rome'), or take a dataset "
            "of facts"
        )
    places = [start for start in range(len(prompt)) if prompt.startswith(subject, start)]
    if not places:
        raise ExampleError(
            f"example {example.id!r}: its subject {subject!r} is not in its prompt {prompt!r}; write it as it stands "
            "there, letter for letter, or leave the example out"
        )
    words = [start for start in places if _is_word(prompt, start, start + len(subject))]
    start = (words or places)[-1]
    return range(start, start + len(subject))


def subject_tokens(lm: TokenizingModel, example: Example) -> range:
    """The tokens of `caploc.tokenize(lm, example).input_ids` that are its subject; at least one.

    A token belongs to the subject if it holds any of its characters: one that straddles the border is the
    subject's (a leading space, or a bracket merged with the name). So `span[-1]` is the last subject token.

    Raises `ExampleError` as `subject_characters` and `caploc.tokenize` do; `ModelError` for a tokenizer that does
    not tell which characters a token comes from.
    """
    characters = subject_characters(example)
    if not lm.tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {lm.name} does not tell which characters a token comes from, so no subject can be "
            "found; put the model's tokenizer.json into its folder"
        )
    prompt_ids = tokenize(lm, example, answer_tokens=1).prompt_ids
    encoded = lm.tokenizer(
        example.prompt, add_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    inside = [
        index
        for index, (start, stop) in enumerate(encoded["offset_mapping"][: len(prompt_ids)])
        if start < characters.stop and stop > characters.start
    ]
    if not inside:
        raise ExampleError(
            f"example {example.id!r}: the tokenizer of {lm.name} makes no token of its subject {example.subject!r}; "
            "leave the example out"
        )
    return range(inside[0], inside[-1] + 1)


def with_subject(lm: TokenizingModel, examples: Iterable[Example]) -> tuple[list[Example], list[Exclusion]]:
    """The `examples` whose subject is found, and the others with the reason; a `ModelError` is raised at once."""
    found: list[Example] = []
    excluded: list[Exclusion] = []
    for example in examples:
        try:
            subject_tokens(lm, example)
        except ExampleError as error:
            excluded.append(Exclusion(example.id, str(error)))
        else:
            found.append(example)
    return found, excluded


def _is_word(text: str, start: int, stop: int) -> bool:
    before, after = text[start - 1 : start], text[stop : stop + 1]
    return not (before.isalnum() or after.isalnum())
