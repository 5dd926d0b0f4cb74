"""GSM8K backward: GSM8K test questions, asked from the answer to an unknown x (Yu et al., 2023).

Not in the paper. The file mixes two schemas; `question`, `answer` and `original_question` stand in both.
"""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    return [Example(record.id, f"Question: {record.text('question')}\nAnswer:", f" {record.text('answer')}")]


GSM8K_BACKWARD = Dataset(
    name="gsm8k_backward",
    display="GSM8K_Backward",
    task="math",
    fields=("question", "answer"),
    to_examples=to_examples,
    split_by=("original_question",),
    home="https://github.com/meta-math/MetaMath (data/test/GSM8K_Backward.jsonl)",
    hub="meta-math/GSM8K_Backward",
    revision="9fc7a2c30fe750eec04e7ebbe767e07395b2323f",
    split_names=("test",),
    hub_files=MappingProxyType({"test": "GSM8K_Backward.jsonl"}),
)
