"""A dataset of the user's own: records with `prompt` and `answer`, and, where useful, `id`, `group` and `subject`.

Both texts are taken as they are: an answer that follows a word carries its own leading space, " Paris".
"""

from __future__ import annotations

import re

from caploc.datasets.base import Dataset, Record
from caploc.errors import OptionError
from caploc.examples import Example

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def to_examples(record: Record) -> list[Example]:
    example_id = record.named(record.key("id")) if record.has("id") else record.id
    group = record.key("group") if record.has("group") else None
    subject = record.text("subject") if record.has("subject") else None
    return [Example(example_id, record.text("prompt"), record.text("answer"), group, subject)]


def own_dataset(name: str) -> Dataset:
    """A dataset that is not in the registry. Raises `OptionError` for a name unfit for test ids."""
    if not NAME.fullmatch(name):
        raise OptionError(
            f"dataset name {name!r} may hold only ASCII letters, digits, '_', '-' and '.'; rename it, as in "
            "mytask=FILE.jsonl"
        )
    return Dataset(
        name=name,
        display=name,
        task="own",
        fields=("prompt", "answer"),
        to_examples=to_examples,
        split_by=("group",),
    )
