"""The final answer of a worked solution, and whether two are the same, as a careful person would say."""

# ruff: noqa: RUF001

from __future__ import annotations

import json
import re
import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from caploc.evaluation.generating import Ends
from caploc.evaluation.numbers import final_answer, same_answer
from caploc.tests.tiny import SHARED

SAME = {
    "5": r"""
        #### 5
        ####5
        ##### 5
        #### 5.
        #### 5.0
        #### 5.00
        #### 05
        #### +5
        #### 5!
        #### 5, so she wins
        #### 5; that is all
        #### 5: a handful
        #### 5. So she wins
        #### 5 (five)
        #### (5)
        #### [5]
        #### "5"
        #### 5 apples
        #### 5 red apples.
        #### 5apples
        #### 5kg
        #### 5 km/h
        #### 5 per hour
        #### 5/hour
        #### 5 / day
        #### 5 m
        #### 5m
        #### 5 °C
        #### 5°
        #### 5th
        #### 5 p.m.
        #### 5pm
        #### 5-year plan
        #### 5 - she wins
        #### 5 – she wins
        #### 5—she wins
        #### 5 of the 10 apples
        #### 5 out of 10
        #### 5 in 2 weeks
        #### 5 apples, not 10
        #### 5 apples, 3 red ones and 2 green ones
        #### 5 apples. 10 - 5 = 5
        #### 5. 10 - 5 = 5
        #### Five (5)
        #### -> 5
        #### → 5
        #### • 5 apples
        #### 5</s>
        #### 5 | done
        #### Rs.5/-
        #### Fr. 5
        #### 5<|endoftext|>
        #### \boxed 5
        #### $5 \\$
        #### #### 5
        ####:\n\n####\n5
        #### 5 (10 - 5 = 5)
        #### 5 = 10 - 5
        #### 10 - 5 = 5
        #### 10/2=5
        #### x = 5
        #### x=5 apples
        #### She has 5 apples
        #### She has 5.
        #### Answer: 5
        #### Total: $5
        #### about 5
        #### ~5
        #### ≈ 5
        #### 5个
        #### 5 元
        #### **5**
        #### **5** apples
        #### **5 apples**
        #### *5*
        #### _5_
        #### __5__
        #### `5`
        #### ***5***.
        **#### 5**
        #### <b>5</b>
        #### <answer>5</answer>
        #### $5
        #### $ 5
        #### 5$
        #### 5 $
        #### €5
        #### 5€
        #### 5 €
        #### £5
        #### ¥5
        #### ￥5
        #### ₹5
        #### ₩ 5
        #### US$5
        #### US$ 5
        #### R$5
        #### HK$ 5
        #### USD 5
        #### 5 USD
        #### EUR 5
        #### 5EUR
        #### CHF 5.00
        #### Rs. 5
        #### Rs 5
        #### kr 5
        #### 5 kr
        #### 5,-
        #### 5 dollars
        #### $5$
        #### $$5$$
        #### \(5\)
        #### \[5\]
        #### \$5
        #### \$5.00
        #### \boxed{5}
        #### $\boxed{5}$
        #### $\boxed{\text{5}}$
        #### \boxed{\$5}
        #### \boxed{5 \text{ apples}}
        #### \boxed{\boxed{5}}
        #### \fbox{5}
        #### $5\text{ cm}$
        #### 5~\text{cm}
        #### 5\,\mathrm{cm}
        #### 5^\circ
        #### 5^{\circ}
        #### \mathbf{5}
        #### \textbf{5}
        #### {5}
        #### x = \boxed{5}
        #### The result is \boxed{5} in 2 months
        #### $\frac{10}{2}$
        #### \dfrac{10}{2}
        #### 10/2
        #### ５
        #### ５．０
        #### ٥
        #### ५
        #### 5\u200b
        ####\u00a05
        #### 5\u00a0apples
        #### 5e0
        #### 50e-1
        #### 5.
        The answer is 5
        The answer is: 5
        the answer is 5.
        So the answer is $5.
        The answer is **5**.
        **The answer is:** 5
        **The answer is 5**
        The **answer** is 5
        THE ANSWER IS 5
        The final answer is: $\boxed{5}$.
        The correct answer is 5
        My answer is 5
        Answer is 5.
        The answer to this question is 5.
        So, the final answer is 5! Great.
        I hope it is correct: the answer is 5. She has 10 - 5.
        Answer: 5
        **Answer:** 5 apples
        **Final Answer**: 5
        2 + 3 is \boxed{5}, as was to be shown
        The sum is \boxed{4}? No: \boxed{5}.
        ####\n5
        ####\n\n5 apples
        #### Answer\n5
        #### Final answer:\n\n$$\boxed{5}$$
        #### Step 1: add 2\n2 + 3 = 5\n#### 5
        #### Solution\nThe answer is 5
        The answer is:\n**5**
        #### 5\n#### 6
        #### 5\nThe answer is 6
        #### 5 #### 6
        5
        5 apples
        $5.
        \boxed{5}
    """,
    "-5": r"""
        #### -5
        #### −5
        #### –5
        #### ‑5
        #### －5
        #### - 5
        #### −$5
        #### -$5.00
        #### $-5
        #### $−5
        #### −€5
        #### € -5
        #### -5 degrees
        #### −5 °C
        #### minus 5
        #### negative 5
        #### \boxed{-5}
        #### $-\boxed{5}$
        #### $-5$
        #### $-\frac{10}{2}$
        #### \frac{-10}{2}
        #### \frac{10}{-2}
        #### x = -5
        #### USD -5
    """,
    "1234": r"""
        #### 1,234
        #### 1 234
        #### 1\u00a0234
        #### 1\u202f234
        #### 1\u2009234
        #### 1'234
        #### 1’234
        #### 1_234
        #### $1,234
        #### 1{,}234
        #### 1\,234
        #### 1,\!234
        #### 1,234.00
        #### 1.234,00
        #### 1 234,00
        #### 1'234.00
        #### １，２３４
        #### 1.234e3
        #### 1.234 * 10^3
        #### 1.234 x 10^3
        #### 1.234 × 10³
        #### $1.234 \times 10^{3}$
        #### 1.234 \cdot 10^3
        #### 1.234E+3
        #### 1.234k
        #### (1,234)
        #### 1,234, in all
        #### 1,234. In all
        #### 1 234 apples
    """,
    "1234567.5": r"""
        #### 1,234,567.50
        #### 1.234.567,50
        #### 1 234 567,5
        #### 1'234'567.5
        #### 12,34,567.5
        #### ₹12,34,567.50
        #### $1,234,567 1/2
        #### 1.2345675 million
        #### 1.2345675e6
    """,
    "1234567": r"""
        #### 1.234.567
        #### 12,34,567
        #### 1 234 567 €
    """,
    "2000000": r"""
        #### 2 million
        #### 2e6
        #### 2*10^6
        #### 2 × 10⁶
        #### $2 million
        #### 20 lakh
        #### 2000 thousand
        #### $2M
        #### 0.002bn
    """,
    "1000000": "#### 10^6\n#### 10⁶\n#### $10^{6}$\n#### 1e6\n#### 10,00,000",
    "0.001": "#### 10^{-3}\n#### 1e-3\n#### 10⁻³\n#### 1/1000\n#### .001\n#### 0,001",
    "0.5": r"""
        #### 1/2
        #### 1 / 2
        #### ½
        #### 1⁄2
        #### .5
        #### 0,5
        #### 5e-1
        #### 2/4 of the cake
        #### \frac{1}{2}
        #### \frac12
        #### $\dfrac{1}{2}$
        #### \tfrac 1 2
        #### \frac{1}{2} \text{ cup}
        #### 1/2 cup
        #### 50%
        #### 50 percent
        #### 0.5%
    """,
    "2.5": r"""
        #### 2 1/2
        #### 2½
        #### 2 ½
        #### 2 and 1/2 hours
        #### 5/2
        #### 2\frac{1}{2}
        #### $2 \frac{1}{2}$
        #### 2 and a half
        #### 2,5
        #### 2.50
        #### 250%
        #### 5/2 = 2.5
    """,
    "25%": r"""
        #### 25%
        #### 25 %
        #### 25
        #### 25\%
        #### 25 percent
        #### 25 per cent
        #### 25％
        #### 0.25
        #### 1/4
        #### \frac{1}{4}
        #### 25% of them
        #### \boxed{25\%}
    """,
    "1/3": "#### 1/3\n#### ⅓\n#### 2/6\n#### \\frac{1}{3}\n#### 1/3 ≈ 0.33",
    "0": "#### 0\n#### 0.00\n#### $0\n#### -0\n#### 0 apples",
    "2x+1": "#### 2x+1\n#### 2x + 1\n#### $2x+1$\n#### \\boxed{2x+1}\n#### 2x+1.\n#### 2x+1. So y",
    r"3\sqrt{2}": "#### 3\\sqrt{2}\n#### $3\\sqrt{2}$\n#### $\\boxed{3 \\sqrt{2}}$",
    "1, 2, 3": "#### 1,2,3\n#### 1, 2, 3\n#### $1, 2, 3$",
    "5:30": "#### 5:30\n#### 5:30.",
}
OTHER = {
    "5": r"""
        #### 6
        #### -5
        #### 55
        #### 5.5
        #### 0.5
        #### 5x
        #### 5 x
        #### 5xy
        #### 5π
        #### 5\pi
        #### 5\sqrt{2}
        #### 5√2
        #### 5+3
        #### 5 + x
        #### 5-3
        #### 5 - x
        #### 5–10
        #### 5 to 10
        #### 5 or 6
        #### 5 and 6
        #### 5 apples or 6
        #### 5 apples and 6 pears
        #### 5, 6
        #### 5; 6
        #### 5 6
        #### 5 hours 30 minutes
        #### 5 ft 10 in
        #### 5'10
        #### 5:30
        #### 5 : 3
        #### 5/2/2020
        #### 5^2
        #### 5²
        #### 5 million
        #### 5k
        #### 5M
        #### $5B
        #### 5 hours, 30 minutes
        #### 5 lbs. 3 oz
        #### x is 5 + y
        #### 5e1
        #### 5 * 3
        #### 5 × 3
        #### 5(x+1)
        #### 5 > 3
        #### >5
        #### x > 5
        #### x >= 5
        #### 5+
        #### ±5
        #### 5 ± 1
        #### 5_8
        #### (5, 6)
        #### 5...10
        #### five
        #### not 5
        #### Step 5
        #### She has 5x
        #### She has 5 or more, 6
        #### B5
        #### x5
        #### 5 + 3 = 8
        #### of 10 there are 5
        #### 6 (not 5)
        #### 6, which is 5 + 1
        #### $\boxed{6}$, not 5
        ####
        There are 5 apples
        10 - 5 = 5
        2 + 3\n5
        \n
    """,
    "12": "#### 1,2\n#### 1, 2\n#### 1.2\n#### 1 2\n#### 12_8\n#### (1,2)",
    "123": "#### 1,2,3\n#### 1 2 3\n#### 1.2.3\n#### 12,3\n#### 123,45",
    "1234": "#### 1.234\n#### 12,34\n#### 1,2,34\n#### 1,234,5\n#### 1,234.5\n#### 1.23,4",
    "1": "#### 100%\n#### 1/0\n#### 10%\n#### 0,001",
    "25%": "#### 2500%\n#### 2.5\n#### 0.25%\n#### 1/25",
    "0.5": "#### 5\n#### 1/3\n#### 1:2\n#### \\frac{x}{2}\n#### \\frac{1}{2x}\n#### 1/2x\n#### 1/2/3",
    "2x+1": "#### 2x\n#### 2\n#### 2x+1+1\n#### 2x-1",
    "1, 2, 3": "#### 1, 2\n#### 123",
}


def pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    """(answer, reference); ``\\n`` and ``\\u`` are written out, for an answer is a line of the table."""
    return [
        (
            re.sub(r"\\n(?![a-z])|\\u[0-9a-f]{4}", lambda found: json.loads(f'"{found[0]}"'), line.strip()),
            reference,
        )
        for reference, answers in table.items()
        for line in answers.strip().splitlines()
    ]


def test_the_tables_are_long_enough() -> None:
    assert len(pairs(SAME)) + len(pairs(OTHER)) >= 200


@pytest.mark.parametrize(("answer", "reference"), pairs(SAME))
def test_a_person_would_say_right(answer: str, reference: str) -> None:
    assert same_answer(f" 2+3=5\n{answer}" if answer.startswith("####") else answer, f"So\n#### {reference}")


@pytest.mark.parametrize(("answer", "reference"), pairs(OTHER))
def test_a_person_would_say_wrong(answer: str, reference: str) -> None:
    assert not same_answer(answer, f"So\n#### {reference}")


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
        ("The answer is: \\frac{1}{2}", Fraction(1, 2)),
        ("The answer is: \\frac{x}{2}", "x/2"),
        ("The answer is: \\frac{x+1}{2}", "(x+1)/2"),
        ("The answer is: 2x+1.", "2x+1"),
        ("#### 1/0", "1/0"),
        ("There are 24 coins", None),
        ("####", None),
        ("#### \n24", Fraction(24)),
        ("", None),
    ],
)
def test_other_answers(text: str, value: Fraction | str | None) -> None:
    assert final_answer(text) == value


