"""What each cell of the embedded models gave when it was reviewed; a run fails where a cell moves away from it."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from caploc.audit.results import Planned, Result, Status
from caploc.audit.text import visible
from caploc.errors import CaplocError
from caploc.findings import PRINTED, Outcome

LEAST_SLACK = {"count": 2.0, "share": 0.001}
DEFAULT_SLACK = 0.05
RELATIVE_SLACK = 0.2
ROUNDING = 0.0001

HEADER = """\
# What each claim gave on the embedded models when it was reviewed: its verdict, the range that its estimate may
# move in, and why. Written by: pytest claims -m "not gpu" --record-expectations. Review the difference, then commit.
"""


class ExpectationsError(CaplocError):
    """The expectations file is wrong; the message names the file, the entry and the field."""


@dataclass(frozen=True)
class Expectation:
    """A reviewed verdict; ``low`` and ``high`` bound the estimate, None where there was none."""

    verdict: Outcome
    low: float | None
    high: float | None
    why: str

    def departure(self, outcome: Outcome, estimate: float | None) -> str | None:
        """How a measurement left this expectation, in words; None if it did not."""
        if outcome != self.verdict:
            return f"verdict moved: expected {self.verdict}, got {outcome}"
        if self.low is None or self.high is None:
            return None
        if estimate is None or not self.low <= estimate <= self.high:
            shown = "none" if estimate is None else f"{estimate:.4g}"
            return f"estimate moved: {shown} is outside the reviewed range [{self.low:g}, {self.high:g}]"
        return None


def load_expectations(path: Path) -> dict[str, Expectation]:
    """Expectations by `key_of` their cells; none if the file is absent.

    Raises `ExpectationsError`.
    """
    if not path.exists():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExpectationsError(f"{path}: cannot be read as TOML: {error}") from error
    return {key: _expectation(entry, f"{path}: {key}") for key, entry in content.get("cells", {}).items()}


def key_of(planned: Planned) -> str:
    """The test's id, such as ``test_overlap[tiny-llama-gsm8k-s6]``, for a paper that comes with caploc; other papers,
    which may name a test alike, put their name in front: ``mine/test_overlap[tiny-llama-gsm8k-s6]``."""
    elsewhere = planned.paper and planned.paper not in _own_papers()
    return f"{planned.paper}/{planned.test}" if elsewhere else planned.test


@cache
def _own_papers() -> frozenset[str]:
    from caploc.papers import paper_names

    return frozenset(paper_names())


def record(results: Iterable[Result], known: Mapping[str, Expectation]) -> dict[str, Expectation]:
    """``known`` brought up to date by results that ended in a verdict.

    The range is the estimate give or take 0.05 or a fifth of it, whichever is more (2 or a fifth for counts, 0.001 or a
    fifth for shares, which are small); what follows from printed numbers alone is exact. The sentence why is kept as
    long as the verdict is; a new verdict begins with the rule's own reason.
    """
    recorded = dict(known)
    for result in results:
        if result.status in (Status.ERROR, Status.MISSING) or result.finding is None:
            continue
        expectation = _recorded(result)
        old = known.get(key_of(result.planned))
        if old is not None and old.verdict == expectation.verdict and old.why:
            expectation = replace(expectation, why=old.why)
        recorded[key_of(result.planned)] = expectation
    return recorded


def dumps(expectations: Mapping[str, Expectation]) -> str:
    """The file's text, sorted by test id."""
    blocks = [HEADER]
    for key, expectation in sorted(expectations.items()):
        lines = [f"[cells.{_quoted(key)}]", f"verdict = {_quoted(expectation.verdict.value)}"]
        if expectation.low is not None and expectation.high is not None:
            lines += [f"low = {float(expectation.low)!r}", f"high = {float(expectation.high)!r}"]
        blocks.append("\n".join([*lines, f"why = {_quoted(expectation.why)}", ""]))
    return "\n".join(blocks)


def record_expectations(path: Path, results: Iterable[Result], known: Mapping[str, Expectation]) -> int:
    """Writes the verdicts of the embedded cells to the expectations file; returns how many were recorded."""
    kept = [
        replace(result, reason=visible(result.reason)) for result in results if result.finding is not None
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(dumps(record(kept, known)), encoding="utf-8")
    temporary.replace(path)
    return len(kept)


def _recorded(result: Result) -> Expectation:
    finding = result.finding or {}
    estimate = finding.get("estimate")
    low = high = None
    if estimate is not None and result.status is not Status.NOT_RUN:
        slack = _slack(result, estimate)
        low, high = round(estimate - slack, 4), round(estimate + slack, 4)
    return Expectation(Outcome(result.status.value), low, high, result.reason)


def _slack(result: Result, estimate: float) -> float:
    if result.planned.cell.model == PRINTED:
        return 0.0 if float(estimate).is_integer() else ROUNDING
    unit = (result.finding or {}).get("unit", "")
    return max(LEAST_SLACK.get(unit, DEFAULT_SLACK), RELATIVE_SLACK * abs(estimate))


def _expectation(entry: object, place: str) -> Expectation:
    if not isinstance(entry, Mapping):
        raise ExpectationsError(f"{place}: a table is expected")
    for field in entry.keys() - {"verdict", "low", "high", "why"}:
        raise ExpectationsError(f"{place}: unknown field {field!r}; known are verdict, low, high, why")
    if entry.get("verdict") not in [outcome.value for outcome in Outcome]:
        known = ", ".join(outcome.value for outcome in Outcome)
        raise ExpectationsError(f"{place}: verdict is {entry.get('verdict')!r}; it must be one of {known}")
    low, high = (_bound(entry, name, place) for name in ("low", "high"))
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ExpectationsError(f"{place}: low and high must both be there, and low <= high")
    if not isinstance(entry.get("why"), str):
        raise ExpectationsError(f"{place}: the sentence why is missing; say why this verdict is right here")
    return Expectation(Outcome(entry["verdict"]), low, high, entry["why"])


def _bound(entry: Mapping[str, object], name: str, place: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ExpectationsError(f"{place}: {name} is {value!r}; it must be a finite number")
    return float(value)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, save for lone surrogates, which TOML cannot hold."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
