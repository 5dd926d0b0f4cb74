"""What a tokenizer makes of a text, and whether its tokens still spell that text.

A tokenizer may leave out characters that it does not know, read whole words as one unknown token, put a space in front
of any text and special tokens around it; one and the same number then stands for another text. So what its tokens hold
is compared with the text. The rules:

- What the tokenizer's own normalizer does (lower case, Unicode forms) is how the model reads, and no loss. Nor is white
  space that its pre-tokenizer puts aside between words, as BERT's does. Everything else must be in the tokens.
- A special token that stands in a text as text ("</s>", "<pad>") is that token, as the tokenizer itself reads it.
- The special tokens that the tokenizer's template puts in front of a text stand there once: a text that begins with
  them already gets no second ones. Whatever the template puts behind a text is dropped, as texts are continued.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from tokenizers import AddedToken

from caploc.errors import ModelError, UnspelledError

_WORD = "\0"  # where a word begins or ends, for models that tell by a mark on the token


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
class Encoded:
    """The tokens of a text, and which characters each was made of; the first ``front`` are the template's."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    front: int


def encode(lm: TokenizingModel, text: str, special: bool = True) -> Encoded:
    """The tokens of ``text``, behind the template's special tokens if ``special``.

    Raises:
        ModelError: a tokenizer that does not tell which characters a token comes from.
        UnspelledError: the tokenizer's regular expressions break off on this text.
    """
    if not lm.tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {lm.name} does not tell which characters a token comes from "
            f"({type(lm.tokenizer).__name__}), so that it cannot be checked; put the model's tokenizer.json into its "
            "folder"
        )
    try:
        # not verbose: a text beyond the context is our error to raise, not the tokenizer's warning to print
        (encoding,) = lm.tokenizer(text, add_special_tokens=special, verbose=False).encodings
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust code ends in is no Exception
            raise
        raise UnspelledError(
            f"the tokenizer of {lm.name} breaks off on {short(text)} ({str(error).splitlines()[0]}); leave it out"
        ) from None
    ids, offsets = encoding.ids, encoding.offsets
    own = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
    if not own:
        return Encoded([], [], 0)
    front, stop = own[0], own[-1] + 1
    begin = front if ids[front : min(2 * front, stop)] == ids[:front] else 0
    return Encoded(ids[begin:stop], offsets[begin:stop], front - begin)