@given(st.integers(-(10**9), 10**9), st.text("abc ,.$0123456789\n", max_size=20))
def test_a_number_behind_the_mark_is_read_whatever_comes_before(number: int, before: str) -> None:
    assert final_answer(f"{before}\n#### {number:,}") == number


PIECES = [
    *'09-(){}\\*a \n½²−€٣=$_%["',
    *(
        "1,",
        "1 ",
        "1.",
        "1'",
        "1,000",
        "1/",
        "1~",
        "10^",
        "e9",
        "a ",
        "x = ",
        "1 and ",
        "million ",
        "\ufdfa",
        "\u202f",
    ),
    *("####", "#### ", "the ", "answer ", "answer: ", "\\boxed{", "\\text{", "\\frac{1}{", "<a"),
]


@given(
    st.lists(st.sampled_from([*PIECES, "1", "5", "apples "]), max_size=30).map("".join)
    | st.text(max_size=20),
    st.sampled_from(["", "#### ", "The answer is: ", "\\boxed{"]),
)
@example("1e999999999", "#### ")
@example("10^999999999", "#### ")
@example("1/" + "0" * 5000, "#### ")
def test_any_text_has_an_answer_or_none_and_is_its_own_equal(text: str, mark: str) -> None:
    answer = final_answer(mark + text)
    assert same_answer(mark + text, mark + text) == (answer is not None)
    assert answer != ""


