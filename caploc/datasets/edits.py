"""Facts to be edited: what a model shall say instead, and the prompts that show whether it does so there and only
there. Read from the records of COUNTERFACT and zsRE (Meng et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

from caploc.datasets.base import Record
from caploc.datasets.loading import DATASETS, load_examples
from caploc.datasets.sources import WHOLE, open_source
from caploc.errors import DatasetError, ExampleError, UnknownNameError
from caploc.examples import Example


class Neighbour(NamedTuple):
    """A prompt that an edit must leave alone, and what is right to answer there."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class EditRequest:
    """Make the model continue ``prompt`` with ``target_new``.

    Answers carry their leading space, as in ``caploc.Example``.

    Attributes:
        id: the example's that the fact also is.
        prompt: the text before the answer; it contains ``subject``.
        target_new: what the model shall answer.
        target_true: what it answers, or should, so far; None where that is not known.
        paraphrases: further prompts that the edit shall reach.
        neighbours: prompts about something else, which it shall not reach.
        group: shared by requests that belong together, else None.

    Raises:
        ExampleError: an edit to what is true already.
    """

    id: str
    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        if self.target_new == self.target_true:
            raise ExampleError(
                f"edit {self.id!r}: the new target {self.target_new!r} is the true one; give it another"
            )

    def example(self, prefix: str = "") -> Example:
        """The prompt behind ``prefix`` with the new answer."""
        return Example(self.id, prefix + self.prompt, self.target_new, self.group, self.subject)


def load_edits(
    name: str,
    path: str | PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[EditRequest]:
    """The edits of dataset ``name``, counterfact or zsre: one for each example that ``load_examples`` gives with the
    same arguments, of the same id.

    COUNTERFACT: ``target_new`` instead of ``target_true``; ``paraphrase_prompts``; ``neighborhood_prompts``, whose
    answer is ``target_true``.

    zsRE: ``alt`` instead of the first of ``answers``, as its records mean a false answer to be taught (ROME itself
    edits to the true one); where ``alt`` is missing or true, the next record's answer that differs. ``rephrase``; and
    the unrelated question ``loc`` with a question mark, as ROME asks it, whose answer is ``loc_ans``.

    Raises:
        UnknownNameError: a dataset without edits; else what ``load_examples`` raises, and ``DatasetError`` for a field
            that is missing here or a target that is true already.
    """
    if name not in _READERS:
        raise UnknownNameError(f"dataset {name!r} holds no edits; those that do: {', '.join(_READERS)}")
    examples = load_examples(name, path, split, limit, seed)
    found: dict[str, tuple[Record, Example]] = {}
    source = open_source(DATASETS[name], path)
    for part, read in source.parts.items():
        stem = name if part == WHOLE else f"{name}-{part}"
        for index, (where, fields) in enumerate(read()):
            record = Record(fields, where, stem, index)
            (example,) = DATASETS[name].to_examples(record)
            found[example.id] = record, example
    answers = [example.answer for _, example in found.values()]
    places = {example_id: place for place, example_id in enumerate(found)}
    requests = []
    for example in examples:
        record, _ = found[example.id]
        start = places[example.id] + 1
        try:
            requests.append(_READERS[name](record, example, [*answers[start:], *answers[:start]]))
        except ExampleError as error:
            raise DatasetError(f"{record.where}: {error}") from None
    return requests


def _counterfact(record: Record, example: Example, others: Sequence[str]) -> EditRequest:
    return EditRequest(
        id=example.id,
        prompt=example.prompt,
        subject=_subject(example),
        target_new=f" {record.text('requested_rewrite', 'target_new', 'str')}",
        target_true=example.answer,
        paraphrases=tuple(record.texts("paraphrase_prompts")),
        neighbours=tuple(
            Neighbour(prompt, example.answer) for prompt in record.texts("neighborhood_prompts")
        ),
        group=example.group,
    )


def _zsre(record: Record, example: Example, others: Sequence[str]) -> EditRequest:
    own = [f" {record.text('alt', blank=True).strip()}"] if record.has("alt") else []
    false = [answer for answer in [*own, *others] if answer.strip() and answer != example.answer]
    if not false:
        raise ExampleError(f"edit {example.id!r}: no record has another answer to edit to; fill in 'alt'")
    return EditRequest(
        id=example.id,
        prompt=example.prompt,
        subject=_subject(example),
        target_new=false[0],
        target_true=example.answer,
        paraphrases=(record.text("rephrase"),),
        neighbours=(Neighbour(f"{record.text('loc')}?", f" {record.text('loc_ans')}"),),
        group=example.group,
    )


def _subject(example: Example) -> str:
    assert example.subject is not None  # both datasets' records have one
    return example.subject


_READERS: dict[str, Callable[[Record, Example, Sequence[str]], EditRequest]] = {
    "counterfact": _counterfact,
    "zsre": _zsre,
}
