"""What is true of the claims on the zoo's models, and how often their rules said so.

``truth.toml`` beside the models says on which of them a claim holds or fails, and by what that is known;
``verdicts.json`` what the audit made of each, weights in and verdict out, as ``python -m caploc.benchmarks truth``
recorded it. `characteristics` counts the one against the other.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from caploc.errors import ModelError
from caploc.findings import Outcome, plain
from caploc.rules import Rule
from caploc.statistics import Interval, binomial_interval
from caploc.zoo import zoo_entries, zoo_folder

TRUTH, VERDICTS = "truth.toml", "verdicts.json"
_COPIES = re.compile(r"-r(\d+)")


@dataclass(frozen=True)
class Group:
    """Models of which the same is true, since their task ``loses`` so much accuracy, from and to, by brute force."""

    name: str
    kinds: tuple[str, ...]
    loses: tuple[float, float]
    copies: int | None = None

    def models(self) -> tuple[str, ...]:
        """Its models' names. Raises `ModelError` where one loses otherwise: the group's truth is none of it then."""
        found = []
        for name, entry in zoo_entries().items():
            copies = _COPIES.search(name)
            if entry["kind"] not in self.kinds or (self.copies and copies and int(copies[1]) > self.copies):
                continue
            lost = entry["gate"]["accuracy"] - entry["gate"]["without"]
            if not self.loses[0] <= lost <= self.loses[1]:
                raise ModelError(
                    f"{name} loses {lost:.2f} by brute-force erasure, and group {self.name!r} of {TRUTH} says "
                    f"{self.loses[0]:g} to {self.loses[1]:g}; correct the group"
                )
            found.append(name)
        return tuple(found)


@dataclass(frozen=True)
class KnownClaim:
    """On which groups a claim ``holds`` and on which it ``fails``, ``because`` of what; and the cells it is tried in.

    ===========  ===================================================================================================
    ``sigmas``   a cell for each; none for claims about facts
    ``beside``   with a second task in the study
    ``pooled``   the cell is about all tasks together, not about the planted one
    ``facts``    the cell is about the planted task's facts
    ``items``    intervals resample prompts, and not the subjects that they are about
    ===========  ===================================================================================================
    """

    id: str
    because: str
    holds: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    sigmas: tuple[float | None, ...] = (None,)
    beside: bool = False
    pooled: bool = False
    facts: bool = False
    items: bool = False


@dataclass(frozen=True)
class Tried:
    """One cell of known truth: whether the claim ``holds`` there, and once it was audited how that ended."""

    claim: str
    group: str
    model: str
    sigma: float | None
    items: bool
    holds: bool
    outcome: str = ""
    estimate: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the verdict is for or against."""
        return self.outcome in (Outcome.SUPPORTED.value, Outcome.REFUTED.value)

    @property
    def wrong(self) -> bool:
        """Whether it is for what fails or against what holds."""
        return self.decided and (self.outcome == Outcome.SUPPORTED.value) != self.holds


@dataclass(frozen=True)
class Characteristic:
    """How a rule ended on ``n`` cells of a group in which its claim holds or fails."""

    claim: str
    group: str
    sigma: float | None
    items: bool
    holds: bool
    counts: Mapping[str, int]

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def share(self, outcome: Outcome) -> tuple[int, Interval]:
        """How many ended so, with Clopper and Pearson's 95 % interval of the share."""
        count = self.counts.get(outcome.value, 0)
        return count, binomial_interval(count, self.n)

    @property
    def words(self) -> str:
        """As the report says it: the share that ought to be high, then the one that ought to be low."""
        good, bad = Outcome.SUPPORTED, Outcome.REFUTED
        names = ("power", "false REFUTED")
        if not self.holds:
            good, bad, names = bad, good, ("rightly REFUTED", "false SUPPORTED")
        shown = []
        for name, outcome in zip(names, (good, bad), strict=True):
            count, interval = self.share(outcome)
            shown.append(
                f"{name} {count} of {self.n} [{100 * interval.low:.0f}, {100 * interval.high:.0f}] %"
            )
        at = "" if self.sigma is None else f" at sigma {self.sigma:g}"
        at += ", prompts resampled" if self.items else ""
        return f"{self.group}{at} ({'true' if self.holds else 'false'} there): {', '.join(shown)}"


