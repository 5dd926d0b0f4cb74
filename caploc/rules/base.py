"""What a rule is, how rules are found by name, and how a claim's rule judges a finding.

A rule looks at nothing but its own thresholds and the typed parts of one measurement, so that a ledger can be judged
again later. All of them share three properties, which ``caploc/tests/papers/test_rules_on_any_numbers.py`` draws at
random: they return for every number, nan and infinity included; moving an interval up never turns SUPPORTED into
REFUTED where high is claimed; and the reason names the numbers and thresholds that decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from caploc.findings import Finding, Outcome, Part, Range, Verdict

if TYPE_CHECKING:
    from caploc.papers import Claim

AnyPart = TypeVar("AnyPart", bound=Part)

Threshold = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A threshold: a finite number, and no string or truth value that could be taken for one."""
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Level = Annotated[float, Field(strict=True, ge=0, le=1)]


TWO_SIDED, ONE_SIDED = 0.025, 0.05
"""What an interval of 95 % and one of 90 % leave beyond either end."""


class IncompleteFindingError(ValueError):
    """A finding lacks a part that the claim's rule reads: a defect of the experiment, not a result."""


class NotANumberError(Exception):
    """A number that the rule reads is nan; the message says which."""


def _only_where_declared(value: Any) -> Any:
    raise ValueError("rules of this kind have none")


class Rule(BaseModel):
    """How a claim is judged: thresholds fixed before the run, what they are compared with, and the verdict.

    A kind of rule is one subclass: its fields are the parameters that a claim's entry gives, its docstring says what
    is supported and what is refuted. Naming it registers it:

        class Below(Rule, kind="below"):
            limit: Threshold

            def judge(self, claim: Claim, finding: Finding) -> Verdict: ...

    after which an entry may say ``rule = { kind = "below", limit = 0.5 }``. In every other case than those that the
    docstring names the verdict is INCONCLUSIVE, and so it is for a floor effect and where a number is undefined.

    "One interval lies below" is said of intervals that hold for all parts of which one refutes (`at_once`): several
    chances to refute a true claim must not add up.

    Attributes:
        detectable: for comparisons, the smallest true effect at which the rule is meant to say SUPPORTED, in the unit
            of the estimate.
        claims: for derived claims, those whose verdicts decide.
        counterexamples: for derived claims, lists of those that refute it together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str] = ""
    empirical: ClassVar[bool] = True
    """Whether any measurement could decide a claim of this kind."""

    detectable: Annotated[float | None, AfterValidator(_only_where_declared)] = None
    claims: Annotated[tuple[str, ...], AfterValidator(_only_where_declared)] = ()
    counterexamples: Annotated[tuple[tuple[str, ...], ...], AfterValidator(_only_where_declared)] = ()

    def __init_subclass__(cls, kind: str = "", **config: Any) -> None:
        super().__init_subclass__(**config)
        if not kind:
            return
        known = RULES.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"a rule of kind {kind!r} exists already, {known.__qualname__}: name it otherwise"
            )
        cls.kind = kind
        RULES[kind] = cls

    @property
    def parameters(self) -> Mapping[str, float]:
        """The thresholds by name, those taken from other claims included."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields if name != "detectable")
        return {name: float(value) for name, value in values if isinstance(value, (bool, int, float))}

    @property
    def reads(self) -> tuple[str, ...]:
        """The claims of whose cells it asks how they ended."""
        return self.claims + sum(self.counterexamples, ())

    def resolved(self, rules: Mapping[str, Rule]) -> Rule:
        """This rule with what it takes from other claims filled in; ``rules`` are the paper's by claim.

        Raises:
            ValueError: a claim that it refers to is not there, or has another kind of rule.
        """
        return self

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        """The verdict on a finding that ran, without a floor effect. Called by `judge`.

        Raises:
            IncompleteFindingError: a part that the rule reads is missing.
            NotANumberError: a number that the rule reads is nan.
        """
        raise NotImplementedError(f"the rule {self.kind!r} has no method judge")

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        """The p values, already corrected within the finding, that must all lie below the level for SUPPORTED."""
        return ()

    def nothing_to_judge(self, claim: Claim, finding: Finding) -> str | None:
        """Why the cell can be measured and not judged, whatever was found: the paper prints nothing to hold it against.
        None where it can."""
        return None

    def heeds_floor(self, finding: Finding) -> bool:
        """Whether a floor effect makes the measurement uninformative to this rule."""
        return True


