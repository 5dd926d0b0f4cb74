"""zsRE: relation extraction as questions (Levy et al., 2017), in the records of MEND and ROME.

`answers` holds the true answers; the first is taken. `pred` is a model's guess, `alt` an edit's target.
"""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    answer = f" {record.texts('answers')[0]}"
    subject = record.text("subject")
    return [Example(record.id, record.text("src"), answer, group=subject, subject=subject)]


ZSRE = Dataset(
    name="zsre",
    display="zsRE",
    task="fact",
    fields=("subject", "src", "answers"),
    to_examples=to_examples,
    split_by=("subject",),
    home="https://rome.baulab.info/data/dsets/ (zsre_mend_train.json, zsre_mend_eval.json)",
    hub="wangzn2001/Model_Editing_Hurt",
    revision=None,
    hub_files=MappingProxyType(
        {"train": "training-data/zsre_mend_train.json", "test": "training-data/zsre_mend_eval.json"}
    ),
)
