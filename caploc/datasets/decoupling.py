"""The decoupling pairs of section 4.1: one sum, asked for its result and for a program.

The paper does not publish its 1,000 pairs; these are made after its description and ship with the project.
Both halves of a pair share a group, so that eq. (6) can compare within and across pairs.
"""

from __future__ import annotations

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    pair = record.key("id")
    subject = record.text("expression") if record.has("expression") else None
    return [
        Example(
            record.named(f"{pair}-{half}"),
            record.text(f"{half}_prompt"),
            record.text(f"{half}_answer"),
            group=pair,
            subject=subject,
        )
        for half in ("direct", "code")
    ]


DECOUPLING = Dataset(
    name="decoupling",
    display="Decoupling",
    task="math",
    fields=("id", "direct_prompt", "direct_answer", "code_prompt", "code_answer"),
    to_examples=to_examples,
    split_by=("expression",),
    home="fixtures/data of this project (decoupling_train.jsonl, decoupling_test.jsonl)",
)
