"""Tables of measurements as text and as JSON."""

from __future__ import annotations

import json

import pytest

from caploc.benchmarks.tables import Spread, Table, at_least, at_most, brief


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
    assert at_least(spread, None) == at_most(None, 1.0) == {}


def test_text_aligns_numbers_right_and_names_left() -> None:
    table = Table("k", "Which?", {"name": "name", "value": "value"}, notes=["said " * 40])
    table.rows += [{"name": "a", "value": 1280}, {"name": "long", "value": None}]
    lines = table.text().splitlines()
    assert lines[:6] == ["Which?", "", "  name  value", "  ----  -----", "  a     1,280", "  long      -"]
    assert lines[6].startswith("  * said") and lines[7].startswith("    said") and max(map(len, lines)) <= 118


def test_json_holds_numbers_and_null() -> None:
    table = Table("k", "Which?", {"a": "a", "b": "b", "c": "c"}, [{"a": Spread(1, 0, 2), "b": float("nan")}])
    again = json.loads(json.dumps(table.as_json(), allow_nan=False))
    assert again["rows"] == [{"a": {"median": 1, "low": 0, "high": 2}, "b": None, "c": None}]
