"""Facts, each in several wordings (section 3.1: "rewriting a individual knowledge prompt 5 times")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from caploc.datasets import load_examples
from caploc.datasets.base import digest
from caploc.datasets.edits import load_edits
from caploc.errors import DatasetError
from caploc.examples import Example

WITH_PARAPHRASES = ("counterfact", "zsre")
"""Datasets whose records hold the paraphrases of one prompt; in others the wordings of a fact share a group."""


@dataclass(frozen=True)
class Fact:
    """One fact in one or more ``wordings``, of which the first is what is meant by the original.

    ``cluster``: facts about one subject share it, since what is located for them may depend on the subject.
    """

    id: str
    wordings: tuple[Example, ...]

    @property
    def answer(self) -> str:
        return self.wordings[0].answer

    @property
    def cluster(self) -> str:
        return self.wordings[0].subject or self.id


def load_facts(dataset: str, path: str | None, seed: int, split: str | None = "locate") -> list[Fact]:
    """All facts of ``dataset``, in a random order, those with one wording too.

    ``path`` and ``split`` are those of ``load_examples``. COUNTERFACT's and zsRE's own prompt comes first; where the
    wordings of a fact share a group, as in ParaRel, none is the original, and their order is drawn. Both orders depend
    on ``seed`` and on ids alone, so that fewer facts or wordings are the first of more.

    Raises:
        DatasetError: what ``load_examples`` raises, and a group whose examples have different answers.
    """
    examples = load_examples(dataset, path, split)
    facts = (
        _reworded(examples, dataset, path, split) if dataset in WITH_PARAPHRASES else _grouped(examples, seed)
    )
    return sorted(facts, key=lambda fact: digest(str(seed), fact.id))


def _reworded(
    examples: Sequence[Example], dataset: str, path: str | None, split: str | None
) -> Iterable[Fact]:
    paraphrases = {edit.id: edit.paraphrases for edit in load_edits(dataset, path, split)}
    for one in examples:
        others = [
            Example(f"{one.id}-paraphrase-{number}", text, one.answer, one.group, one.subject)
            for number, text in enumerate(paraphrases[one.id])
        ]
        yield Fact(one.id, (one, *others))


def _grouped(examples: Sequence[Example], seed: int) -> Iterable[Fact]:
    def name(example: Example) -> str:
        return example.group if example.group is not None else example.id

    for group, members in groupby(sorted(examples, key=name), key=name):
        wordings = sorted(members, key=lambda example: digest(str(seed), example.id))
        answers = sorted({example.answer for example in wordings})
        if len(answers) > 1:
            raise DatasetError(
                f"group {group!r} has the answers {', '.join(map(repr, answers[:3]))}: the wordings of one fact have "
                "one answer; give each fact a group of its own"
            )
        yield Fact(group, tuple(wordings))
