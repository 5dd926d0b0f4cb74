"""The final answer of a worked solution."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.evaluation.scorings import Ends, final_answer


@pytest.mark.parametrize(
    "text",
    [
        " 12*102=1224\n1224+10=1234\n#### 1234",
        "#### 1,234",
        "####1234.",
        "#### $1,234.00",
        "#### $ 1234",
        "#### 1234 dollars\nQuestion: 5",
        "The answer is 1234.",
        "so the answer is: 1,234.0 ",
        "The final answer is: $1234$.",
        "#### 1234\nThe answer is: 1234",
        "#### 1234\n#### 99",
        " 1234",
    ],
)
def test_forms_of_one_number(text: str) -> None:
    assert final_answer(text) == Fraction(1234)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### -5", Fraction(-5)),
        ("#### -$5.50", Fraction(-11, 2)),
        ("#### 1/2", Fraction(1, 2)),
        ("#### .5", Fraction(1, 2)),
        ("#### 25 %", Fraction(25)),
        ("The answer is: \\frac{1}{2}", "\\frac{1}{2}"),
        ("The answer is: 2x+1.", "2x+1"),
        ("#### 1/0", "1/0"),
        ("There are 24 coins", None),
        ("####", None),
        ("#### \n24", None),
        ("", None),
    ],
)
def test_other_answers(text: str, value: Fraction | str | None) -> None:
    assert final_answer(text) == value


@given(st.integers(-(10**9), 10**9), st.text("abc ,.$0123456789\n", max_size=20))
def test_a_number_behind_the_mark_is_read_whatever_comes_before(number: int, before: str) -> None:
    assert final_answer(f"{before}\n#### {number:,}") == number


def ends(scoring: str, task: str, reference: str = "x") -> Ends:
    return Ends.of(scoring, task, [reference])


@pytest.mark.parametrize(
    ("of", "text", "cut"),
    [
        (ends("number", "math"), " 6*4=24\n#### 24\nQuestion: How", " 6*4=24\n#### 24"),
        (ends("number", "math"), " The answer is: 24\n\n", " The answer is: 24"),
        (ends("number", "math"), " 24\n\nQuestion: How", " 24"),
        (ends("number", "math"), " 6*4=24\n24+1=25", None),
        (ends("number", "math", "#### 5\nThe answer is: 5"), "#### 5\nThe answer", None),
        (
            ends("number", "math", "#### 5\nThe answer is: 5"),
            "#### 5\nThe answer is: 5\n",
            "#### 5\nThe answer is: 5",
        ),
        (ends("label_text", "language"), " joy\nText: i", " joy"),
        (ends("label_text", "language"), "\n", None),
        (
            ends("tokens", "program"),
            "\n```python\nx = 1\n\ny = 2\n```\nInst",
            "\n```python\nx = 1\n\ny = 2\n```",
        ),
        (ends("exact", "fact"), " Paris\nRome", " Paris"),
        (ends("exact", "own"), " one\ntwo\n \nthree", " one\ntwo"),
        (ends("exact", "own", "one\n\ntwo"), " one\n\nthree", None),
    ],
)
def test_where_a_text_is_over(of: Ends, text: str, cut: str | None) -> None:
    assert of.cut(text) == cut
    if cut is not None:
        assert any(of.may_follow(character) for character in text[len(cut) :])
