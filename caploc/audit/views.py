"""The data that the report's templates show: a run's results by section, every number already formatted.

Nothing here is markup; `caploc.audit.report` renders it.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caploc.audit.headlines import Headline, headlines
from caploc.audit.results import STANDINGS, Flip, Result, Status, Tally, flips, scores
from caploc.audit.summary import data_digests, fingerprints
from caploc.audit.text import duration, measured, number, p_value, plural, unit_sign, visible
from caploc.findings import PRINTED
from caploc.papers import Claim, Group, Paper

COLUMNS = {
    "Claim": "text",
    "Cell": "text",
    "Verdict": "number",
    "Estimate [interval]": "number",
    "Chance": "number",
    "p": "number",
    "p, Holm": "number",
    "Published": "number",
    "n": "number",
    "Draws": "number",
    "Time": "number",
}
"""The headings of the table of cells and how its columns sort; a verdict's number is its place among the verdicts."""

PART_COLUMNS = {
    "kind": "kind",
    "estimate": "estimate",
    "interval": "95 % interval",
    "interval90": "90 % interval",
    "p": "p",
    "n": "n",
    "unit": "unit",
}
"""The fields of a finding's part that the report shows, and their headings."""

UNKNOWN = Group(
    "unknown", "Unregistered claims", "Which tests name a claim that the paper's files do not list?"
)
_COORDINATES = ("model", "dataset", "quantity", "sigma", "method", "epoch")
_CONTRADICTIONS_FIRST = ("REFUTED", "ERROR", "MISSING", "INCONCLUSIVE", "SUPPORTED", "MEASURED", "NOT RUN")
_SHOWN_ELSEWHERE = ("models", "datasets", "departures")

if TYPE_CHECKING:
    from caploc.power import Rates


@dataclass(frozen=True)
class Log:
    """What pytest alone knows of a test: its seconds, and the traceback of an error in the audit."""

    seconds: float = 0.0
    trace: str = ""