@pytest.mark.parametrize("mark", ["", "#### ", "The answer is: ", "\\boxed{"])
def test_no_text_takes_long(mark: str) -> None:
    """20,000 characters, more than any text that is written: the best of three, since other processes may interrupt."""

    def seconds(text: str) -> float:
        begin = time.process_time()
        final_answer(text)
        return time.process_time() - begin

    for piece in PIECES:
        text = mark + piece * (20_000 // len(piece))
        assert min(seconds(text + end) for end in ("", "7", " 7 apples")) < 0.02, piece


def test_recorded_verdicts_of_real_solutions() -> None:
    """Four models' solutions of GSM8K's test problems, each with its verdict (github.com/openai/grade-school-math)."""
    path = SHARED / "data" / "example_model_solutions.jsonl"
    if not path.is_file():
        pytest.skip(
            f"no real solutions: put grade_school_math/data/{path.name} of openai/grade-school-math at {path}"
        )
    judged = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        reference = record.pop("ground_truth").replace("\nA: ", "\n#### ")
        for solved in (value for value in record.values() if isinstance(value, dict)):
            solution = solved["solution"].replace("\nA: ", "\n#### ")
            assert same_answer(solution, reference) == solved["is_correct"], solution
            judged += 1
    assert judged == 5276


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
