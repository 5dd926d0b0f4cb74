"""COUNTERFACT: facts as cloze prompts, with the true and a false target (Meng et al., 2022, ROME).

The true target is the answer: what is located is a fact the model may know.
"""

from __future__ import annotations

from types import MappingProxyType

from caploc.datasets.base import Dataset, Record
from caploc.errors import DatasetError
from caploc.examples import Example


def to_examples(record: Record) -> list[Example]:
    template = record.text("requested_rewrite", "prompt")
    if template.count("{}") != 1:
        raise DatasetError(
            f"{record.where}: field 'requested_rewrite.prompt' must hold the subject's place {{}} exactly "
            "once; correct the record"
        )
    case = record.key("case_id")
    # replace, not format: a template is data, and format would run what stands between its braces
    subject = record.text("requested_rewrite", "subject")
    prompt = template.replace("{}", subject)
    answer = f" {record.text('requested_rewrite', 'target_true', 'str')}"
    return [Example(record.named(case), prompt, answer, group=case, subject=subject)]


COUNTERFACT = Dataset(
    name="counterfact",
    display="COUNTERFACT",
    task="fact",
    fields=("case_id", "requested_rewrite"),
    to_examples=to_examples,
    split_by=("requested_rewrite", "subject"),
    home="https://rome.baulab.info/data/dsets/counterfact.json",
    hub="azhx/counterfact",
    revision="c01c413f856ee38f5c080c9fc5e87aff478e2ff9",
    hub_files=MappingProxyType(
        {
            "train": "data/train-00000-of-00001-05d11247db7abce8.parquet",
            "test": "data/test-00000-of-00001-bacb83500fca49a9.parquet",
        }
    ),
)
