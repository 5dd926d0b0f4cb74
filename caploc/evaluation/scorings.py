"""The ways to score an answer, by name (ambiguities ``gsm8k-scoring`` and ``code-score``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from caploc.datasets import DATASETS
from caploc.evaluation.numbers import same_answer

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
    return float(same_answer(generated, reference))


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
