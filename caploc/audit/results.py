"""What became of each cell, and what follows once all have ended.

One record a cell; the counts of a run; the verdicts that hang on how the paper is read; p values corrected for many
tests; and the verdicts on claims that follow from others.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from caploc.findings import Cell, Finding, Outcome, Verdict, plain

if TYPE_CHECKING:
    import pytest

    from caploc.papers import Claim, Paper
    from caploc.rules.derived import Judged

MOVED = "MOVED"
"""What the terminal calls a cell that left what was reviewed."""
STATUS_PROPERTY, RESULT_PROPERTY = "verdict", "caploc"
"""The properties of a test's report that carry its status, and its `Result` as JSON."""


class Status(StrEnum):
    """A cell's end: an `Outcome`, an error, or no word at all."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    MEASURED = "MEASURED"
    NOT_RUN = "NOT RUN"
    ERROR = "ERROR"
    MISSING = "MISSING"


def status_of(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """pytest's (category, letter, word) for a claim test's report; None for any other."""
    word = getattr(report, "caploc_word", None)
    if word is None or report.when != "call" or report.outcome not in ("passed", "failed", "skipped"):
        return None  # not an outcome of pytest's own: who repeats a test says how
    if hasattr(report, "wasxfail"):
        return "xfailed", "x", word
    if report.failed:
        return ("error", "E", word) if word == Status.ERROR else ("failed", "F", word)
    if report.skipped:
        return "skipped", "s", word
    return ("measured", "m", word) if word == Status.MEASURED else ("passed", ".", word)


@dataclass(frozen=True)
class Planned:
    """A claim cell that was collected. ``test`` is the test id without its file, the key of expectations; ``nodeid`` is
    pytest's, as it is where the rootdir is the folder around ``claims``, without what a plugin adds to it.

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
    over the ``tests`` cells of its family, filled in when the run ends (`corrected`). ``after_holm``
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
        """Whether the cell was measured and judged: it ended in a verdict."""
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
        return cls.from_json(json.loads(text))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Reads what ``dataclasses.asdict`` and JSON made of it."""
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

    def note(self, status: Status) -> str:
        """What is said of the cells of a status behind their number."""
        notes = {Status.SUPPORTED: self.supported_note, Status.REFUTED: self.refuted_note}
        return notes.get(status, "")

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
            (Status.MEASURED, "measured, with nothing printed to compare"),
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


def claim_of(planned: Planned, papers: Mapping[str, Paper]) -> Claim | None:
    """The claim that a cell is about; None for one that no paper lists."""
    paper = papers.get(planned.paper)
    return paper.claims.get(planned.claim) if paper else None


STANDINGS = {
    "empirical": "the authors' empirical claims",
    "repeats": "claims that repeat another's statistic",
    "derived": "claims that follow from others",
    "reading": "readings of an equation",
    "print": "arithmetic of the print",
    "control": "controls of our own",
    "summary": "claims of the machine-written summary alone",
    "measured": "measured only, as the paper prints nothing to compare with",
}
"""What a score counts apart, and its names: a claim's ``standing``, and cells that have a number but no verdict."""


def scores(
    results: Iterable[Result], derived: Iterable[Result], papers: Mapping[str, Paper]
) -> dict[str, Tally]:
    """The counts by `STANDINGS`, those that are not empty; a claim that no paper lists counts as empirical."""
    found: dict[str, list[Result]] = {name: [] for name in STANDINGS}
    for result in [*results, *derived]:
        claim = claim_of(result.planned, papers)
        measured = result.status is Status.MEASURED and result.moved is None
        found["measured" if measured else claim.standing if claim else "empirical"].append(result)
    return {name: Tally.of(of) for name, of in found.items() if of}


# ----------------------------------------------------------------------------------------- other readings of the paper


@dataclass(frozen=True)
class Flip:
    """A cell whose verdict is another one under some readings: ``others`` are those results, ``base`` the run's own."""

    base: Result
    others: tuple[Result, ...]

    @property
    def sentence(self) -> str:
        """In words: ``SUPPORTED, but REFUTED with scope=layer``."""
        others = (f"{other.status} with {other.planned.cell.variant}" for other in self.others)
        return f"{self.base.status}, but {', '.join(others)}"


def flips(results: Sequence[Result]) -> list[Flip]:
    """The cells with a verdict that differs between readings, in order; cells without a verdict say nothing."""
    tried: dict[tuple[str, str], list[Result]] = {}
    for result in _decided(results, variant=True):
        cell = result.planned.cell
        base = replace(cell, variant="")
        # the test's id says which of several tests of one claim it belongs to
        key = (result.planned.claim, result.planned.nodeid.replace(cell.label, base.label))
        tried.setdefault(key, []).append(result)
    found = []
    for result in _decided(results, variant=False):
        others = tried.get((result.planned.claim, result.planned.nodeid), [])
        differing = tuple(other for other in others if other.status is not result.status)
        found += [Flip(result, differing)] if differing else []
    return found


def _decided(results: Iterable[Result], variant: bool) -> Iterable[Result]:
    return (result for result in results if result.decided and bool(result.planned.cell.variant) is variant)


# ------------------------------------------------------------------------------------------- correction for many tests


