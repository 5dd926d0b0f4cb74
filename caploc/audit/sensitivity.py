"""Where a verdict hangs on how the paper is read: cells under other readings beside the run's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from caploc.audit.results import Result


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
