"""A paper as data: claims, printed cells, rules of verdict, choices where the text is ambiguous, controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from caploc.errors import CaplocError, UnknownNameError


class PaperError(CaplocError):
    """A paper's file is wrong; the message names the file, the entry and the field."""


@dataclass(frozen=True)
class Rule:
    """Which rule of ``caploc.papers.rules`` judges a claim, and its fixed thresholds."""

    kind: str
    parameters: Mapping[str, float]


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
class Claim:
    """One claim of a paper, in our words, with where it stands and what decides it.

    ``published`` maps (registry name of the model, dataset) to the number exactly as printed, in
    ``published_unit``. ``quote`` has at most 25 words; it is empty for a test of our own.
    """

    id: str
    group: str
    statement: str
    locus: str
    quote: str
    quantity: str
    formula: str
    direction: str
    published: Mapping[tuple[str, str], str]
    published_unit: str
    margin: Margin | None
    level: float
    rule: Rule
    rule_text: RuleText
    ambiguities: tuple[str, ...]
    controls: tuple[str, ...]


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
    """A paper's claims, definitions and controls by id; ``digest`` is the sha256 of all its content."""

    key: str
    title: str
    reference: str
    claims: Mapping[str, Claim]
    definitions: Mapping[str, Definition]
    controls: Mapping[str, Control]
    digest: str

    def claim(self, claim_id: str) -> Claim:
        """The claim of this id. Raises `UnknownNameError`, listing the ids there are."""
        try:
            return self.claims[claim_id]
        except KeyError:
            raise UnknownNameError(
                f"{self.key} has no claim {claim_id!r}; it has {', '.join(self.claims)}"
            ) from None

    def published(self, claim_id: str, model: str, dataset: str | None) -> str | None:
        """The number printed for a claim in a cell, digit by digit; None where the paper prints none."""
        return self.claim(claim_id).published.get((model, dataset or ""))
