"""GSM8K: grade-school word problems with worked answers that end in `#### N` (Cobbe et al., 2021)."""

from __future__ import annotations

import re
from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.datasets.multiple_choice import to_multiple_choice
from caploc.examples import Example

CALCULATOR_MARK = re.compile(r"<<.*?>>")


def to_examples(record: Record) -> list[Example]:
    answer = CALCULATOR_MARK.sub("", record.text("answer"))
    return [Example(record.id, f"Question: {record.text('question')}\nAnswer:", f" {answer}")]


GSM8K = Dataset(
    name="gsm8k",
    display="GSM8K",
    task="math",
    fields=("question", "answer"),
    to_examples=to_examples,
    split_by=("question",),
    home="https://github.com/openai/grade-school-math (grade_school_math/data/train.jsonl, test.jsonl)",
    hub="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    config="main",
    hub_files=MappingProxyType(
        {"train": "main/train-00000-of-00001.parquet", "test": "main/test-00000-of-00001.parquet"}
    ),
    paper_samples=1600,
    forms=MappingProxyType({"choice": to_multiple_choice}),
)
