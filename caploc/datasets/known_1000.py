"""known_1000: 1,209 facts that GPT-2 XL completes rightly (Meng et al., 2022, ROME), for causal tracing."""

from __future__ import annotations

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    known = record.key("known_id")
    answer = f" {record.text('attribute')}"
    subject = record.text("subject") if record.has("subject") else None
    return [Example(record.named(known), record.text("prompt"), answer, group=known, subject=subject)]


KNOWN_1000 = Dataset(
    name="known_1000",
    display="known_1000",
    task="fact",
    fields=("known_id", "prompt", "attribute"),
    to_examples=to_examples,
    split_by=("subject",),
    home="https://rome.baulab.info/data/dsets/known_1000.json",
)