@dataclass(frozen=True, eq=False)
class RunView:
    """What a run that has ended says of one paper.

    Attributes:
        logs: by node id.
        head: the ledger's first line.
        prefix: begins the page's ids of this paper, so that those of several papers differ.
        rates: by claim and model, where they were simulated (`caploc.audit.planning.rates_of`).
    """

    paper: Paper
    results: Sequence[Result]
    derived: Sequence[Result] = ()
    logs: Mapping[str, Log] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    rates: Mapping[tuple[str, str], Rates] = field(default_factory=dict)

    def rates_of(self, claim: str) -> dict[str, Rates]:
        """The simulated rates of a claim's rule, by model; one line where they are the same for all."""
        found = {model: rates for (name, model), rates in self.rates.items() if name == claim}
        return {", ".join(found): next(iter(found.values()))} if len(set(found.values())) == 1 else found

    def on_known_truth(self, claim: Claim) -> list[str]:
        """How the claim's rule ended on models of which it is known whether the claim holds, a line a group."""
        from caploc.zoo.truth import known_truth, recorded

        found = recorded()
        if found is None or self.paper.key != known_truth().paper:
            return []
        lines = [one.words for one in found.of(claim.id, claim.rule)]
        return [*lines, f"recorded at {found.commit[:12]} on {found.date}"] if lines else []

    @cached_property
    def tally(self) -> Tally:
        """The run's counts."""
        return Tally.of(self.results)

    @cached_property
    def scores(self) -> dict[str, Tally]:
        """The counts of the authors' empirical claims, and apart from them those of every other kind of cell."""
        return {
            STANDINGS[name]: tally
            for name, tally in scores(
                self.results, self.derived, {self.paper.key: self.paper, "": self.paper}
            ).items()
        }

    @cached_property
    def alarms(self) -> dict[str, list[Result]]:
        """Results that a reader must know of before trusting the rest, by title."""
        moved = [result for result in self.results if result.moved is not None]
        found = {
            "Missing: planned, but never reported": self._of(Status.MISSING),
            "Errors in the audit: no evidence for or against a claim": self._of(Status.ERROR),
            "Moved: no longer what was reviewed": moved,
        }
        return {title: results for title, results in found.items() if results}

    @cached_property
    def families(self) -> list[Family]:
        """The results by family and claim; families in the paper's order, one for unregistered claims last."""
        groups: dict[str, dict[str, Verdicts]] = defaultdict(lambda: defaultdict(Verdicts))
        for result in self.results:
            groups[self.group(result)][result.planned.claim].tested.append(result)
        for result in self.derived:
            groups[self.group(result)][result.planned.claim].derived.append(result)
        found = []
        for group in self.paper.groups.values():
            audited = groups.get(group.id, {})
            left = [c for c in self.paper.claims.values() if c.group == group.id and c.id not in audited]
            found.append(Family(group, audited, left))
        return found + ([Family(UNKNOWN, groups[UNKNOWN.id], [])] if UNKNOWN.id in groups else [])

    @cached_property
    def models(self) -> list[str]:
        """The models in the order of the run; the paper's printed numbers, which are no model, last."""
        models = dict.fromkeys(result.planned.cell.model for result in [*self.results, *self.derived])
        return sorted(models, key=lambda model: model == PRINTED)

    @cached_property
    def headlines(self) -> list[Headline]:
        """The claims that a reader of the paper comes for, if its files name any that this run has cells of."""
        return headlines(self.paper.claims.values(), self.results, self.derived, self.models, self.rates)

    @cached_property
    def checks(self) -> list[Check]:
        """The checks of the paper against itself, contradictions first."""
        found = [
            Check(result, self.paper.claims[result.planned.claim])
            for result in self.results
            if result.planned.cell.model == PRINTED and result.planned.claim in self.paper.claims
        ]
        return sorted(found, key=lambda check: _CONTRADICTIONS_FIRST.index(check.result.status.value))

    @cached_property
    def checks_by_place(self) -> dict[str, list[Check]]:
        """The checks by what they touch, the tables first: contradictions first within each."""
        places: dict[str, list[Check]] = defaultdict(list)
        for check in self.checks:
            places[_place(check.claim, self.paper)].append(check)
        return dict(sorted(places.items(), key=lambda pair: (not pair[0].startswith("Table"), pair[0])))

    @cached_property
    def flips(self) -> list[Flip]:
        """The cells whose verdict depends on how the paper is read."""
        return flips(self.results)

    @cached_property
    def readings(self) -> list[tuple[str, int, int]]:
        """The other readings that were tried: how many verdicts each changes, of how many."""
        variants = [r.planned.cell.variant for r in self.results if r.decided and r.planned.cell.variant]
        changed = Counter(other.planned.cell.variant for flip in self.flips for other in flip.others)
        return [(variant, changed[variant], count) for variant, count in Counter(variants).items()]

    @cached_property
    def varied(self) -> bool:
        """Whether the run tried other readings at all."""
        return any(result.planned.cell.variant for result in self.results)

    @cached_property
    def not_run(self) -> list[tuple[str, list[Result]]]:
        """The cells that were not run by reason, the most frequent reason first."""
        reasons: dict[str, list[Result]] = defaultdict(list)
        for result in self._of(Status.NOT_RUN):
            reasons[result.reason].append(result)
        return sorted(reasons.items(), key=lambda pair: -len(pair[1]))

    @cached_property
    def rows(self) -> list[Row]:
        """The table of cells, in the order of collection."""
        claims = self.paper.claims
        return [
            Row(result, claims.get(result.planned.claim), self.logs.get(result.planned.nodeid, Log()))
            for result in self.results
        ]

    @cached_property
    def statuses(self) -> list[Status]:
        """The verdicts that the table of cells has."""
        return [status for status in Status if self._of(status)]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Commit, command, packages, settings, the rules' digest, and the fingerprints of models and data."""
        head = self.head
        commit, paper = head.get("commit"), self.paper
        state = "outside a repository" if commit is None else "dirty" if head.get("dirty") else "clean"
        packages = head.get("packages", {}).items()
        entries = {
            "commit": f"{commit or '-'} ({state})",
            "command": shlex.join(["pytest", *head.get("command", ())]),
            "started": head.get("started"),
            "status": head.get("status"),
            "python": head.get("python"),
            "platform": head.get("platform"),
            "packages": ", ".join(f"{name} {version}" for name, version in packages if version),
            f"rules of {paper.key}": f"sha256 {head.get('papers', {}).get(paper.key)}",
        }
        for name, value in head.get("settings", {}).items():
            if name not in _SHOWN_ELSEWHERE and value not in (None, [], {}):
                entries[f"setting {name}"] = _listed(value)
        if head.get("left_out"):
            entries["left out"] = "; ".join(head["left_out"])
        entries |= {f"data {name}": f"sha256 {known}" for name, known in data_digests(head).items()}
        return entries | fingerprints(self.results)

    def group(self, result: Result) -> str:
        """The family of a result."""
        claim = self.paper.claims.get(result.planned.claim)
        return claim.group if claim else UNKNOWN.id

    def _of(self, status: Status) -> list[Result]:
        return [result for result in self.results if result.status is status]


