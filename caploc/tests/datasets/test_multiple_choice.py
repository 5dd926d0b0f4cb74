"""GSM8K as multiple choice: options that give nothing away, balanced letters, and the same records as in free form."""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.datasets import DATASETS, load_examples
from caploc.datasets.base import Record
from caploc.datasets.math import LETTERS, distractors, to_multiple_choice
from caploc.errors import DatasetError, OptionError
from caploc.tests.tiny import REPOSITORY

DATA = REPOSITORY / "fixtures" / "data"

numbers = st.one_of(
    st.integers(-5000, 500_000).map(str),
    st.integers(0, 9_999_999).map("{:,}".format),
    st.decimals(0, 999, places=2, allow_nan=False).map(str),
    st.integers(1, 900).map(lambda number: f"${number}00"),
)
keys = st.text("abc-0123456789", min_size=1, max_size=12)


def record_of(answer: str, index: int = 0, stem: str = "gsm8k-train") -> Record:
    return Record({"question": "How many?", "answer": answer}, "gsm8k.jsonl:1", stem, index)


def options_of(prompt: str) -> list[str]:
    return re.findall(r"^[A-D]\) (.*)$", prompt, re.MULTILINE)


@settings(deadline=None)
@given(numbers, keys)
def test_distractors_differ_in_one_digit_and_look_like_numbers(number: str, key: str) -> None:
    options = [number, *distractors(number, key)]
    assert len(set(options)) == 4 and {len(option) for option in options} == {len(number)}
    places = [place for place in range(len(number)) if len({option[place] for option in options}) > 1]
    assert len(places) == 1
    values = {float(option.replace(",", "").replace("$", "")) for option in options}
    assert len(values) == 4
    for option in options[1:]:
        assert re.match(r"[^\d]*0[\d,]*\d", option) is None or re.match(r"[^\d]*0[\d,]*\d", number)
        zeros = len(number) - len(number.rstrip("0"))
        assert option.endswith("0" * zeros) or number == "0" or "." in number


@given(numbers, keys)
@settings(deadline=None)
def test_they_depend_on_number_and_key_alone(number: str, key: str) -> None:
    assert distractors(number, key) == distractors(number, key)


def test_every_digit_and_distractor_comes_up() -> None:
    drawn = [distractors("72", f"gsm8k-train-{index:05d}") for index in range(400)]
    counts = Counter(option for options in drawn for option in options)
    assert set(counts) == {f"7{d}" for d in "013456789"} | {f"{d}2" for d in "12345689"}
    assert all(30 < count < 120 for count in counts.values())  # about 70 each
    assert {options[0][0] == "7" for options in drawn} == {True, False}, "either digit"


def test_the_example_of_the_documentation() -> None:
    (example,) = [
        example
        for example in load_examples("gsm8k", DATA, split="locate", form="choice")
        if "Tina buys 9 pears every day for 8 days" in example.prompt
    ]
    shown = "\n".join(f"    {line}" for line in f"{example.prompt}{example.answer}".splitlines())
    assert shown in (inspect.getdoc(to_multiple_choice) or "")


def test_the_answer_is_the_letter_of_the_final_number() -> None:
    free = load_examples("gsm8k", DATA, split="locate")
    choice = load_examples("gsm8k", DATA, split="locate", form="choice")
    assert [example.id for example in free] == [example.id for example in choice]
    for one, other in zip(free, choice, strict=True):
        truth = one.answer.rpartition("#### ")[2]
        options = options_of(other.prompt)
        assert options[LETTERS.index(other.answer.strip())] == truth and options.count(truth) == 1
        assert other.prompt.startswith(one.prompt.removesuffix("Answer:")) and other.prompt.endswith(
            "\nAnswer:"
        )


def test_letters_are_balanced_and_do_not_follow_the_order() -> None:
    letters = [to_multiple_choice(record_of("#### 7", index))[0].answer for index in range(400)]
    assert set(Counter(letters).values()) == {100}
    blocks = [tuple(letters[start : start + 4]) for start in range(0, 400, 4)]
    assert all(len(set(block)) == 4 for block in blocks) and len(set(blocks)) > 20


def test_the_same_records_are_taken_in_either_form() -> None:
    for split in ("locate", "evaluate", None):
        taken = [
            [example.id for example in load_examples("gsm8k", DATA, split, limit=30, seed=3, form=form)]
            for form in ("free", "choice")
        ]
        assert taken[0] == taken[1] and len(taken[0]) == 30


def test_free_is_the_default() -> None:
    assert load_examples("gsm8k", DATA, limit=9) == load_examples("gsm8k", DATA, limit=9, form="free")


@pytest.mark.parametrize("answer", ["5 eggs", "#### five", "#### 5\nOr not", "####"])
def test_an_answer_without_a_final_number(answer: str) -> None:
    expected = (
        r"^gsm8k\.jsonl:1: field 'answer' does not end in '#### N', .*; add it, or use the form 'free'$"
    )
    with pytest.raises(DatasetError, match=expected):
        to_multiple_choice(record_of(answer))


def test_a_form_that_a_dataset_does_not_have() -> None:
    with pytest.raises(OptionError, match=r"^gsm8k has no form 'essay'; choose free, choice$"):
        load_examples("gsm8k", DATA, form="essay")
    with pytest.raises(OptionError, match=r"^emotion has no form 'choice'; choose free$"):
        load_examples("emotion", DATA, form="choice")
    assert [name for name, dataset in DATASETS.items() if dataset.forms] == ["gsm8k"]
