"""Imdb: film reviews, negative or positive (Maas et al., 2011)."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example

LABELS = ("negative", "positive")


def to_examples(record: Record) -> list[Example]:
    review = record.text("text").replace("<br />", " ")
    label = record.label("label", names=LABELS)
    return [Example(record.id, f"Review: {review}\nSentiment:", f" {label}")]


IMDB = Dataset(
    name="imdb",
    display="Imdb",
    task="language",
    fields=("text", "label"),
    to_examples=to_examples,
    split_by=("text",),
    home="https://huggingface.co/datasets/stanfordnlp/imdb",
    hub="stanfordnlp/imdb",
    revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
    config="plain_text",
    hub_files=MappingProxyType(
        {
            "train": "plain_text/train-00000-of-00001.parquet",
            "test": "plain_text/test-00000-of-00001.parquet",
        }
    ),
    paper_samples=800,
)