@dataclass
class Verdicts:
    """Verdicts of cells that were tested, and those derived from other claims, which have no test of their own."""

    tested: list[Result] = field(default_factory=list)
    derived: list[Result] = field(default_factory=list)

    @property
    def tally(self) -> Tally:
        """The tested cells, as the terminal counts them."""
        return Tally.of(self.tested)

    @property
    def inferences(self) -> list[tuple[Status, int, str]]:
        """The derived verdicts by status: how many, and why."""
        found = ((status, [r for r in self.derived if r.status is status]) for status in Status)
        return [
            (status, len(results), "; ".join(f"{r.planned.claim}: {r.reason}" for r in results))
            for status, results in found
            if results
        ]

    def of(self, model: str) -> Verdicts:
        """Those of one model."""
        return Verdicts(
            *([r for r in rs if r.planned.cell.model == model] for rs in (self.tested, self.derived))
        )


@dataclass(frozen=True)
class Family:
    """A group of claims: the verdicts on those audited, by claim id in the order of the run, and the claims left."""

    group: Group
    audited: Mapping[str, Verdicts]
    left: Sequence[Claim]

    @property
    def verdicts(self) -> Verdicts:
        """All verdicts of the family."""
        every = self.audited.values()
        return Verdicts([r for v in every for r in v.tested], [r for v in every for r in v.derived])


@dataclass(frozen=True)
class Check:
    """A check of the paper against itself; a finding's notes are a sentence per violation, then remarks."""

    result: Result
    claim: Claim

    @property
    def violations(self) -> str:
        """``1 of 27``: how many of the comparisons made contradict each other; ``-`` for a check that counts none."""
        finding = self.result.finding or {}
        if not self._counts:
            return "-"
        return f"{finding['estimate']:,.0f}" + (f" of {finding['n']:,}" if finding.get("n") else "")

    @property
    def contradictions(self) -> list[str]:
        """A sentence per violation."""
        return self._notes[: self._violated]

    @property
    def refuted(self) -> bool:
        """Whether the paper contradicts itself here."""
        return self.result.status is Status.REFUTED

    @property
    def remarks(self) -> list[str]:
        """What else was noted."""
        return self._notes[self._violated :]

    @property
    def _notes(self) -> list[str]:
        return list((self.result.finding or {}).get("notes") or [self.result.reason])

    @property
    def _violated(self) -> int:
        if self._counts:
            return int((self.result.finding or {})["estimate"])
        return len(self._notes) if self.refuted else 0

    @property
    def _counts(self) -> bool:
        """Whether the estimate counts violations, as that of the rule ``consistent`` does."""
        finding = self.result.finding or {}
        return finding.get("unit") == "count" and finding.get("estimate") is not None


@dataclass(frozen=True)
class Row:
    """A cell in the table of cells. ``claim`` is None for one that the paper's files do not list."""

    result: Result
    claim: Claim | None
    log: Log

    @property
    def finding(self) -> Mapping[str, Any]:
        """The finding, empty where there is none."""
        return self.result.finding or {}

    @property
    def notes(self) -> Sequence[str]:
        """The experiment's remarks."""
        return self.finding.get("notes") or ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the finding was made."""
        return self.finding.get("settings") or {}

    @property
    def numbers(self) -> Iterator[tuple[str, str]]:
        """The columns after the verdict: what each sorts by, empty where there is no value, and what it shows."""
        finding, unit = self.finding, self.finding.get("unit", "fraction")
        chance, published = finding.get("chance"), finding.get("published")
        yield _key(finding.get("estimate")), self._measured(unit)
        yield _key(chance), "-" if chance is None else number(chance, unit) + unit_sign(unit)
        yield _key(self.result.p), p_value(self.result.p)
        yield _key(self.result.p_holm), p_value(self.result.p_holm)
        printed_unit = next((cell.unit for cell in self.claim.cells), "") if self.claim else ""
        yield (
            _printed_key(published),
            f"{visible(published, 40)} {printed_unit}".strip() if published else "-",
        )
        for count in (finding.get("n") or None, finding.get("draws") or None):
            yield _key(count), "-" if count is None else f"{count:,}"
        yield _key(self.log.seconds or None), duration(self.log.seconds or None)

    @property
    def facts(self) -> dict[str, str]:
        """The named lines that unfold under the row: the verdict in full and what it rests on."""
        finding, result = self.finding, self.result
        quantity, size = finding.get("quantity"), finding.get("effect_size")
        facts = {
            "verdict": f"{result.status.value}: {result.reason}",
            "moved": result.moved,
            "expected because": result.why,
            "printed number": result.agreement,
            "quantity": f"{quantity} ({finding.get('unit', '')})" if quantity else "",
            "interval": finding.get("interval_kind"),
            "effect size": "" if size is None else f"{size:.6g}",
            "p value": self._corrected(),
            "test": visible(result.planned.nodeid, 300),
            "time": duration(self.log.seconds) if self.log.seconds else "",
        }
        return {name: text for name, text in facts.items() if text}

    @cached_property
    def evidence(self) -> Evidence:
        """The finding's numbers."""
        return evidence_of(self.finding)

    def _corrected(self) -> str:
        """The p value that decides the cell, alone and corrected over its family; empty where none does."""
        result = self.result
        if result.p is None:
            return ""
        return (
            f"{p_value(result.p)}; corrected over the {plural(result.tests, 'test')} of its family "
            f"{p_value(result.p_holm)} (Holm), {p_value(result.p_by)} (Benjamini-Yekutieli)"
        )

    def _measured(self, unit: str) -> str:
        if self.finding.get("estimate") is None:
            return "-"
        return measured(self.finding["estimate"], self.finding.get("interval"), unit)


