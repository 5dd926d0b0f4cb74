"""Code25K: short Python tasks with fenced solutions (flytech/python-codes-25k)."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    context = record.text("input", blank=True)
    line = f"{context}\n" if context else ""
    prompt = f"Instruction: {record.text('instruction')}\n{line}Code:"
    return [Example(record.id, prompt, f"\n{record.text('output')}")]


CODE25K = Dataset(
    name="code25k",
    display="Code25K",
    task="program",
    fields=("instruction", "input", "output"),
    to_examples=to_examples,
    split_by=("instruction",),
    home="https://huggingface.co/datasets/flytech/python-codes-25k (python-codes-25k.jsonl)",
    hub="flytech/python-codes-25k",
    revision="0ed98ff2a76c5d133d8c157b814189a5a17ebd20",
    split_names=("train",),
    # The repository holds all its records twice, as .json and as .jsonl; read whole, it counts each double.
    hub_files=MappingProxyType({"train": "python-codes-25k.jsonl"}),
    paper_samples=1200,
)