@dataclass(frozen=True)
class KnownTruth:
    """``truth.toml``: the claims of a ``paper``, the ``groups`` by name, and claims ``untried``, with the reason."""

    paper: str
    claims: tuple[KnownClaim, ...]
    groups: Mapping[str, Group]
    untried: Mapping[str, str]


@cache
def known_truth() -> KnownTruth:
    """What is known. Raises `ModelError` where a claim names a group that there is not."""
    path = zoo_folder() / TRUTH
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    groups = {one["name"]: Group(**_tuples(one)) for one in data["group"]}
    claims = tuple(KnownClaim(**_tuples(one)) for one in data["claim"])
    for claim in claims:
        for name in (*claim.holds, *claim.fails):
            if name not in groups:
                raise ModelError(
                    f"{path}: claim {claim.id!r} names a group {name!r}; there is {', '.join(groups)}"
                )
    untried = {name: one["because"] for one in data["untried"] for name in one["claims"]}
    return KnownTruth(data["paper"], claims, groups, untried)


def cells_of_known_truth() -> Iterator[tuple[KnownClaim, Tried]]:
    """Every cell that ``truth.toml`` speaks of, before it is audited."""
    known = known_truth()
    for claim in known.claims:
        for holds, names in ((True, claim.holds), (False, claim.fails)):
            for name in names:
                for model in known.groups[name].models():
                    for sigma in claim.sigmas:
                        yield claim, Tried(claim.id, name, model, sigma, claim.items, holds)


def characteristics(tried: Sequence[Tried]) -> list[Characteristic]:
    """The counts by claim, group, sigma and what is resampled, in the order of the cells."""
    found: dict[tuple[str, str, float | None, bool, bool], dict[str, int]] = {}
    for one in tried:
        counts = found.setdefault((one.claim, one.group, one.sigma, one.items, one.holds), {})
        counts[one.outcome] = counts.get(one.outcome, 0) + 1
    return [Characteristic(*key, counts) for key, counts in found.items()]


@dataclass(frozen=True)
class Recorded:
    """``verdicts.json``: the cells as they were audited at ``commit`` on ``date``, and the ``rules`` that judged."""

    commit: str
    date: str
    rules: Mapping[str, Mapping[str, Any]]
    tried: tuple[Tried, ...]

    def write(self, path: Path) -> None:
        """Write it, a cell a line."""
        head = {name: getattr(self, name) for name in ("commit", "date", "rules")}
        cells = ",\n".join(json.dumps(asdict(one)) for one in self.tried)
        text = json.dumps(head, indent=1)
        path.write_text(f'{text[:-2]},\n "tried": [\n{cells}\n]}}\n', encoding="utf-8")

    def of(self, claim: str, rule: Rule) -> list[Characteristic]:
        """The characteristics of a claim's rule; none where another rule was recorded, or none at all."""
        if self.rules.get(claim) != rule_as_data(rule):
            return []
        return characteristics([one for one in self.tried if one.claim == claim])


def rule_as_data(rule: Rule) -> dict[str, Any]:
    """A rule with its thresholds, as ``verdicts.json`` has it."""
    return {"kind": rule.kind, **plain(rule.model_dump())}


@cache
def recorded() -> Recorded | None:
    """What was recorded; None where nothing was, as while the zoo is made."""
    path = zoo_folder() / VERDICTS
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    cells = tuple(Tried(**one) for one in data["tried"])
    return Recorded(data["commit"], data["date"], data["rules"], cells)


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