def corrected(
    results: Sequence[Result], papers: Mapping[str, Paper], pending: Iterable[Planned] = ()
) -> list[Result]:
    """The results, in order; those with a p value get ``p_holm``, ``p_by``, ``tests`` and ``after_holm``.

    A family is every cell of one group of a paper's claims, one model and one reading of the paper in this run: the
    tests among which a reader may pick the one that came out well. Holm bounds the chance of any false rejection among
    them, Benjamini and Yekutieli the expected share of false ones, both whatever their dependence. A family with a
    ``pending`` cell, which has not ended yet, is left as it is.
    """
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    incomplete = {_family(planned, papers) for planned in pending}
    for place, result in enumerate(results):
        family = _family(result.planned, papers)
        if result.p is not None and family and family not in incomplete:
            families[family].append(place)
    filled = list(results)
    for places in families.values():
        for place, result in zip(
            places, _corrected([results[place] for place in places], papers), strict=True
        ):
            filled[place] = result
    return filled


def _family(planned: Planned, papers: Mapping[str, Paper]) -> tuple[str, ...]:
    """The family that a cell belongs to; empty for a claim that no paper lists."""
    claim = claim_of(planned, papers)
    return (planned.paper, claim.group, planned.cell.model, planned.cell.variant) if claim else ()


def _corrected(family: Sequence[Result], papers: Mapping[str, Paper]) -> list[Result]:
    # imported here: scipy is not needed where no claim has a p value, as in --collect-only
    from caploc.statistics import benjamini_yekutieli, holm

    p_values = [result.p for result in family if result.p is not None]
    adjusted = zip(family, holm(p_values), benjamini_yekutieli(p_values), strict=True)
    return [
        _filled(result, float(by_holm), float(by_by), len(family), papers)
        for result, by_holm, by_by in adjusted
    ]


def _filled(result: Result, p_holm: float, p_by: float, tests: int, papers: Mapping[str, Paper]) -> Result:
    below = p_holm < papers[result.planned.paper].claims[result.planned.claim].level
    after_holm = below if result.status is Status.SUPPORTED else None
    return replace(result, p_holm=p_holm, p_by=p_by, tests=tests, after_holm=after_holm)


# ------------------------------------------------------------------------------------ verdicts that follow from others


def derived(results: Sequence[Result], paper: Paper, pending: Iterable[Planned] = ()) -> list[Result]:
    """A result for each claim that follows from others and each model in which one of those has a cell, in the paper's
    order; cells under other readings of the paper are left out.

    A cell that erred or is missing might have ended in any way: it counts as inconclusive. What follows from a claim
    with a ``pending`` cell, which has not ended yet, is left out.
    """
    unsettled = {
        (one.claim, one.cell.model) for one in pending if one.paper == paper.key and not one.cell.variant
    }
    own = [
        result for result in results if result.planned.paper == paper.key and not result.planned.cell.variant
    ]
    read = {source for claim in paper.claims.values() for source in claim.rule.reads}
    own = [result for result in own if result.planned.claim in read]
    found = {}
    for model in dict.fromkeys(result.planned.cell.model for result in own):
        cells: dict[str, list[Judged]] = {}
        for result in own:
            if result.planned.cell.model == model:
                cells.setdefault(result.planned.claim, []).append(_judged(result))
        for claim in _sources_first(paper):
            if any((source, model) in unsettled for source in claim.rule.reads):
                unsettled.add((claim.id, model))
            elif not cells.keys().isdisjoint(claim.rule.claims):
                result = _derived(paper, claim, model, cells)
                found[claim.id, model] = result
                cells[claim.id] = [_judged(result)]
    order = list(paper.claims)
    return sorted(found.values(), key=lambda result: order.index(result.planned.claim))


def _derived(paper: Paper, claim: Claim, model: str, cells: Mapping[str, Sequence[Judged]]) -> Result:
    from caploc.rules import derive  # here: rules import pydantic, and --help needs neither

    verdict = derive(claim, cells)
    planned = Planned("", f"{claim.id}[{model}]", claim.id, Cell(model), paper=paper.key)
    return Result(planned, Status(verdict.outcome.value), verdict.reason)


def _sources_first(paper: Paper) -> list[Claim]:
    """The derived claims, each after those derived ones that it follows from."""
    left = {claim.id: claim for claim in paper.claims.values() if claim.rule.claims}
    ordered: list[Claim] = []
    while ready := [claim for claim in left.values() if left.keys().isdisjoint(claim.rule.claims)]:
        ordered += ready
        for claim in ready:
            del left[claim.id]
    return ordered


def _judged(result: Result) -> Judged:
    from caploc.rules.derived import Judged

    erred = result.status in (Status.ERROR, Status.MISSING)
    outcome = Outcome.INCONCLUSIVE if erred else Outcome(result.status.value)
    return Judged.of(outcome, result.finding)


def telling(paper: Paper) -> set[str]:
    """The headline claims, and those from whose verdicts that of a headline claim follows."""
    found = set[str]()
    left = [claim.id for claim in paper.claims.values() if claim.headline]
    while left:
        claim = paper.claims[left.pop()]
        if claim.id not in found:
            found.add(claim.id)
            left += claim.rule.reads
    return found
