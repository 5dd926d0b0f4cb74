"""Which claims of a paper a test decides, which follow from others, which none can decide, and which are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caploc.audit.results import Planned
from caploc.audit.text import plural, visible

if TYPE_CHECKING:
    from caploc.papers import Claim, Paper


@dataclass(frozen=True)
class Coverage:
    """The paper's claims against the tests that were collected."""

    paper: Paper
    plan: tuple[Planned, ...]

    @classmethod
    def of(cls, paper: Paper, plan: Iterable[Planned]) -> Coverage:
        """Cells under other readings of the paper cover nothing new and are left out."""
        return cls(paper, tuple(cell for cell in plan if not cell.cell.variant))

    @cached_property
    def tests(self) -> Mapping[str, Counter[str]]:
        """Test functions by claim, each with the number of its cells."""
        found: dict[str, Counter[str]] = {}
        for planned in self.plan:
            found.setdefault(planned.claim, Counter())[planned.test.partition("[")[0]] += 1
        return found

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
        follow, none, bare = (kinds.pop(word, 0) for word in ("follows", "no", "NOT"))
        return (
            f"{plural(len(self.paper.claims), 'claim')}: {kinds.total()} with a test, "
            f"{follow} following from others, {none} that no measurement decides, {bare} not covered"
        )

    def problems(self) -> list[str]:
        """What must be put right, a line each: claims that nothing covers, and tests of claims that there are not."""
        if not self.plan:
            return ["no claim test was collected; name their folder, as in: pytest claims --claim-coverage"]
        found = [
            f"claim {claim.id}: no test; mark one with claim({claim.id!r})"
            for claim in self.paper.claims.values()
            if self._cover(claim).startswith("NOT")
        ]
        found += [
            f"test {visible(test, 120)}: the paper has no claim {visible(claim, 120)!r}"
            for claim, tests in self.tests.items()
            if claim not in self.paper.claims
            for test in tests
        ]
        return found

    def _cover(self, claim: Claim) -> str:
        if claim.id in self.tests:
            tests = self.tests[claim.id].items()
            return ", ".join(f"{visible(test, 120)} ({plural(cells, 'cell')})" for test, cells in tests)
        if claim.rule.claims:
            return f"follows from: {', '.join(claim.rule.claims)}"
        if not claim.empirical:
            return "no measurement decides it"
        return "NOT COVERED"


def write_coverage(reporter: Any, coverage: Coverage) -> None:
    """The claims and what covers them, in the terminal, problems last and in red."""
    reporter.write_sep("=", "claims")
    for line in coverage.lines():
        reporter.write_line(line)
    for problem in coverage.problems():
        reporter.write_line(problem, red=True)