class Speller:
    """Compares tokens with the text that they were made of, in the alphabet of the tokenizer's model.

    The model is given a text after normalizing and pre-tokenizing: "Ġnot" or "▁not" for " not". Its tokens are cut from
    that, so they spell the text if, put together again, they are what the model was given.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = self._backend = tokenizer.backend_tokenizer
        self._normalizer, self._pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        self._prefix = getattr(backend.model, "continuing_subword_prefix", None) or ""
        self._suffix = getattr(backend.model, "end_of_word_suffix", None) or ""
        self._added = {
            number: token
            for number, token in backend.get_added_tokens_decoder().items()
            if not (token.special and tokenizer.split_special_tokens)  # or it is read letter by letter
        }
        codes = {backend.token_to_id(f"<0x{byte:02X}>"): bytes([byte]) for byte in range(256)}
        self._bytes = {token: byte for token, byte in codes.items() if token not in self._added}
        self.dummy = self._given("x").strip(_WORD)[:-1]
        """What is put in front of any text; in some, behind added tokens too, where it is not compared."""
        # white space, in that alphabet
        self._marks = self.dummy + "".join(map(self._given, " \n\t\r")) + _WORD
        middle = self._given("x x").removeprefix(self._given("x"))
        self.reads_alone = not self.dummy and self._given(" x") == middle
        """Whether a text is read by itself as it is in the middle of another."""
        self._spaceless = not self._prefix and not self._suffix and middle == "x"
        self._confused = "▁" if self._given("x▁x") == self._given("x x") else None

    @staticmethod
    def of(tokenizer: Any) -> Speller:
        """The speller of a tokenizer, which must not change any more."""
        if tokenizer not in _SPELLERS:
            _SPELLERS[tokenizer] = Speller(tokenizer)
        return _SPELLERS[tokenizer]

    def spells(self, ids: Sequence[int], text: str) -> bool:
        """Whether these tokens, without the template's, hold all of ``text``."""
        if self._confused and self._confused in text:
            return False  # it would be read as a space
        return self.written(ids) == self._given_beside(ids, text)

    def spells_within(self, ids: Sequence[int], text: str) -> bool:
        """The same for a part of a text, where white space around it may belong to its tokens."""
        return self.written(ids).strip(self._marks) == self._given_beside(ids, text).strip(self._marks)

    def joins(self, left: str, right: str) -> bool:
        """Whether two texts may be read apart: a tokenizer that keeps nothing of the white space between words would
        tear a word in two without a trace."""
        apart = self._spaceless and [*self._pieces(left), *self._pieces(right)]
        return not apart or apart == self._pieces(left + right)

    def is_space(self, number: int) -> bool:
        """Whether a token holds nothing but white space."""
        return not self.written([number]).strip(self._marks)

    def unknown(self, text: str) -> list[str]:
        """The words of ``text`` that the tokenizer cannot spell even alone; of those it can in part, the letters."""
        found: list[str] = []
        for word in filter(self._strange, dict.fromkeys(re.findall(r"\s|\S+", text))):
            letters = [one for one in dict.fromkeys(word) if self._strange(one)]
            found += letters if len(letters) < len(set(word)) else [word]
        return found

    def _strange(self, text: str) -> bool:
        return not self.spells(self._backend.encode(text, add_special_tokens=False).ids, text)

    def _given_beside(self, ids: Sequence[int], text: str) -> str:
        """What the model is given of ``text``, with those added tokens that are among ``ids`` as they stand there."""
        added = sorted(self._added.keys() & set(ids), key=lambda number: -len(self._added[number].content))
        if not added:
            return self._given(text)
        # the longest first, as the tokenizer finds them
        first, *rest = re.split("|".join(f"({_pattern(self._added[number])})" for number in added), text)
        made = self._given(first)
        for at in range(0, len(rest), len(added) + 1):
            (number,) = (one for one, found in zip(added, rest[at:], strict=False) if found is not None)
            made += self._added[number].content + self._given(rest[at + len(added)]).lstrip(self.dummy)
        return made

    def _given(self, text: str) -> str:
        pieces = self._pieces(text)
        if self._prefix:
            return "".join(_WORD + piece for piece in pieces)
        return "".join(piece + _WORD for piece in pieces) if self._suffix else "".join(pieces)

    def _pieces(self, text: str) -> list[str]:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if self._pre_tokenizer is None or not text:
            return [text] if text else []
        pieces, end = self._pre_tokenizer.pre_tokenize_str(text), 0
        for _, (start, stop) in pieces:
            if text[end:start].strip():
                return [text]  # more than white space was put aside, which no token holds
            end = stop
        return [text] if text[end:].strip() else [piece for piece, _ in pieces]

    def written(self, ids: Iterable[int]) -> str:
        """What these tokens hold, put together."""
        made, section, dummy = "", b"", ""
        for number in ids:
            if number in self._added:
                made += section.decode(errors="replace").lstrip(dummy) + self._added[number].content
                section, dummy = b"", self.dummy
            else:
                section += self._bytes.get(number) or self._piece(number).encode()
        return made + section.decode(errors="replace").lstrip(dummy)

    def _piece(self, number: int) -> str:
        token: str = self._backend.id_to_token(number) or ""
        if self._prefix:
            return token.removeprefix(self._prefix) if token.startswith(self._prefix) else _WORD + token
        if self._suffix:
            return token.removesuffix(self._suffix) + _WORD if token.endswith(self._suffix) else token
        return token


_SPELLERS: WeakKeyDictionary[Any, Speller] = WeakKeyDictionary()


def _pattern(token: AddedToken) -> str:
    """Where an added token is found in a text; it may take the white space around it."""
    content = re.escape(token.content)
    if token.single_word:
        content = rf"(?<!\w){content}(?!\w)"
    around = [r"\s*" if strips else "" for strips in (token.lstrip, token.rstrip)]
    return content.join(around)


def short(text: str) -> str:
    """A text as errors show it."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
