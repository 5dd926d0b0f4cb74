"""A paper as data: claims, printed numbers, rules of verdict, choices where the text is ambiguous, controls.

Entries of a paper's TOML files are these classes, validated by pydantic: their fields are the fields of an entry.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic.dataclasses import dataclass as entry

from caploc.errors import CaplocError, UnknownNameError
from caploc.findings import Cell
from caploc.rules import Rule
from caploc.rules.base import Level, NonNegative

LONGEST_QUOTE_WORDS = 25
LONGEST_HEADLINE = 60
PRINTED_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e-?\d+)?")
ANY_MODEL = "*"
"""Stands for every model among those that a number is printed for."""

Kind = Literal[
    "number",
    "bound",
    "comparison",
    "equivalence",
    "trend",
    "existence",
    "conjunction",
    "definition",
    "statement",
]
"""What a claim is: a value, a bound on it, one thing against another, no difference, a trend, that something occurs,
what follows from other claims, an equation or constant, or a remark that no measurement decides."""


Standing = Literal["empirical", "derived", "repeats", "print", "control", "reading", "summary"]
"""What a claim's cells count as: a claim of the authors about models; one that follows from others, or says again what
another decides; a check of the print against itself; ours; another reading of an equation; of a summary alone."""


class PaperError(CaplocError):
    """A paper's file is wrong; the message names the file, the entry and the field."""


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must be a non-empty string")
    return value


def _digits(value: Any) -> str:
    # a string, since a float would lose its trailing zeros
    if not isinstance(value, str) or not PRINTED_NUMBER.fullmatch(value):
        raise ValueError("must be the digits as printed, as a string")
    return value


def _amount(value: Any) -> int | float:
    # a count stays one: 16 facts, not 16.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _short(value: str) -> str:
    if len(value.split()) > LONGEST_QUOTE_WORDS:
        raise ValueError(f"has more than {LONGEST_QUOTE_WORDS} words: shorten it")
    return value


def _label(value: str) -> str:
    if value != value.strip() or len(value) > LONGEST_HEADLINE:
        raise ValueError(f"must be a label of at most {LONGEST_HEADLINE} characters")
    return value


Id = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-]*$")]
Text = Annotated[str, AfterValidator(_text)]
Digits = Annotated[str, BeforeValidator(_digits)]
Amount = Annotated[int | float, PlainValidator(_amount)]
FORBID = ConfigDict(extra="forbid")


Certainty = Literal["certain", "high", "medium"]
"""How sure it is that a number stands in the paper: read there, or told by others, with how much care. What is only
recalled is no printed number."""


@entry(frozen=True, config=FORBID)
class PrintedNumber:
    """A number in running text. ``key`` names what it counts; ``printed`` keeps the digits as they stand."""

    key: Text
    printed: Digits
    unit: Text
    document: Text
    at: Text
    certainty: Certainty = "certain"

    @property
    def shown(self) -> str:
        """The number with its unit and, where it was not read in the paper itself, how certain it is."""
        how = "" if self.certainty == "certain" else f" (second-hand, certainty {self.certainty})"
        return f"{self.printed} {self.unit}{how}"

    @property
    def value(self) -> Decimal:
        """The number, exact in the decimals that are printed."""
        return Decimal(self.printed.replace(",", ""))


@entry(frozen=True, config=FORBID)
class PrintedCell:
    """One cell of a printed table; a coordinate that the table does not have is None.

    Attributes:
        change: the difference from the base score, printed beside the score.
        sigma_in: the sigma by which another document labels the cell, where that contradicts ``sigma``.
        second_in: the documents that mark the cell as second best.
    """

    id: str
    table: Text
    printed: Digits
    unit: Text
    model: Text
    dataset: Text
    quantity: Text
    sigma: NonNegative | None = None
    method: str | None = None
    epoch: int | None = None
    change: Digits | None = None
    sigma_in: Mapping[str, float] = Field(default_factory=dict)
    second_in: tuple[str, ...] = ()

    @property
    def value(self) -> Decimal:
        """The number, exact in the decimals that are printed."""
        return Decimal(self.printed.replace(",", ""))

    def matches(self, coordinates: Mapping[str, object]) -> bool:
        """Whether every named coordinate has that value, such as ``{"table": "table1", "quantity": "iou"}``."""
        return all(getattr(self, name) == value for name, value in coordinates.items())


@entry(frozen=True, config=FORBID)
class RuleText:
    """The rule in words, for the report."""

    supported: Text
    refuted: Text
    inconclusive: Text


@entry(frozen=True, config=FORBID)
class Margin:
    """How close to a printed number counts as agreement: within ``value``, or within a factor of it."""

    kind: Literal["absolute", "factor"]
    value: NonNegative

    def __post_init__(self) -> None:
        if self.kind == "factor" and self.value < 1:
            raise ValueError("must be at least 1, as a factor")


@entry(frozen=True, config=FORBID)
class Source:
    """Where a claim stands. ``quote`` has at most 25 words and may be empty."""

    document: Text
    at: Text
    quote: Annotated[str, AfterValidator(_short)] = ""


@entry(frozen=True, config=FORBID)
class PrintedFor:
    """The models, ``*`` for any, and the dataset, None for any, that the numbers in running text are printed for."""

    models: tuple[Text, ...]
    dataset: Text | None = None

    def covers(self, cell: Cell) -> bool:
        """Whether the numbers are about this cell."""
        named = ANY_MODEL in self.models or cell.model in self.models
        return named and self.dataset in (None, cell.dataset)


