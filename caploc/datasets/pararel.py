"""ParaRel: one fact under several paraphrased patterns (Elazar et al., 2021).

The original layout is two folders, `graphs_json/P19.jsonl` with the patterns of a relation and
`trex_lms_vocab/P19.jsonl` with its facts. Only relations in both are read. A single `pararel.jsonl` has one
fact a line, with its `relation` and its `patterns` beside the original fields.

A causal model can fill [Y] only at the end, so only patterns with nothing but punctuation after [Y] are used.
All paraphrases of a fact share one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from caploc.datasets.base import Dataset, Record, Row
from caploc.datasets.files import read_json_lines
from caploc.errors import DatasetError
from caploc.examples import Example

SUBJECT, OBJECT = "[X]", "[Y]"
FACTS, PATTERNS = "trex_lms_vocab", "graphs_json"
RELATIVE_HOMES = (".", "pattern_data")  # beside the facts, or one deeper as in the authors' repository


def to_examples(record: Record) -> list[Example]:
    group = f"{record.key('relation')}:{record.key('uuid')}"
    subject, answer = record.text("sub_label"), f" {record.text('obj_label')}"
    return [
        Example(
            record.named(f"{group}:{number}"),
            prompt.replace(SUBJECT, subject),
            answer,
            group,
            subject=subject,
        )
        for number, prompt in enumerate(map(_before_object, record.texts("patterns")))
        if prompt is not None
    ]


def _before_object(pattern: str) -> str | None:
    """The pattern's text before [Y], or None if [Y] does not end it or [X] does not stand before it."""
    before, object_mark, after = pattern.partition(OBJECT)
    ends = bool(object_mark) and not any(character.isalnum() for character in after)
    return before.rstrip() if ends and before.count(SUBJECT) == 1 else None


def read_folder(folder: Path) -> Iterator[Row] | None:
    """The facts below `folder`, each with its relation's patterns; None if laid out otherwise."""
    for home in RELATIVE_HOMES:
        facts, patterns = folder / FACTS, folder / home / PATTERNS
        if facts.is_dir() and patterns.is_dir():
            return _read_facts(facts, patterns)
    return None


def _read_facts(facts: Path, patterns: Path) -> Iterator[Row]:
    relations = sorted(
        {path.name for path in facts.glob("*.jsonl")} & {path.name for path in patterns.glob("*.jsonl")}
    )
    if not relations:
        raise DatasetError(
            f"{facts.parent}: no relation has both {PATTERNS}/P*.jsonl and {FACTS}/P*.jsonl; "
            "copy both folders there"
        )
    for name in relations:
        relation = Path(name).stem
        templates = [
            Record(row, where, relation, 0).text("pattern") for where, row in read_json_lines(patterns / name)
        ]
        for where, row in read_json_lines(facts / name):
            yield where, {**row, "relation": relation, "patterns": templates}


PARAREL = Dataset(
    name="pararel",
    display="ParaRel",
    task="fact",
    fields=("relation", "uuid", "sub_label", "obj_label", "patterns"),
    to_examples=to_examples,
    split_by=("sub_label",),
    home=f"https://github.com/yanaiela/pararel (folders {FACTS} and {PATTERNS} of its data)",
    read_folder=read_folder,
)
