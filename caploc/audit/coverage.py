"""Which claims of the paper a test decides, which follow from others, which wait, and which nobody has thought of."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caploc.audit.results import Planned
from caploc.audit.text import plural, visible
from caploc.errors import CaplocError

if TYPE_CHECKING:
    from caploc.papers import Claim, Paper


class PendingError(CaplocError):
    """The list of pending claims is wrong; the message names the file and the entry."""


@dataclass(frozen=True)
class Pending:
    """Claims of one group that have no test yet, and what one ``needs``."""

    group: str
    needs: str
    claims: tuple[str, ...]


def load_pending(path: Path) -> list[Pending]:
    """The pending claims, a TOML table a group of claims: ``[A-fidelity]`` with ``needs`` and ``claims``; none without
    the file. Raises `PendingError`."""
    if not path.exists():
        return []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PendingError(f"{path}: cannot be read as TOML: {error}") from error
    return [_pending(group, entry, f"{path}: [{visible(group, 80)}]") for group, entry in content.items()]


def _pending(group: str, entry: object, place: str) -> Pending:
    if not isinstance(entry, Mapping) or set(entry) != {"needs", "claims"}:
        raise PendingError(f"{place}: a table with needs and claims is expected, and nothing else")
    needs, claims = entry["needs"], entry["claims"]
    if not isinstance(needs, str) or not needs.strip():
        raise PendingError(f"{place}: needs must say in a few words what is missing")
    if not isinstance(claims, list) or not claims or not all(isinstance(claim, str) for claim in claims):
        raise PendingError(
            f"{place}: claims must be a list of claim ids; take the table out where none is left"
        )
    return Pending(group, needs, tuple(claims))


@dataclass(frozen=True)
class Coverage:
    """The paper's claims against the tests that were collected and the list of pending ones."""

    paper: Paper
    plan: tuple[Planned, ...]
    pending: tuple[Pending, ...]

    @classmethod
    def of(cls, paper: Paper, plan: Iterable[Planned], pending: Iterable[Pending]) -> Coverage:
        """Cells under other readings of the paper cover nothing new and are left out."""
        return cls(paper, tuple(cell for cell in plan if not cell.cell.variant), tuple(pending))

    @cached_property
    def tests(self) -> Mapping[str, Counter[str]]:
        """Test functions by claim, each with the number of its cells."""
        found: dict[str, Counter[str]] = {}
        for planned in self.plan:
            found.setdefault(planned.claim, Counter())[planned.test.partition("[")[0]] += 1
        return found

    @cached_property
    def needs(self) -> Mapping[str, str]:
        """What a test of each pending claim needs."""
        return {claim: pending.needs for pending in self.pending for claim in pending.claims}

    def lines(self) -> Iterator[str]:
        """Every claim of the paper, by group and in order, with what covers it; then the count of each kind."""
        width = max(map(len, self.paper.claims), default=0)
        for group in self.paper.groups.values():
            claims = [claim for claim in self.paper.claims.values() if claim.group == group.id]
            if claims:
                yield f"{group.title} ({group.id})"
                yield from (f"  {claim.id:<{width}}  {self._cover(claim)}" for claim in claims)
        yield self.sentence()

    def sentence(self) -> str:
        """The counts in words."""
        kinds = Counter(self._cover(claim).partition(" ")[0] for claim in self.paper.claims.values())
        pending, follow, none, bare = (kinds.pop(word, 0) for word in ("pending:", "follows", "no", "NOT"))
        return (
            f"{plural(len(self.paper.claims), 'claim')}: {kinds.total()} with a test, {pending} pending, "
            f"{follow} following from others, {none} that no measurement decides, {bare} not covered"
        )

    def problems(self) -> list[str]:
        """What must be put right, a line each: claims that nothing covers, and entries that say what is not so."""
        if not self.plan:
            return ["no claim test was collected; name their folder, as in: pytest claims --claim-coverage"]
        found = [
            f"claim {claim.id}: no test and not pending; mark a test claim({claim.id!r}) or list it in pending.toml"
            for claim in self.paper.claims.values()
            if self._cover(claim).startswith("NOT")
        ]
        found += [
            f"test {visible(test, 120)}: the paper has no claim {visible(claim, 120)!r}"
            for claim, tests in self.tests.items()
            if claim not in self.paper.claims
            for test in tests
        ]
        return found + [problem for entry in self.pending for problem in self._wrong(entry)]

    def _cover(self, claim: Claim) -> str:
        if claim.id in self.tests:
            tests = self.tests[claim.id].items()
            return ", ".join(f"{visible(test, 120)} ({plural(cells, 'cell')})" for test, cells in tests)
        if claim.rule.claims:
            return f"follows from: {', '.join(claim.rule.claims)}"
        if not claim.empirical:
            return "no measurement decides it"
        if claim.id in self.needs:
            return f"pending: needs {visible(self.needs[claim.id])}"
        return "NOT COVERED"

    def _wrong(self, entry: Pending) -> Iterator[str]:
        for name in entry.claims:
            claim = self.paper.claims.get(name)
            place = f"pending.toml [{visible(entry.group, 80)}] {visible(name, 120)}"
            if claim is None:
                yield f"{place}: the paper has no such claim"
            elif claim.group != entry.group:
                yield f"{place}: the claim belongs to [{claim.group}]"
            elif not self._cover(claim).startswith("pending"):
                yield f"{place}: not pending any more ({self._cover(claim)}); take it out"
            elif [other for listed in self.pending for other in listed.claims].count(name) > 1:
                yield f"{place}: listed twice"


def write_coverage(reporter: Any, coverage: Coverage) -> None:
    """The claims and what covers them, in the terminal, problems last and in red."""
    reporter.write_sep("=", "claims")
    for line in coverage.lines():
        reporter.write_line(line)
    for problem in coverage.problems():
        reporter.write_line(problem, red=True)