class Comparison(Rule):
    """Sets located against something else; its claims state the effect that they are meant to detect."""

    detectable: NonNegative


RULES: dict[str, type[Rule]] = {}
"""Kind -> rule, as registered by subclassing."""


def judge(claim: Claim, finding: Finding) -> Verdict:
    """What the claim's rule makes of the finding.

    NOT RUN if the finding says so; MEASURED where the paper prints nothing that the rule could hold the cell against;
    INCONCLUSIVE for a floor or ceiling effect, for an estimate that is missing or not a number, and where a number that
    the rule reads is nan; else what that rule says.

    Raises:
        IncompleteFindingError: the finding belongs to another claim, a part that the rule reads is absent, or the
            claim is a derived one, which `caploc.rules.derive` judges.
    """
    if finding.claim != claim.id:
        raise IncompleteFindingError(f"the finding is about {finding.claim!r}, not about {claim.id!r}")
    rule, found = claim.rule, finding.measurement
    if rule.claims:
        raise IncompleteFindingError(
            f"{claim.id!r} follows from {', '.join(rule.claims)}: derive its verdict from theirs"
        )
    if found.not_run is not None:
        return Verdict(Outcome.NOT_RUN, found.not_run)
    if (reason := rule.nothing_to_judge(claim, finding)) is not None:
        return Verdict(Outcome.MEASURED, reason)
    if found.floor is not None and rule.heeds_floor(finding):
        return Verdict(Outcome.INCONCLUSIVE, found.floor)
    try:
        if rule.empirical:
            estimate(finding)
        return rule.judge(claim, finding)
    except NotANumberError as undefined:
        return Verdict(Outcome.INCONCLUSIVE, str(undefined))


def decisive_p(claim: Claim, finding: Finding) -> float | None:
    """The largest p value that the rule needs below its level to say SUPPORTED, already corrected within the finding.

    None where the rule reads no p value, and where the finding lacks one or has one that is undefined.
    """
    values = claim.rule.decisive(finding)
    if not values or any(value is None or math.isnan(value) for value in values):
        return None
    return float(max(cast("Sequence[float]", values)))


class Span:
    """An interval under the name by which reasons call it."""

    __slots__ = ("high", "low", "name")

    def __init__(self, name: str, ends: Range) -> None:
        self.name = name
        self.low, self.high = map(float, ends)

    @property
    def ends(self) -> Range:
        return self.low, self.high

    def shown(self, *thresholds: float) -> str:
        """Name and interval, with digits enough to tell its ends from the thresholds."""
        return f"{self.name} {span(self.low, self.high, *thresholds)}"

    def called(self, name: str) -> Span:
        """The same interval under another name."""
        return Span(name, (self.low, self.high))

    def within(self, margin: float) -> bool:
        """Whether it lies strictly closer to 0 than ``margin``."""
        return -margin < self.low <= self.high < margin


def estimate(finding: Finding) -> float:
    """The estimate of the finding's value. Raises `NotANumberError` where it is missing, nan or infinite."""
    found = finding.measurement
    if found.value is None or found.value.estimate is None or not math.isfinite(found.value.estimate):
        raise NotANumberError(f"no estimate: {found.quantity} is undefined here")
    return float(found.value.estimate)


def value_interval(finding: Finding) -> Span:
    """The 95 % interval of the finding's value, in order, named by its quantity. Raises `NotANumberError`."""
    found = finding.measurement
    if found.value is None or found.value.interval is None:
        raise NotANumberError(f"no interval for {found.quantity}: too few draws or samples to give one")
    return _in_order(found.quantity, found.value.interval)


def value_interval90(finding: Finding) -> Span:
    """The 90 % interval of the finding's value, in order. Raises `IncompleteFindingError` and `NotANumberError`."""
    found = finding.measurement
    if found.value is None or found.value.interval90 is None:
        raise IncompleteFindingError(
            f"the value of the finding of {finding.claim!r} has no interval90, which its rule reads"
        )
    return _in_order("90 % interval", found.value.interval90)


