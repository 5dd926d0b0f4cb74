"""Texts to classify: Emotion and Imdb."""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example

_EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
_SENTIMENTS = ("negative", "positive")


def _emotion(record: Record) -> list[Example]:
    """English tweets with one of six emotions (Saravia et al., 2018; dair-ai/emotion)."""
    label = record.label("label", names=_EMOTIONS)
    return [Example(record.id, f"Text: {record.text('text')}\nEmotion:", f" {label}")]


EMOTION = Dataset(
    name="emotion",
    display="Emotion",
    task="language",
    fields=("text", "label"),
    to_examples=_emotion,
    split_by=("text",),  # some texts occur twice, under two labels
    home="https://huggingface.co/datasets/dair-ai/emotion",
    hub="dair-ai/emotion",
    revision="cab853a1dbdf4c42c2b3ef2173804746df8825fe",
    config="split",
    hub_files=MappingProxyType(
        {"train": "split/train-00000-of-00001.parquet", "test": "split/test-00000-of-00001.parquet"}
    ),
    labels=_EMOTIONS,
    scoring="label",
    paper_samples=2400,
)


def _imdb(record: Record) -> list[Example]:
    """Film reviews, negative or positive (Maas et al., 2011)."""
    review = record.text("text").replace("<br />", " ")
    label = record.label("label", names=_SENTIMENTS)
    return [Example(record.id, f"Review: {review}\nSentiment:", f" {label}")]


IMDB = Dataset(
    name="imdb",
    display="Imdb",
    task="language",
    fields=("text", "label"),
    to_examples=_imdb,
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
    labels=_SENTIMENTS,
    scoring="label",
    paper_samples=800,
)
