"""What a check of a locator says: every check with its outcome and reason, every measure, as text, HTML and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from jinja2 import Environment

from caploc.check.contract import DUTIES, Duty, Trial
from caploc.check.marks import MARKS, MEASURES, Mark

Outcome = Literal["met", "missed", "not judged"]
_SHOWN = (
    "AUC", "AP", "precision at |M|", "precision", "recall", "found", "overlap of halves", "decoy AUC", "decoys found",
    "other-task AUC", "accuracy", "erased", "side effect", "false discoveries", "CPU s", "passes",
)  # fmt: skip


class LocatorCheckError(AssertionError):
    """A locator missed marks; the message names each, with the model, the value and the bound."""


@dataclass(frozen=True)
class Check:
    """One duty or mark on one model, before anything is run.

    Attributes:
        model: its name.
        kind: of the model.
        key: of a duty (`caploc.check.contract.DUTIES`) or of a mark (`caploc.check.marks.MARKS`).
    """

    model: str
    kind: str
    key: str

    def __str__(self) -> str:
        return f"{self.model}-{self.key}"

    @property
    def mark(self) -> Mark | None:
        """The mark, None for a duty."""
        return next((mark for mark in MARKS if mark.key == self.key), None)

    @property
    def asks(self) -> str:
        """What it asks, in words."""
        return DUTIES[self.key] if self.key in DUTIES else str(self.mark)  # type: ignore[index]


@dataclass(frozen=True)
class Judged:
    """A check, its outcome, and the reason in one line."""

    check: Check
    outcome: Outcome
    reason: str
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.check.model}: {self.check.key}: {self.reason}"


def planned(model: str, kind: str, first: bool) -> list[Check]:
    """All checks of a model: duties, ``deterministic`` on the first model only, then the marks of its kind."""
    duties = [key for key in DUTIES if first or key != "deterministic"]
    return [
        Check(model, kind, key)
        for key in (*duties, *(mark.key for mark in MARKS if mark.applies(kind, model)))
    ]


def judge(check: Check, trial: Trial, measured: dict[str, float]) -> Judged:
    """The outcome of one check."""
    mark = check.mark
    if mark is None:
        return _duty(check, trial)
    if trial.main is None:
        return Judged(check, "not judged", _unfinished(trial))
    if mark.measure not in measured:
        return Judged(check, "not judged", _absent(mark))
    value = measured[mark.measure]
    if mark.met(value):
        return Judged(
            check, "met", f"{mark.measure} {value:.3g}, asked {mark.relation} {mark.bound:g}", value
        )
    reason = f"{mark.measure} is {value:.3g}, must be {mark.relation} {mark.bound:g}: {mark.why}"
    return Judged(check, "missed", reason, value)


def _duty(check: Check, trial: Trial) -> Judged:
    duty: Duty = check.key  # type: ignore[assignment]
    if duty in trial.failures:
        return Judged(check, "missed", trial.failures[duty])
    ended = next((key for key in ("in-time", "runs", "shape", "finite") if key in trial.failures), None)
    order = list(DUTIES)
    if ended is not None and order.index(duty) > order.index(ended):
        return Judged(check, "not judged", _unfinished(trial))
    if duty == "deterministic" and "the same again" not in trial.found:
        return Judged(check, "not judged", _unfinished(trial))
    return Judged(check, "met", DUTIES[duty])


def _unfinished(trial: Trial) -> str:
    return f"a call gave no answer, see {', '.join(trial.failures)}"


def _absent(mark: Mark) -> str:
    if mark.measure in ("precision", "recall", "false discoveries"):
        return "the locator gives a ranking without a set of its own, or an empty one"
    if mark.measure in ("AUC", "precision at |M|", "decoy AUC"):
        return "the locator gives a set without a ranking (return a NeuronMask with its scores to have it judged)"
    return "the model has no other task, or the locator gives no ranking on it"


@dataclass(frozen=True, eq=False)
class LocatorReport:
    """The result of `caploc.check_locator`: shows as a table (``str``, HTML in a notebook), ``to_json`` for programs.

    Attributes:
        locator: its name.
        judged: every check of every model, duties first.
        measured: model -> measure -> value (`caploc.check.marks.MEASURES` says what each is).
        kinds: model -> its kind.
        seconds: wall time of it all.
    """

    locator: str
    judged: tuple[Judged, ...]
    measured: dict[str, dict[str, float]]
    kinds: dict[str, str]
    seconds: float

    @property
    def missed(self) -> tuple[Judged, ...]:
        """The checks that were missed."""
        return tuple(one for one in self.judged if one.outcome == "missed")

    @property
    def passed(self) -> bool:
        """Whether none was missed."""
        return not self.missed

    def raise_if_missed(self) -> None:
        """Raise `LocatorCheckError` unless every check that could be judged was met."""
        if self.missed:
            lines = "\n".join(f"  {one}" for one in self.missed)
            raise LocatorCheckError(
                f"{self.locator} missed {len(self.missed)} of {self._count} checks:\n{lines}"
            )

    @property
    def _count(self) -> int:
        return sum(one.outcome != "not judged" for one in self.judged)

    @property
    def _title(self) -> str:
        met = self._count - len(self.missed)
        return f"{self.locator}: {met} of {self._count} checks met on {len(self.kinds)} models, {self.seconds:.0f} s"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: a row a model, the measures that any has."""
        names = [name for name in _SHOWN if any(name in one for one in self.measured.values())]
        rows = []
        for model, measured in self.measured.items():
            own = [one for one in self.judged if one.check.model == model and one.outcome != "not judged"]
            met = sum(one.outcome == "met" for one in own)
            rows.append([model, f"{met}/{len(own)}", *(_shown(name, measured.get(name)) for name in names)])
        return ["model", "met", *names], rows

    def __str__(self) -> str:
        header, rows = self._table()
        lines = [self._title, "", *aligned([header, *rows])]
        for title, some in (("missed", self.missed), ("not judged", self._not_judged())):
            if some:
                lines += ["", title, *(f"  {one}" for one in some)]
        return "\n".join(lines)

    def _not_judged(self) -> list[str]:
        """A line for each model and reason."""
        keys: dict[tuple[str, str], list[str]] = {}
        for one in self.judged:
            if one.outcome == "not judged":
                keys.setdefault((one.check.model, one.reason), []).append(one.check.key)
        return [f"{model}: {', '.join(some)}: {reason}" for (model, reason), some in keys.items()]

    def _repr_html_(self) -> str:
        header, rows = self._table()
        return _HTML.render(
            title=self._title,
            header=header,
            rows=rows,
            says=MEASURES,
            missed=self.missed,
            others=self._not_judged(),
        )

    def to_json(self) -> str:
        """All of it; a measure that is not there was not measurable."""
        checks = [
            {
                "model": one.check.model,
                "kind": one.check.kind,
                "check": one.check.key,
                "asks": one.check.asks,
                "outcome": one.outcome,
                "reason": one.reason,
                "value": one.value,
            }
            for one in self.judged
        ]
        content = {
            "schema": 1,
            "locator": self.locator,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "checks": checks,
            "measures": [
                {"model": model, "kind": self.kinds[model], **measured}
                for model, measured in self.measured.items()
            ],
        }
        return json.dumps(content, indent=1, allow_nan=False)


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = zip(row, widths, strict=True)
        cells = [cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(padded)]
        yield "  ".join(cells).rstrip()


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "found":
        return f"{value:.0f}"
    return f"{value:.1f}" if name in ("CPU s", "passes") else f"{value:.2f}"


_HTML = Environment(autoescape=True).from_string(
    """<p><b>{{ title }}</b></p>
<table><thead><tr>{% for name in header %}<th title="{{ says.get(name, '') }}">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{% for name, some in (('missed', missed), ('not judged', others)) if some %}
<p>{{ name }}</p><ul>{% for one in some %}<li>{{ one }}</li>{% endfor %}</ul>{% endfor %}"""
)
