"""A paper as data: claims, printed numbers, rules of verdict, choices where the text is ambiguous, controls."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from caploc.errors import CaplocError, UnknownNameError
from caploc.papers.printed import PrintedCell, PrintedNumber


class PaperError(CaplocError):
    """A paper's file is wrong; the message names the file, the entry and the field."""


@dataclass(frozen=True)
class Rule:
    """Which rule of ``caploc.papers.rules`` judges a claim, and its fixed thresholds.

    ``claims`` are the claims that a ``derived`` verdict follows from. ``detectable`` is, for comparisons, the smallest
    true effect at which the rule is meant to say SUPPORTED, in the unit of the estimate.
    """

    kind: str
    parameters: Mapping[str, float]
    claims: tuple[str, ...] = ()
    detectable: float | None = None


@dataclass(frozen=True)
class RuleText:
    """The rule in words, for the report."""

    supported: str
    refuted: str
    inconclusive: str


@dataclass(frozen=True)
class Margin:
    """How close to a printed number counts as agreement: within ``value``, or within a factor of it."""

    kind: Literal["absolute", "factor"]
    value: float


@dataclass(frozen=True)
class Source:
    """Where a claim stands. ``quote`` has at most 25 words and may be empty."""

    document: str
    at: str
    quote: str = ""


@dataclass(frozen=True)
class Ambiguity:
    """A question that the text leaves open, the answer chosen, and the others.

    ``setting`` names the option that ``--sensitivity`` varies over ``alternatives``; it is empty where the question can
    only be recorded, and ``default`` and ``alternatives`` are then prose.
    """

    id: str
    question: str
    default: str
    alternatives: tuple[str, ...]
    setting: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, in our words, with where it stands and what decides it.

    ``cells`` are the printed table cells it is about, ``numbers`` the numbers of running text. ``test`` names the
    statistical procedure; ``ambiguities`` and ``controls`` are ids of the paper's entries.
    """

    id: str
    group: str
    kind: str
    statement: str
    sources: tuple[Source, ...]
    quantity: str
    formula: str
    direction: str
    test: str
    cells: tuple[PrintedCell, ...]
    numbers: tuple[PrintedNumber, ...]
    margin: Margin | None
    level: float
    rule: Rule
    rule_text: RuleText
    ambiguities: tuple[str, ...]
    controls: tuple[str, ...]

    def printed(self, key: str) -> PrintedNumber | PrintedCell | None:
        """The number of running text with this key, or the table cell with this id; None where there is neither."""
        numbers = (number for number in self.numbers if number.key == key)
        return next(numbers, None) or next((cell for cell in self.cells if cell.id == key), None)

    @property
    def empirical(self) -> bool:
        """Whether any measurement could decide it."""
        return self.rule.kind != "untestable"


@dataclass(frozen=True)
class Group:
    """A family of claims: ``title`` for tables, ``question`` in words a newcomer understands."""

    id: str
    title: str
    question: str


@dataclass(frozen=True)
class Definition:
    """An equation that can be read in more than one way, the reading chosen, and what a test of it checks."""

    id: str
    where: str
    problem: str
    choice: str
    check: str


@dataclass(frozen=True)
class Control:
    """A control measurement, why it is needed, and which claims it guards."""

    id: str
    why: str
    guards: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """A paper's entries by id; ``digest`` is the sha256 of all its content, rules and margins included."""

    key: str
    title: str
    reference: str
    documents: Mapping[str, str]
    groups: Mapping[str, Group]
    claims: Mapping[str, Claim]
    ambiguities: Mapping[str, Ambiguity]
    definitions: Mapping[str, Definition]
    controls: Mapping[str, Control]
    cells: tuple[PrintedCell, ...]
    digest: str

    def claim(self, claim_id: str) -> Claim:
        """The claim of this id. Raises `UnknownNameError`, naming those that are spelt alike."""
        try:
            return self.claims[claim_id]
        except KeyError:
            close = difflib.get_close_matches(claim_id, self.claims) or list(self.claims)[:3]
            raise UnknownNameError(
                f"{self.key} has no claim {claim_id!r}; it has {', '.join(close)} and others, all listed by "
                "pytest claims --claim-coverage"
            ) from None

    def table(self, table: str, **coordinates: object) -> list[PrintedCell]:
        """The printed cells of one table, ``"table1"`` to ``"table4"``, that have these coordinates, in order."""
        return [cell for cell in self.cells if cell.matches({"table": table, **coordinates})]

    def published(
        self, claim_id: str, model: str, dataset: str | None, **coordinates: object
    ) -> PrintedCell | None:
        """The one number printed for a claim in a cell; None where the paper prints none, or several."""
        wanted = {"model": model, "dataset": dataset, **coordinates}
        found = [cell for cell in self.claim(claim_id).cells if cell.matches(wanted)]
        return found[0] if len(found) == 1 else None
