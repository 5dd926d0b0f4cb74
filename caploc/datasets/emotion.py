"""Emotion: English tweets with one of six emotions (Saravia et al., 2018; dair-ai/emotion)."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")


def to_examples(record: Record) -> list[Example]:
    label = record.label("label", names=LABELS)
    return [Example(record.id, f"Text: {record.text('text')}\nEmotion:", f" {label}")]


EMOTION = Dataset(
    name="emotion",
    display="Emotion",
    task="language",
    fields=("text", "label"),
    to_examples=to_examples,
    split_by=("text",),  # some texts occur twice, under two labels
    home="https://huggingface.co/datasets/dair-ai/emotion",
    hub="dair-ai/emotion",
    revision="cab853a1dbdf4c42c2b3ef2173804746df8825fe",
    config="split",
    hub_files=MappingProxyType(
        {"train": "split/train-00000-of-00001.parquet", "test": "split/test-00000-of-00001.parquet"}
    ),
    paper_samples=2400,
)
