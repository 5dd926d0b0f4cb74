"""GSM8K as multiple choice, which section 5.2 says it needs: the final number and three distractors as A to D.

    Question: Tina buys 9 pears every day for 8 days. How many pears does Tina buy?
    A) 72
    B) 32
    C) 52
    D) 82
    Answer: A

The four numbers differ in one digit, so none of them stands out as the odd or the middle one. Digit, distractors and
their order follow from a hash of the record's id; each four neighbouring records have the four letters, in an order
that their place decides. Nothing depends on a process, a seed or the number of examples asked for.
"""

from __future__ import annotations

import re

from caploc.datasets.base import Record
from caploc.datasets.sampling import digest
from caploc.errors import DatasetError
from caploc.examples import Example

LETTERS = "ABCD"
_FINAL = re.compile(r"####\s*(\S[^\n]*?)\s*\Z")


def to_multiple_choice(record: Record) -> list[Example]:
    """One example, with the id that the free form has. Raises `DatasetError` for an answer without `#### N`."""
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
