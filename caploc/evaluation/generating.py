"""Texts that a model writes: token by token from where they went astray, and where they are over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from caploc.evaluation.rows import ErasingModel, GoingRows
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel
from caploc.rows.caches import KeysValues, Slots, joined

_MARKS = ("####", "[Tt]he (?:final )?answer is:?")
_BLANK_LINE = r"\S[^\n]*(?P<end>\n[ \t]*\n)"
_OF_SCORING = {
    "number": (
        *(mark + r"[^\n]*\d[^\n]*(?P<end>\n)" for mark in _MARKS),
        r"(?P<end>\n+Question:)",
        _BLANK_LINE,
    ),
    "label_text": (r"\S[^\n]*(?P<end>\n)",),
}
_OF_TASK = {
    "program": (r"```[^`]*```[^\n]*(?P<end>\n)", r"(?P<end>\n+Instruction:)"),
    "fact": (r"\S[^\n]*(?P<end>\n)",),
}
_ELSE = (r"(?P<end>\n+Question:)", _BLANK_LINE)
_OF_ALL = "```x```\n\nQuestion:\n\nInstruction:\n"  # has each of these ends
# no end matches before a token with one of these has come
_SIGNS = ("\n", ":")
_COMPACT_BELOW = 0.75  # of the rows still writing; the others' leave the batch


@dataclass(frozen=True)
class Ends:
    """Where a generated text is over though the model goes on: it begins the next question, or leaves a blank line.

    A base model without an end-of-sequence token, or one that never learned to use it, writes on and on. An end that
    occurs in one of the dataset's own references ends nothing there: code has blank lines, MetaMath goes on behind
    ``####``.

    ``patterns`` each with a group ``end``, at whose beginning the text is cut.
    """

    patterns: tuple[re.Pattern[str], ...]

    @staticmethod
    def of(scoring: str, task: str, references: Iterable[str]) -> Ends:
        """The ends for a dataset's generated texts, less those that a reference contains."""
        known: Sequence[str] = _OF_SCORING.get(scoring) or _OF_TASK.get(task) or _ELSE
        patterns, texts = [re.compile(pattern) for pattern in known], list(references)
        return Ends(tuple(one for one in patterns if not any(one.search(text) for text in texts)))

    def may_follow(self, token_text: str) -> bool:
        """Whether a text that this token was added to is worth a look."""
        return any(sign in token_text for sign in _SIGNS)

    def cut(self, text: str) -> str | None:
        """``text`` up to its first end; None if it has none."""
        found = [match.start("end") for pattern in self.patterns if (match := pattern.search(text))]
        return text[: min(found)] if found else None


@dataclass
class Text:
    """One row's text so far.

    row      where its outcome goes: (set, item), as indices
    begins   where it begins: tokens of the prompt
    tokens   so far
    text     as written, without what ended it; None while it goes on
    ended    whether it came to an end
    """

    row: tuple[int, int]
    begins: int
    tokens: list[int]
    text: str | None = None
    ended: bool = False


class Writer:
    """Knows when a text is over: at ``ends``, a token that ends a sequence, or ``most`` tokens."""

    def __init__(self, lm: LanguageModel, ends: Ends, most: int) -> None:
        self._tokenizer, self._ends, self._most = lm.tokenizer, ends, most
        self._room = lm.max_length
        self._stops = _end_tokens(lm)
        self._pieces: dict[int, bool] = {}

    @property
    def can_end(self) -> bool:
        """Whether a text can be over before it has all the tokens it may have."""
        tokens = self._tokenizer(_OF_ALL, add_special_tokens=False)["input_ids"]
        return bool(self._stops) or self._ends.cut(self._decode(tokens)) is not None

    def most(self, begins: int) -> int:
        """Tokens that a text may have: as prepared, but never beyond the model's context."""
        return min(self._most, self._room - begins)

    def start(self, row: tuple[int, int], begins: int, tokens: list[int]) -> Text:
        """A text that begins with ``tokens``, settled if it is over with them."""
        ends = [place for place, token in enumerate(tokens) if token in self._stops]
        return self.check(Text(row, begins, tokens[: ends[0] + 1] if ends else tokens))

    def own(self, tokens: TokenizedExample) -> str:
        """What is read of a model that writes the answer token for token, and then ends."""
        answer = tokens.answer_ids.tolist()
        text = self.start((0, 0), tokens.answer_start, [*answer, *sorted(self._stops)[:1]])
        if text.text is not None:
            return text.text
        written = self._decode(answer)
        cut = self._ends.cut(written)
        return written if cut is None else cut

    def check(self, text: Text) -> Text:
        """Settle ``text`` if its last token ended it or left no room."""
        most = self.most(text.begins)
        if text.tokens[-1] in self._stops and len(text.tokens) <= most:
            text.text, text.ended = self._decode(text.tokens[:-1]), True
        elif len(text.tokens) <= most and self._may_end(text.tokens[-1]):
            text.text = self._ends.cut(self._decode(text.tokens))
            text.ended = text.text is not None
        if text.text is None and len(text.tokens) >= most:
            text.text = self._decode(text.tokens[:most])
        return text

    def _may_end(self, token: int) -> bool:
        if token not in self._pieces:
            self._pieces[token] = self._ends.may_follow(self._decode([token]))
        return self._pieces[token]

    def _decode(self, tokens: list[int]) -> str:
        decoded = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(decoded, str)
        return decoded


