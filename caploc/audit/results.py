"""What became of each cell: one record a cell, and the counts of a whole run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
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
    """A claim cell that was collected. ``test`` is the test id without its file, the key of expectations.

    ``across`` is true where the cell's numbers depend on which other datasets are in the run; ``paper`` is the paper's
    key.
    """

    nodeid: str
    test: str
    claim: str
    cell: Cell
    across: bool = False
    paper: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Planned:
        """Reads what ``dataclasses.asdict`` and JSON made of it."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**{**known, "cell": Cell(**data["cell"])})


@dataclass(frozen=True)
class Result:
    """How a planned cell ended.

    ``finding`` is the finding as JSON data, None where there is none. ``moved`` says how the cell left what was
    reviewed, None if it did not; ``expected`` is true where a reviewed expectation was met.

    ``p`` is the finding's decisive p value; ``p_holm`` and ``p_by`` are its corrections (Holm, Benjamini-Yekutieli)
    over the ``tests`` cells of its family, filled in when the run ends (`caploc.audit.corrections`). ``after_holm``
    says, for a supported cell that has a p value, whether it is still below the claim's level then.
    """

    planned: Planned
    status: Status
    reason: str
    finding: Mapping[str, Any] | None = None
    expected: bool = False
    moved: str | None = None
    agreement: str | None = None
    why: str = ""
    p: float | None = None
    p_holm: float | None = None
    p_by: float | None = None
    tests: int = 0
    after_holm: bool | None = None

    @property
    def decided(self) -> bool:
        """Whether the cell was measured and judged: it ended in a verdict other than not run."""
        return self.status in (Status.SUPPORTED, Status.REFUTED, Status.INCONCLUSIVE)

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
    """Counts over the cells of a run, each cell counted once: a moved cell counts as moved.

    Cells under another reading of the paper (sensitivity) are counted apart, in ``other_readings``, unless they
    erred or are missing, which no reading excuses.
    """

    by_status: Counter[Status] = field(default_factory=Counter)
    moved: int = 0
    refuted_as_expected: int = 0
    not_after_holm: int = 0
    not_run: Counter[str] = field(default_factory=Counter)
    other_readings: Counter[Status] = field(default_factory=Counter)

    @classmethod
    def of(cls, results: Iterable[Result]) -> Tally:
        """Counts the results."""
        tally = cls()
        for result in results:
            tally._count(result)
        return tally

    @property
    def refuted_note(self) -> str:
        """What is said of refuted cells that were reviewed: `` (as expected here)``, or of how many it is true."""
        known, all_of_them = self.refuted_as_expected, self.by_status[Status.REFUTED]
        if not known:
            return ""
        return " (as expected here)" if known == all_of_them else f" ({known} as expected here)"

    @property
    def supported_note(self) -> str:
        """What is said of supported cells that are not below the level after correction over their family."""
        lost = self.not_after_holm
        return f" ({lost} of them not after Holm over their family)" if lost else ""

    def sentence(self) -> str:
        """The counts in words: ``23 supported, 9 refuted (as expected here), 4 inconclusive, 2 not run``."""
        parts = [
            f"{self.by_status[Status.SUPPORTED]} supported{self.supported_note}",
            f"{self.by_status[Status.REFUTED]} refuted{self.refuted_note}",
            f"{self.by_status[Status.INCONCLUSIVE]} inconclusive",
        ]
        parts += [f"{self.moved} moved"] if self.moved else []
        for status, words in (
            (Status.ERROR, "ended in an error"),
            (Status.MISSING, "MISSING"),
            (Status.NOT_RUN, "not run"),
        ):
            if self.by_status[status]:
                parts.append(f"{self.by_status[status]} {words}")
        return ", ".join(parts)

    def _count(self, result: Result) -> None:
        if result.planned.cell.variant and result.status not in (Status.ERROR, Status.MISSING):
            self.other_readings[result.status] += 1
        elif result.moved is not None:
            self.moved += 1
        else:
            self.by_status[result.status] += 1
            self.refuted_as_expected += result.status is Status.REFUTED and result.expected
            self.not_after_holm += result.after_holm is False
            if result.status is Status.NOT_RUN:
                self.not_run[result.reason] += 1
