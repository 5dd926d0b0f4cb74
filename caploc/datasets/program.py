"""Programming tasks: Code25K, and MBPP beyond the paper."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def _code25k(record: Record) -> list[Example]:
    """Short Python tasks with fenced solutions (flytech/python-codes-25k)."""
    context = record.text("input", blank=True)
    line = f"{context}\n" if context else ""
    prompt = f"Instruction: {record.text('instruction')}\n{line}Code:"
    return [Example(record.id, prompt, f"\n{record.text('output')}")]


CODE25K = Dataset(
    name="code25k",
    display="Code25K",
    task="program",
    fields=("instruction", "input", "output"),
    to_examples=_code25k,
    split_by=("instruction",),
    home="https://huggingface.co/datasets/flytech/python-codes-25k (python-codes-25k.jsonl)",
    hub="flytech/python-codes-25k",
    revision="0ed98ff2a76c5d133d8c157b814189a5a17ebd20",
    split_names=("train",),
    # The repository holds all its records twice, as .json and as .jsonl; read whole, it counts each double.
    hub_files=MappingProxyType({"train": "python-codes-25k.jsonl"}),
    paper_samples=1200,
)


def _mbpp(record: Record) -> list[Example]:
    """Basic Python problems written by people (Austin et al., 2021); not in the paper."""
    return [Example(record.id, f"{record.text('text')}\nCode:", f"\n{record.text('code')}")]


MBPP = Dataset(
    name="mbpp",
    display="MBPP",
    task="program",
    fields=("text", "code"),
    to_examples=_mbpp,
    split_by=("text",),
    home="https://github.com/google-research/google-research/tree/master/mbpp (mbpp.jsonl)",
    hub="google-research-datasets/mbpp",
    revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    config="full",
    hub_files=MappingProxyType(
        {"train": "full/train-00000-of-00001.parquet", "test": "full/test-00000-of-00001.parquet"}
    ),
)