@dataclass
class Waiting:
    """Rows that wait to go on, until there are enough of them to be worth a step of the model.

    parts  batch by batch, texts that are not over, and their keys and values for the tokens before the last
    """

    parts: list[tuple[list[Text], KeysValues]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(states.nbytes for _, kept in self.parts for pair in kept for states in pair)

    @property
    def rows(self) -> int:
        return sum(len(texts) for texts, _ in self.parts)

    def halves(self) -> list[Waiting]:
        """Two with about half the rows each; of a single row that one."""
        parts = self.parts
        if len(parts) == 1:
            texts, kept = parts[0]
            if len(texts) == 1:
                return [self]
            cuts = [slice(None, len(texts) // 2), slice(len(texts) // 2, None)]
            parts = [(texts[cut], [(keys[cut], values[cut]) for keys, values in kept]) for cut in cuts]
        return [Waiting(parts[: len(parts) // 2]), Waiting(parts[len(parts) // 2 :])]


def write_on(
    rows: ErasingModel,
    waiting: Waiting,
    writer: Writer,
    erased: Tensor | None,
    sees: Callable[[], list[Tensor]],
    settle: Callable[[Text], None],
) -> None:
    """Write the waiting rows' texts on until all are over, then ``settle`` each; ``waiting`` is left as it was.

    Args:
        erased: ``[sets, layers, neurons]``, those of a row by its ``row[0]``.
        sees: gives for each layer ``[T, T]`` bool, as ``ErasingModel.sees`` does.
    """
    visible = sees()
    texts = [replace(text, tokens=list(text.tokens)) for some, _ in waiting.parts for text in some]
    longest = max(text.begins + writer.most(text.begins) for text in texts)
    cache, going = Slots(joined([kept for _, kept in waiting.parts], longest)), texts
    members, alive = _members(erased, going), going
    while alive:
        if len(alive) < _COMPACT_BELOW * len(going):
            at = [number for number, text in enumerate(going) if text.text is None]
            cache, going = cache.select(torch.tensor(at, device=rows.device)), alive
            members = _members(erased, going)
        tokens = torch.tensor([[text.tokens[-1]] for text in going], device=rows.device)
        # a text that is over stays where it is until it leaves the batch
        places = [[text.begins + len(text.tokens) - 1] for text in going]
        positions = torch.tensor(places, device=rows.device)
        used = 1 + max(place for (place,) in places)
        cache.at(positions, used)
        mask = Slots.masks(visible, positions, used, rows.dtype)
        logits = rows.logits(GoingRows(tokens, members, cache, mask))
        following = logits[:, -1].argmax(-1).tolist()
        for text, token in zip(going, following, strict=True):
            if text.text is None:
                text.tokens.append(token)
                writer.check(text)
        alive = [text for text in going if text.text is None]
    for text in texts:
        settle(text)


def _members(erased: Tensor | None, texts: list[Text]) -> Tensor | None:
    return None if erased is None else erased[[text.row[0] for text in texts]]


def _end_tokens(lm: LanguageModel) -> frozenset[int]:
    """The tokens that end a sequence: the tokenizer's and those that the model's own generation stops at."""
    found: set[int] = set()
    for owner in (lm.tokenizer, lm.config, lm.structure.generation_config):
        of_owner = getattr(owner, "eos_token_id", None)
        found.update([of_owner] if isinstance(of_owner, int) else of_owner or ())
    return frozenset(found)