@dataclass(frozen=True)
class Evidence:
    """A finding's numbers: ``parts``, which the rule judged, each with some of `PART_COLUMNS`; ``asides``, what else
    was measured; ``controls``."""

    parts: Mapping[str, Mapping[str, Any]]
    asides: Mapping[str, Any]
    controls: Mapping[str, Any]

    @property
    def columns(self) -> dict[str, str]:
        """The columns of which any part has a value, with their headings."""
        return {
            column: heading
            for column, heading in PART_COLUMNS.items()
            if any(part.get(column) is not None for part in self.parts.values())
        }

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """The parts by name, with the text of each column."""
        columns = self.columns
        return [(name, [_exact(part.get(column)) for column in columns]) for name, part in self.parts.items()]


def evidence_of(finding: Mapping[str, Any]) -> Evidence:
    """Reads a finding's JSON; the only place of the report that knows how a finding keeps its numbers."""
    return Evidence(
        finding.get("parts") or {}, _flat(finding.get("asides") or {}), finding.get("controls") or {}
    )


def _flat(asides: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a verdict, a line each: a number, or an estimate with its interval and p value."""
    return {name: _aside(value) if isinstance(value, Mapping) else value for name, value in asides.items()}


def _aside(part: Mapping[str, Any]) -> str:
    estimate, interval, p = (part.get(name) for name in ("estimate", "interval", "p"))
    shown = [f"{estimate:.6g}"] if estimate is not None else []
    shown += (
        ["[{}]".format(", ".join("-" if end is None else f"{end:.6g}" for end in interval))]
        if interval
        else []
    )
    shown += [f"p {p_value(p)}"] if p is not None else []
    return " ".join(shown)


def _place(claim: Claim, paper: Paper) -> str:
    """What a check is about: a table, a chapter or another part of the paper, or another document."""
    source = claim.sources[0]
    if source.document != next(iter(paper.documents)):
        return paper.documents[source.document].partition(";")[0]
    found = re.match(r"Tables? \d+(?: (?:and|to) \d+)?|\w+(?: [A-Z0-9]+)?", source.at)
    return found.group() if found else source.at


def printed(claim: Claim) -> list[str]:
    """The printed numbers that a claim is about: those of tables in a line, then those in running text."""
    shown = [_cells(claim)] if claim.cells else []
    return shown + [f"{item.key} {item.shown} ({item.document}, {item.at})" for item in claim.numbers]


def rule_parameters(claim: Claim) -> list[str]:
    """The numbers of a claim's rule, in words."""
    parts = [f"{name.replace('_', ' ')} {value:g}" for name, value in claim.rule.parameters.items()]
    if claim.margin is not None:
        within = "a factor of " if claim.margin.kind == "factor" else ""
        parts.append(f"agrees with a printed number within {within}{claim.margin.value:g}")
    if claim.rule.detectable is not None:
        parts.append(f"meant to detect an effect of {claim.rule.detectable:g}")
    return parts


def _listed(value: Any) -> str:
    """A setting's value on a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cells(claim: Claim) -> str:
    """Printed cells on a line; coordinates that all of them share are left out."""
    cells = claim.cells
    varying = [name for name in _COORDINATES if len({getattr(cell, name) for cell in cells}) > 1]
    tables = ", ".join(dict.fromkeys(cell.table.replace("table", "Table ") for cell in cells))
    shown = "; ".join(
        " ".join([*(_coordinate(name, getattr(cell, name)) for name in varying), cell.printed]).strip()
        for cell in cells
    )
    return f"{plural(len(cells), 'cell')} of {tables}, in {cells[0].unit}: {shown}"


def _coordinate(name: str, value: object) -> str:
    if value is None:
        return ""
    return f"{name} {value:g}" if isinstance(value, (int, float)) else str(value)


def _exact(value: Any) -> str:
    """A part's number or interval, with more digits than the table of cells has room for."""
    if isinstance(value, list):
        return f"[{', '.join(_exact(item) or '-' for item in value)}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _key(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _printed_key(published: str | None) -> str:
    try:
        return _key(float(published)) if published else ""
    except ValueError:  # a range, or words
        return ""
