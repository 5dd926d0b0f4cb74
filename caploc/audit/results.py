"""What became of each cell: one record a cell, and the counts of a whole run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from caploc.findings import Cell, Finding, Verdict, plain

MOVED = "MOVED"
"""What the terminal calls a cell that left what was reviewed."""


class Status(StrEnum):
    """A cell's end: one of the four verdicts, an error, or no word at all."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT RUN"
    ERROR = "ERROR"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Planned:
    """A claim cell that was collected. ``test`` is the test id without its file, the key of expectations."""

    nodeid: str
    test: str
    claim: str
    cell: Cell

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Planned:
        """Reads what ``dataclasses.asdict`` and JSON made of it."""
        return cls(data["nodeid"], data["test"], data["claim"], Cell(**data["cell"]))


@dataclass(frozen=True)
class Result:
    """How a planned cell ended.

    ``finding`` is the finding as JSON data, None where there is none. ``moved`` says how the cell left what was
    reviewed, None if it did not; ``expected`` is true where a reviewed expectation was met.
    """

    planned: Planned
    status: Status
    reason: str
    finding: Mapping[str, Any] | None = None
    expected: bool = False
    moved: str | None = None
    agreement: str | None = None
    why: str = ""

    @classmethod
    def of(cls, planned: Planned, finding: Finding, verdict: Verdict, **more: Any) -> Result:
        """The result of a judged finding."""
        return cls(planned, Status(verdict.outcome.value), verdict.reason, finding.to_json(), **more)

    def dumps(self) -> str:
        """This result as one line of strict ASCII JSON, which any process, file or XML can carry."""
        return json.dumps(plain(asdict(self)), allow_nan=False, ensure_ascii=True)

    @classmethod
    def loads(cls, text: str) -> Result:
        """Reads what ``dumps`` wrote."""
        data = json.loads(text)
        return cls(
            **{**data, "planned": Planned.from_json(data["planned"]), "status": Status(data["status"])}
        )


@dataclass
class Tally:
    """Counts over the cells of a run, each cell counted once: a moved cell counts as moved."""

    by_status: Counter[Status] = field(default_factory=Counter)
    moved: int = 0
    refuted_as_expected: int = 0
    not_run: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, results: Iterable[Result]) -> Tally:
        """Counts the results."""
        tally = cls()
        for result in results:
            if result.moved is not None:
                tally.moved += 1
                continue
            tally.by_status[result.status] += 1
            tally.refuted_as_expected += result.status is Status.REFUTED and result.expected
            if result.status is Status.NOT_RUN:
                tally.not_run[result.reason] += 1
        return tally

    def sentence(self) -> str:
        """The counts in words: ``23 supported, 9 refuted (as expected here), 4 inconclusive, 0 moved``."""
        refuted = self.by_status[Status.REFUTED]
        as_expected = self.refuted_as_expected
        note = ""
        if as_expected:
            note = " (as expected here)" if as_expected == refuted else f" ({as_expected} as expected here)"
        parts = [
            f"{self.by_status[Status.SUPPORTED]} supported",
            f"{refuted} refuted{note}",
            f"{self.by_status[Status.INCONCLUSIVE]} inconclusive",
            f"{self.moved} moved",
        ]
        for status, words in (
            (Status.ERROR, "ended in an error"),
            (Status.MISSING, "MISSING"),
            (Status.NOT_RUN, "not run"),
        ):
            if self.by_status[status]:
                parts.append(f"{self.by_status[status]} {words}")
        return ", ".join(parts)
