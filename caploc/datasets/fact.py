"""Facts: COUNTERFACT, zsRE, ParaRel and known_1000."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from caploc.datasets.base import Dataset, Record, Row, read_json_lines
from caploc.errors import DatasetError
from caploc.examples import Example

_SUBJECT, _OBJECT = "[X]", "[Y]"
_FACTS, _PATTERNS = "trex_lms_vocab", "graphs_json"
_RELATIVE_HOMES = (".", "pattern_data")  # beside the facts, or one deeper as in the authors' repository


def _counterfact(record: Record) -> list[Example]:
    """Facts as cloze prompts, with the true and a false target (Meng et al., 2022, ROME).

    The true target is the answer: what is located is a fact the model may know.
    """
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
    to_examples=_counterfact,
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


def _zsre(record: Record) -> list[Example]:
    """Relation extraction as questions (Levy et al., 2017), in the records of MEND and ROME.

    `answers` holds the true answers; the first is taken. `pred` is a model's guess, `alt` an edit's target.
    """
    answer = f" {record.texts('answers')[0]}"
    subject = record.text("subject")
    return [Example(record.id, record.text("src"), answer, group=subject, subject=subject)]


ZSRE = Dataset(
    name="zsre",
    display="zsRE",
    task="fact",
    fields=("subject", "src", "answers"),
    to_examples=_zsre,
    split_by=("subject",),
    home="https://rome.baulab.info/data/dsets/ (zsre_mend_train.json, zsre_mend_eval.json)",
    hub="wangzn2001/Model_Editing_Hurt",
    revision=None,
    hub_files=MappingProxyType(
        {"train": "training-data/zsre_mend_train.json", "test": "training-data/zsre_mend_eval.json"}
    ),
)


def _known_1000(record: Record) -> list[Example]:
    """1,209 facts that GPT-2 XL completes correctly (Meng et al., 2022, ROME), for causal tracing."""
    known = record.key("known_id")
    answer = f" {record.text('attribute')}"
    subject = record.text("subject") if record.has("subject") else None
    return [Example(record.named(known), record.text("prompt"), answer, group=known, subject=subject)]


KNOWN_1000 = Dataset(
    name="known_1000",
    display="known_1000",
    task="fact",
    fields=("known_id", "prompt", "attribute"),
    to_examples=_known_1000,
    split_by=("subject",),
    home="https://rome.baulab.info/data/dsets/known_1000.json",
)


def _pararel(record: Record) -> list[Example]:
    """One fact under several paraphrased patterns (Elazar et al., 2021).

    The original layout is two folders, `graphs_json/P19.jsonl` with the patterns of a relation and
    `trex_lms_vocab/P19.jsonl` with its facts. Only relations in both are read. A single `pararel.jsonl` has one
    fact a line, with its `relation` and its `patterns` beside the original fields.

    A causal model can fill [Y] only at the end, so only patterns with nothing but punctuation after [Y] are used.
    All paraphrases of a fact share one group.
    """
    group = f"{record.key('relation')}:{record.key('uuid')}"
    subject, answer = record.text("sub_label"), f" {record.text('obj_label')}"
    return [
        Example(
            record.named(f"{group}:{number}"),
            prompt.replace(_SUBJECT, subject),
            answer,
            group,
            subject=subject,
        )
        for number, prompt in enumerate(map(_before_object, record.texts("patterns")))
        if prompt is not None
    ]


def _before_object(pattern: str) -> str | None:
    """The pattern's text before [Y], or None if [Y] does not end it or [X] does not stand before it."""
    before, object_mark, after = pattern.partition(_OBJECT)
    ends = bool(object_mark) and not any(character.isalnum() for character in after)
    return before.rstrip() if ends and before.count(_SUBJECT) == 1 else None


def _read_pararel(folder: Path) -> Iterator[Row] | None:
    """The facts below `folder`, each with its relation's patterns; None if laid out otherwise."""
    for home in _RELATIVE_HOMES:
        facts, patterns = folder / _FACTS, folder / home / _PATTERNS
        if facts.is_dir() and patterns.is_dir():
            return _read_facts(facts, patterns)
    return None


def _read_facts(facts: Path, patterns: Path) -> Iterator[Row]:
    relations = sorted(
        {path.name for path in facts.glob("*.jsonl")} & {path.name for path in patterns.glob("*.jsonl")}
    )
    if not relations:
        raise DatasetError(
            f"{facts.parent}: no relation has both {_PATTERNS}/P*.jsonl and {_FACTS}/P*.jsonl; "
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
    to_examples=_pararel,
    split_by=("sub_label",),
    home=f"https://github.com/yanaiela/pararel (folders {_FACTS} and {_PATTERNS} of its data)",
    read_folder=_read_pararel,
)
