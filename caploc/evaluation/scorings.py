"""The ways to score an answer, by name (ambiguities ``gsm8k-scoring`` and ``code-score``), the answer that a worked
solution ends with, and where a generated text is over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from caploc.datasets import DATASETS

MARKS = ("####", "[Tt]he (?:final )?answer is:?")
_MARKED = re.compile(f"(?:{'|'.join(MARKS)})" + r"[ \t]*(\S[^\n]*)")
_NUMBER = re.compile(r"(-?)\$?(-?)(\d[\d,]*(?:\.\d+)?|\.\d+)(?:/(\d+))?(%?)(?: [A-Za-z ]+)?")
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
LETTERS = ("A", "B", "C", "D")
LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: dataset.labels for name, dataset in DATASETS.items() if dataset.labels}
)
"""Dataset -> its labels, where the answers are labels."""
_DEFAULTS_OF_TASKS = {"program": "tokens"}


@dataclass(frozen=True)
class Scoring:
    """One way to score.

    name     what ``prepare`` calls it
    reads    ``text``: what greedy generation gives; ``labels``: the likelihood of each label; ``tokens``: the
             predictions of the reference's tokens, each after the reference tokens before it
    summary  one line for reports
    of_text  for ``text``: (generated, reference) -> score from 0 to 1
    """

    name: str
    reads: Literal["text", "labels", "tokens"]
    summary: str
    of_text: Callable[[str, str], float] = lambda generated, reference: 0.0

    @property
    def needs_labels(self) -> bool:
        return self.name in ("label", "label_text", "option")


def _same_number(generated: str, reference: str) -> float:
    return float(final_answer(generated) == final_answer(reference))


def _exact(generated: str, reference: str) -> float:
    return float(generated.strip() == reference.strip())


def _bleu(generated: str, reference: str) -> float:
    return float(_sacrebleu().sentence_bleu(generated, [reference]).score) / 100


def _chrf(generated: str, reference: str) -> float:
    return float(_sacrebleu().sentence_chrf(generated, [reference]).score) / 100


@cache
def _sacrebleu() -> Any:
    import sacrebleu

    return sacrebleu


_ENTRIES = (
    Scoring("number", "text", "the generated text's final answer is the reference's", _same_number),
    Scoring("label", "labels", "the likeliest of the labels, by the sum over its tokens, is the right one"),
    Scoring("label_text", "text", "the generated text is the label", _exact),
    Scoring("option", "labels", "the likeliest of the letters A to D is the right one"),
    Scoring(
        "tokens", "tokens", "the share of the reference's tokens that are predicted rightly, teacher forced"
    ),
    Scoring("exact", "text", "the generated text is the reference", _exact),
    Scoring("bleu", "text", "sacrebleu's sentence BLEU of the generated text, over 100", _bleu),
    Scoring("chrf", "text", "sacrebleu's sentence chrF of the generated text, over 100", _chrf),
)

SCORINGS: Mapping[str, Scoring] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> scoring."""


def default_scoring(dataset: str, answers: list[str], labelled: bool) -> str:
    """The scoring of a dataset that none was named for; ``labelled``: labels were given."""
    if labelled:
        return "label"
    if dataset == "gsm8k" and all(answer in LETTERS for answer in answers):
        return "option"  # its form "choice"
    own = DATASETS[dataset].scoring if dataset in DATASETS else None
    return own or _DEFAULTS_OF_TASKS.get(task_of(dataset), "exact")


def task_of(dataset: str) -> str:
    """The kind of a dataset's task; "own" for one that is not in the registry."""
    return DATASETS[dataset].task if dataset in DATASETS else "own"


def final_answer(text: str) -> Fraction | str | None:
    """What ``text`` gives as its answer: a number, or, after a mark, an expression that is none, as text.

    The first mark counts. Without one the whole text counts, if it is a number; otherwise there is no answer (None).
    ``1,234``, ``$ 1234``, ``1234.``, ``1234.00`` and ``1234 dollars`` are one number; ``1/2`` and ``0.5`` are one.
    """
    marked = _MARKED.search(text)
    bare = _bare(text if marked is None else marked[1])
    number = _number(bare)
    return bare if number is None and marked is not None else number


def _number(bare: str) -> Fraction | None:
    found = _NUMBER.fullmatch(bare)
    if found is None or (found[4] is not None and int(found[4]) == 0):
        return None
    size = Fraction(found[3].replace(",", "")) / int(found[4] or 1)
    return -size if found[1] or found[2] else size


def _bare(text: str) -> str:
    return re.sub(r"(?<=\$) +| +(?=%)", "", text.strip().rstrip(".").rstrip()).removesuffix("$")


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
