"""MBPP: basic Python problems written by people (Austin et al., 2021); not in the paper."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    return [Example(record.id, f"{record.text('text')}\nCode:", f"\n{record.text('code')}")]


MBPP = Dataset(
    name="mbpp",
    display="MBPP",
    task="program",
    fields=("text", "code"),
    to_examples=to_examples,
    split_by=("text",),
    home="https://github.com/google-research/google-research/tree/master/mbpp (mbpp.jsonl)",
    hub="google-research-datasets/mbpp",
    revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    config="full",
    hub_files=MappingProxyType(
        {"train": "full/train-00000-of-00001.parquet", "test": "full/test-00000-of-00001.parquet"}
    ),
)
