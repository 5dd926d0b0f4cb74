"""Where a generated text is over though the model goes on: it begins the next question, or leaves a blank line.

A base model without an end-of-sequence token, or one that never learned to use it, writes on and on. An end that occurs
in one of the dataset's own references ends nothing there: code has blank lines, MetaMath goes on behind ``####``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from caploc.evaluation.numbers import MARKS

_BLANK_LINE = r"\S[^\n]*(?P<end>\n[ \t]*\n)"
_OF_SCORING = {
    "number": (
        *(mark + r"[^\n]*\d[^\n]*(?P<end>\n)" for mark in MARKS),
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
# no end matches before a token with one of these has come
_SIGNS = ("\n", ":")


@dataclass(frozen=True)
class Ends:
    """``patterns`` each with a group ``end``, at whose beginning the text is cut."""

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