@entry(frozen=True, config=FORBID)
class Ambiguity:
    """A question that the text leaves open, the answer chosen, and the others.

    ``setting`` names the option that ``--sensitivity`` varies over ``alternatives``; it is empty where the question can
    only be recorded, and ``default`` and ``alternatives`` are then prose.
    """

    id: Id
    question: Text
    default: Text
    alternatives: tuple[Text, ...]
    setting: str = ""


@entry(frozen=True, config=FORBID)
class Claim:
    """One claim of a paper, in our words, with where it stands and what decides it.

    ``direction`` says what speaks for the claim; ``test`` names the statistical test in words. ``cells`` and
    ``numbers`` are what the paper prints about it.

    Attributes:
        quoted: whether a finding quotes the claim's printed number beside its estimate; not where the numbers describe
            the setting.
        printed_for: which cells ``numbers`` are about, by default those of the group; None for none.
        sigmas: those at which the paper reports it, by default those of the group: the cells of a run that names none.
        repeats: the claim whose statistic this one states again under another name; that one is counted, this one is
            judged and shown.
        standing: what its cells count as; by default what follows from its rule and its sources.
        margins: further margins that decide a verdict, by name, the paper's unless the claim has its own: the least
            loss that counts, the fewest facts an interval is taken over.
        headline: a short label for a claim that a reader of the paper comes for, which the report shows first; empty
            for the others.
    """

    id: Id
    group: Text
    kind: Kind
    statement: Text
    sources: tuple[Source, ...]
    quantity: Text
    formula: Text
    direction: Text
    test: Text
    level: Level
    rule: Rule
    rule_text: RuleText
    ambiguities: tuple[Text, ...]
    controls: tuple[Text, ...]
    cells: tuple[PrintedCell, ...] = ()
    numbers: tuple[PrintedNumber, ...] = ()
    quoted: bool = True
    printed_for: PrintedFor | None = None
    sigmas: tuple[NonNegative, ...] = ()
    repeats: str = ""
    standing: Standing = "empirical"
    margin: Margin | None = None
    margins: Mapping[str, Amount] = Field(default_factory=dict)
    headline: Annotated[str, AfterValidator(_label)] = ""

    @property
    def empirical(self) -> bool:
        """Whether any measurement could decide it."""
        return self.rule.empirical

    def covers(self, cell: Cell) -> bool:
        """Whether the numbers that the paper prints in running text for this claim are about a cell."""
        return self.printed_for is not None and self.printed_for.covers(cell)

    def published(self, cell: Cell, column: str | None = None) -> str | None:
        """The one number, as printed, that a finding in this cell is quoted beside; None where there is none.

        Of the claim's table cells that of the model, the sigma and the dataset, or ``column`` where the number belongs
        to another column of the table, such as ``average``; several are no one number. A claim without table cells
        has its first number in running text, in the cells that this is about.
        """
        if not self.quoted:
            return None
        if self.cells:
            found = self._at(cell, {"dataset": column or cell.dataset})
            return found[0].printed if len(found) == 1 else None
        return self.numbers[0].printed if self.numbers and self.covers(cell) else None

    def printed_number(
        self, cell: Cell, key: str, at: Mapping[str, Any] | None = None
    ) -> PrintedNumber | PrintedCell | None:
        """What the paper prints for one of a finding's numbers in this cell; None where it prints nothing.

        Args:
            key: the key of a number in running text.
            at: in place of the key, coordinates of a table cell beyond model and sigma.
        """
        if at:
            found = self._at(cell, at)
            return found[0] if len(found) == 1 else None
        if not self.covers(cell):
            return None
        return next((number for number in self.numbers if number.key == key), None)

    def _at(self, cell: Cell, coordinates: Mapping[str, Any]) -> list[PrintedCell]:
        """The claim's table cells of this cell's model and sigma, where they have a sigma, that are there."""
        wanted = {"model": cell.model, **coordinates}
        if any(one.sigma is not None for one in self.cells):
            wanted["sigma"] = cell.sigma
        return [one for one in self.cells if one.matches(wanted)]


@entry(frozen=True, config=FORBID)
class Group:
    """A family of claims: ``title`` for tables, ``question`` in words a newcomer understands.

    ``printed_for`` says which cells the numbers that its claims print in running text are about, ``sigmas`` at which
    sigmas the paper reports them.
    """

    id: Id
    title: Text
    question: Text
    printed_for: PrintedFor | None = None
    sigmas: tuple[NonNegative, ...] = ()


@entry(frozen=True, config=FORBID)
class Definition:
    """An equation that can be read in more than one way, the reading chosen, and what a test of it checks."""

    id: Id
    where: Text
    problem: Text
    choice: Text
    check: Text


@entry(frozen=True, config=FORBID)
class Control:
    """A control measurement, why it is needed, and which claims it guards."""

    id: Id
    why: Text
    guards: tuple[Text, ...]


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
    margins: Mapping[str, float]
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
        """The printed cells of one table, such as ``"table1"``, that have these coordinates, in order."""
        return [cell for cell in self.cells if cell.matches({"table": table, **coordinates})]
