"""Rounds, samples, and tables of measurements as text and as JSON."""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np
import pytest

from caploc.benchmarks.measuring import Rounds, check_same, spread_over
from caploc.benchmarks.tables import Spread, Table, at_least, at_most, brief
from caploc.errors import ModelError, OptionError


def test_spread_is_the_median_and_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert str(Spread.of([213.4, 208.0, 221.0])) == "213 [208..221]"
    assert str(Spread.of([2.0])) == "2.00"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1280, "1,280"),
        (0, "0"),
        (213.4, "213"),
        (99.96, "99.96"),
        (1.5, "1.50"),
        (0.0123, "0.0123"),
        (1.2e-7, "1.2e-07"),
    ],
)
def test_numbers_are_brief(value: float, shown: str) -> None:
    assert brief(value) in (shown, "100.0")


def test_promises_are_kept_by_the_median() -> None:
    spread = Spread(150.0, 100.0, 200.0)
    assert at_least(spread, 150.0) == {"asked": ">= 150", "met": "yes"}
    assert at_least(spread, 151.0) == {"asked": ">= 151", "met": "NO"}
    assert at_most(spread, 149.0) == {"asked": "<= 149", "met": "NO"}
    assert at_most(spread, 150.0) == {"asked": "<= 150", "met": "yes"}
    assert at_least(spread, None) == at_most(None, 1.0) == {"asked": None, "met": None}


def test_text_aligns_numbers_right_and_names_left() -> None:
    table = Table("k", "Which?", notes=["said " * 40])
    table.rows += [{"name": "a", "value": 1280}, {"name": "long", "value": None}]
    lines = table.text().splitlines()
    assert lines[:6] == ["Which?", "", "  name  value", "  ----  -----", "  a     1,280", "  long      -"]
    assert lines[6].startswith("  * said") and lines[7].startswith("    said") and max(map(len, lines)) <= 118


def test_json_holds_numbers_and_null() -> None:
    table = Table("k", "Which?", [{"a": Spread(1, 0, 2), "b": float("nan")}, {"c": "some"}])
    again = json.loads(json.dumps(table.as_json(), allow_nan=False))
    assert again["rows"][0] == {"a": {"median": 1, "low": 0, "high": 2}, "b": None, "c": None}


def test_what_cannot_be_made_is_a_note() -> None:
    def refused() -> int:
        raise OptionError("no such thing")

    table = Table("k", "Which?")
    assert (table.made("one", lambda: 1), table.made("two", refused)) == (1, None)
    assert table.notes == ["two not measured: no such thing"]


def busy(seconds: float) -> str:
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass
    return f"{seconds} s"


def test_rounds_compare_what_was_timed_in_the_same_round() -> None:
    """What a way took in one round adds up, scaled; a ratio is taken in each round, not of the medians."""
    rounds = Rounds()
    for seconds in rounds.over((0.01, 0.02, 0.04), "busy"):
        work = partial(busy, seconds)
        assert rounds.time("slow", work, scale=6) == f"{seconds} s"
        rounds.time("fast", work, scale=0.5)
        rounds.time("fast", work, scale=0.5)
    ratio, fast = rounds.ratio("slow", "fast"), rounds.seconds("fast")
    assert (
        ratio is not None
        and ratio.low <= ratio.median <= ratio.high
        and ratio.median == pytest.approx(6, rel=0.2)
    )
    assert fast is not None and fast.median == pytest.approx(0.02, rel=0.2) and fast.high >= 0.04
    assert rounds.seconds("other") is None and rounds.ratio("other", "fast") is None


@pytest.mark.parametrize("error", [2e-5, float("nan")])
def test_times_of_different_results_are_not_compared(error: float) -> None:
    check_same(1e-5, 1e-5, "a and b", "of the largest", "nowhere")
    with pytest.raises(
        ModelError, match=r"a and b differ by .* of the largest \(rounding is below 1e-05\), so their"
    ):
        check_same(error, 1e-5, "a and b", "of the largest", "nowhere")


@pytest.mark.parametrize(("sets", "timed", "rounds"), [(100, 3, 3), (100, 100, 2), (5, 9, 2), (3, 1, 4)])
def test_a_sample_lies_all_over_the_sets(sets: int, timed: int, rounds: int) -> None:
    found = spread_over(sets, timed, rounds)
    assert len(found) == rounds
    for numbers in found:
        assert len(set(numbers)) == min(timed, sets) and set(numbers) <= set(range(sets))
        distances = np.diff([*numbers, numbers[0] + sets])
        assert distances.max() - distances.min() <= 1
    if timed * rounds <= sets:
        assert len({number for numbers in found for number in numbers}) == timed * rounds
