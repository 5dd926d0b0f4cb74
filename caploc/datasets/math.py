"""Word problems and sums: GSM8K and its forms, MetaMathQA, and the decoupling pairs of section 4.1."""

from __future__ import annotations

import re
from types import MappingProxyType

from caploc.datasets.base import Dataset, Record, digest
from caploc.errors import DatasetError
from caploc.examples import Example

LETTERS = "ABCD"
_CALCULATOR_MARK = re.compile(r"<<.*?>>")
_FINAL = re.compile(r"####\s*(\S[^\n]*?)\s*\Z")


def _gsm8k(record: Record) -> list[Example]:
    """Grade-school word problems with worked answers that end in `#### N` (Cobbe et al., 2021)."""
    answer = _CALCULATOR_MARK.sub("", record.text("answer"))
    return [Example(record.id, f"Question: {record.text('question')}\nAnswer:", f" {answer}")]


def to_multiple_choice(record: Record) -> list[Example]:
    """GSM8K as multiple choice, which section 5.2 says it needs: the final number and three distractors as A to D.

        Question: Tina buys 9 pears every day for 8 days. How many pears does Tina buy?
        A) 72
        B) 32
        C) 52
        D) 82
        Answer: A

    The four numbers differ in one digit, so none of them stands out as the odd or the middle one. Digit, distractors
    and their order follow from a hash of the record's id; each four neighbouring records have the four letters, in an
    order that their place decides. Nothing depends on a process, a seed or the number of examples asked for. The
    example has the id of the free form's.

    Raises:
        DatasetError: an answer that does not end in `#### N`.
    """
    final = _FINAL.search(record.text("answer"))
    if final is None or not re.search(r"\d", final[1]):
        raise DatasetError(
            f"{record.where}: field 'answer' does not end in '#### N', so there is no number to choose; add it, or "
            "use the form 'free'"
        )
    letter = _letter(record)
    options = distractors(final[1], record.id)
    options.insert(LETTERS.index(letter), final[1])
    lines = [f"{name}) {option}" for name, option in zip(LETTERS, options, strict=True)]
    prompt = "\n".join([f"Question: {record.text('question')}", *lines, "Answer:"])
    return [Example(record.id, prompt, f" {letter}")]


def distractors(number: str, key: str) -> list[str]:
    """Three texts that differ from ``number``, and from each other, in one digit: never a trailing zero's, so that
    round numbers stay round, and never a zero in front of other digits. ``key`` decides which.
    """
    whole = re.sub(r"\D", "", number)
    first = re.search(r"\d", number)
    assert first is not None  # checked by the caller
    digits = [place for place, character in enumerate(number) if character.isdecimal()]
    significant = digits[: len(whole.rstrip("0"))] or digits[:1]
    place = min(significant, key=lambda place: digest(key, "place", str(place)))
    leading = place == first.start() and re.match(r"[\d,]*\d", number[place + 1 :]) is not None
    candidates = [
        digit for digit in "0123456789" if digit != number[place] and not (leading and digit == "0")
    ]
    chosen = sorted(candidates, key=lambda digit: digest(key, "digit", digit))[: len(LETTERS) - 1]
    return [number[:place] + digit + number[place + 1 :] for digit in chosen]


def _letter(record: Record) -> str:
    block = str(record.index // len(LETTERS))
    order = sorted(LETTERS, key=lambda letter: digest(record.stem, block, letter))
    return order[record.index % len(LETTERS)]


GSM8K = Dataset(
    name="gsm8k",
    display="GSM8K",
    task="math",
    fields=("question", "answer"),
    to_examples=_gsm8k,
    split_by=("question",),
    home="https://github.com/openai/grade-school-math (grade_school_math/data/train.jsonl, test.jsonl)",
    hub="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    config="main",
    hub_files=MappingProxyType(
        {"train": "main/train-00000-of-00001.parquet", "test": "main/test-00000-of-00001.parquet"}
    ),
    paper_samples=1600,
    scoring="number",
    forms=MappingProxyType({"choice": to_multiple_choice}),
)


def _meta_math(record: Record) -> list[Example]:
    """GSM8K and MATH problems, rephrased and augmented (Yu et al., 2023); the paper's Meta_Math."""
    return [Example(record.id, f"Question: {record.text('query')}\nAnswer:", f" {record.text('response')}")]


META_MATH = Dataset(
    name="meta_math",
    display="Meta_Math",
    task="math",
    fields=("query", "response"),
    to_examples=_meta_math,
    split_by=("original_question",),  # many records rephrase one and the same question
    home="https://huggingface.co/datasets/meta-math/MetaMathQA (MetaMathQA-395K.json)",
    hub="meta-math/MetaMathQA",
    revision="aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18",
    split_names=("train",),
    hub_files=MappingProxyType({"train": "MetaMathQA-395K.json"}),
    scoring="number",
    paper_samples=700,
)


def _backward(record: Record) -> list[Example]:
    """GSM8K test questions, asked from the answer to an unknown x (Yu et al., 2023); not in the paper.

    The file mixes two schemas; `question`, `answer` and `original_question` stand in both.
    """
    return [Example(record.id, f"Question: {record.text('question')}\nAnswer:", f" {record.text('answer')}")]


GSM8K_BACKWARD = Dataset(
    name="gsm8k_backward",
    display="GSM8K_Backward",
    task="math",
    fields=("question", "answer"),
    to_examples=_backward,
    split_by=("original_question",),
    home="https://github.com/meta-math/MetaMath (data/test/GSM8K_Backward.jsonl)",
    hub="meta-math/GSM8K_Backward",
    revision="9fc7a2c30fe750eec04e7ebbe767e07395b2323f",
    split_names=("test",),
    hub_files=MappingProxyType({"test": "GSM8K_Backward.jsonl"}),
    scoring="number",
)


def _decoupling(record: Record) -> list[Example]:
    """The decoupling pairs of section 4.1: one sum, asked for its result and for a program.

    The paper does not publish its 1,000 pairs; these are made after its description and ship with the project. Both
    halves of a pair share a group, so that eq. (6) can compare within and across pairs.
    """
    pair = record.key("id")
    subject = record.text("expression") if record.has("expression") else None
    return [
        Example(
            record.named(f"{pair}-{half}"),
            record.text(f"{half}_prompt"),
            record.text(f"{half}_answer"),
            group=pair,
            subject=subject,
        )
        for half in ("direct", "code")
    ]


DECOUPLING = Dataset(
    name="decoupling",
    display="Decoupling",
    task="math",
    fields=("id", "direct_prompt", "direct_answer", "code_prompt", "code_answer"),
    to_examples=_decoupling,
    split_by=("expression",),
    home="fixtures/data of this project (decoupling_train.jsonl, decoupling_test.jsonl)",
)