def part(finding: Finding, name: str, kind: type[AnyPart]) -> AnyPart:
    """The part of this name and kind. Raises `IncompleteFindingError`."""
    found = finding.measurement.parts.get(name)
    if not isinstance(found, kind):
        raise IncompleteFindingError(
            f"the finding of {finding.claim!r} lacks the part {name!r} ({kind.__name__}), which its rule reads"
        )
    return found


def parts(finding: Finding, kind: type[AnyPart]) -> dict[str, AnyPart]:
    """All parts of this kind, by name, of which there must be one. Raises `IncompleteFindingError`."""
    found = finding.measurement.of(kind)
    if not found:
        raise IncompleteFindingError(
            f"the finding of {finding.claim!r} has no part that is a {kind.__name__}, which its rule reads"
        )
    return found


def number(finding: Finding, name: str, one: Part, field: str = "estimate") -> float:
    """One number of a part. Raises `IncompleteFindingError` where it is absent, `NotANumberError` where it is nan."""
    value = getattr(one, field)
    if value is None:
        raise IncompleteFindingError(
            f"the part {name!r} of the finding of {finding.claim!r} has no {field}, which its rule reads"
        )
    return _defined(float(value), name, field)


def ends(finding: Finding, name: str, one: Part, field: str = "interval") -> Range:
    """Both ends of a part's interval, of 95 % or, with ``interval90``, of 90 %. Raises as `number` does."""
    values = getattr(one, field)
    if values is None:
        raise IncompleteFindingError(
            f"the part {name!r} of the finding of {finding.claim!r} has no {field}, which its rule reads"
        )
    low, high = (_defined(float(value), name, field) for value in values)
    return low, high


def interval(finding: Finding, name: str, one: Part, field: str = "interval") -> Span:
    """A part's interval, in order. Raises as `number` does."""
    return _in_order(name, ends(finding, name, one, field))


def at_once(finding: Finding, name: str, one: Part, of: int, field: str = "interval") -> Span:
    """A part's interval where any of ``of`` parts refutes a claim of all of them: it holds for all at once.

    A claim of several parts is false where one of them is, and a test of each at the level would refute a true one the
    more often, the more parts it has: each is given its share of the level (Bonferroni), by widening its interval about
    the estimate on a normal scale. A claim that all parts must support needs no such correction. Raises as `number`.
    """
    low, high = _in_order(name, ends(finding, name, one, field)).ends
    level = TWO_SIDED if field == "interval" else ONE_SIDED
    normal = NormalDist()
    by = normal.inv_cdf(1 - level / of) / normal.inv_cdf(1 - level)
    return Span(name, widened((low, high), one.estimate, by))


def widened(values: Range, estimate: float | None, by: float) -> Range:
    """Each end moved away from the estimate, or from the middle where that lies outside."""
    low, high = values
    if by == 1 or not (math.isfinite(low) and math.isfinite(high)):
        return values
    middle = float(estimate) if estimate is not None and low <= estimate <= high else (low + high) / 2
    return middle - by * (middle - low), middle + by * (high - middle)


def _defined(value: float, name: str, field: str) -> float:
    if math.isnan(value):
        raise NotANumberError(f"the {field} of {name!r} is undefined here")
    return value


def _in_order(name: str, values: Range) -> Span:
    low, high = values
    if not low <= high:  # nan included
        raise NotANumberError(f"{name}: interval [{num(low)}, {num(high)}] is undefined")
    return Span(name, (low, high))


def num(value: float, *thresholds: float) -> str:
    """``value`` with as few digits, from four on, as tell it from the thresholds it was compared with."""
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if not any(text == f"{other:.{digits}g}" and value != other for other in thresholds):
            return text
    return repr(float(value))


def span(low: float, high: float, *thresholds: float) -> str:
    """An interval, each end with digits enough to tell it from the thresholds."""
    return f"[{num(low, *thresholds)}, {num(high, *thresholds)}]"


def listed(items: Sequence[str], most: int = 3) -> str:
    """The first few of many, and how many more there are."""
    rest = len(items) - most
    return "; ".join(items[:most]) + (f"; and {rest} more" if rest > 0 else "")
