"""MetaMathQA: GSM8K and MATH problems, rephrased and augmented (Yu et al., 2023); the paper's Meta_Math."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    return [Example(record.id, f"Question: {record.text('query')}\nAnswer:", f" {record.text('response')}")]


META_MATH = Dataset(
    name="meta_math",
    display="Meta_Math",
    task="math",
    fields=("query", "response"),
    to_examples=to_examples,
    split_by=("original_question",),  # many records rephrase one and the same question
    home="https://huggingface.co/datasets/meta-math/MetaMathQA (MetaMathQA-395K.json)",
    hub="meta-math/MetaMathQA",
    revision="aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18",
    split_names=("train",),
    hub_files=MappingProxyType({"train": "MetaMathQA-395K.json"}),
    paper_samples=700,
)
