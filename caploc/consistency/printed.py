"""What a check reads of a paper, printed numbers by key and names for readers; what it returns; which checks there are.

A check is a function of the paper and of one of its claims; it returns how many things it looked at, and a sentence on
each that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

from caploc.errors import UnknownNameError
from caploc.findings import Aside, Count, Measurement
from caploc.model.registry import REGISTRY
from caploc.papers import Claim, Paper, PrintedCell, PrintedNumber

Check = Callable[[Paper, Claim], Measurement]
CHECKS: dict[str, Check] = {}
"""Claim id -> the check that decides it."""
DATASETS = ("gsm8k", "emotion", "code25k")
"""The datasets of Tables 2 and 3, whose mean is the column ``average``."""

_DISPLAY = {
    "gsm8k": "GSM8K",
    "emotion": "Emotion",
    "code25k": "Code25K",
    "meta_math": "Meta_Math",
    "imdb": "Imdb",
    "average": "average",
}


def check(*claims: str) -> Callable[[Check], Check]:
    """Registers a function as the check that decides these claims."""

    def registered(function: Check) -> Check:
        CHECKS.update(dict.fromkeys(claims, function))
        return function

    return registered


def consistent(
    claim: Claim,
    checked: int,
    violations: Sequence[str],
    remarks: Sequence[str] = (),
    asides: Mapping[str, Aside] | None = None,
) -> Measurement:
    """The measurement for a claim whose rule is ``consistent``: it counts the violations.

    ``violations`` and ``remarks`` are whole sentences for the report; remarks explain, and count for nothing.
    """
    return Measurement(
        claim.quantity,
        Count(float(len(violations)), unit="count"),
        n=checked,
        asides=asides or {},
        notes=[*violations, *remarks],
    )


def numbers(claim: Claim, key: str) -> list[PrintedNumber]:
    """The printed numbers of this key, one for each place that prints it. Raises `UnknownNameError`."""
    found = [number for number in claim.numbers if number.key == key]
    if not found:
        known = ", ".join(dict.fromkeys(number.key for number in claim.numbers)) or "none"
        raise UnknownNameError(f"claim {claim.id!r} has no number {key!r}; it has {known}")
    return found


def number(claim: Claim, key: str) -> PrintedNumber:
    """The first printed number of this key. Raises `UnknownNameError`."""
    return numbers(claim, key)[0]


def share(printed: PrintedNumber | PrintedCell) -> Fraction:
    """A printed percentage as an exact fraction."""
    return Fraction(printed.printed) / 100


def whole(printed: PrintedNumber) -> int:
    """A printed count."""
    return int(printed.printed)


def all_neurons(model: str) -> int:
    """FFN neurons of a model, all layers together, from its public configuration."""
    return REGISTRY[model].layers * REGISTRY[model].neurons


def model_name(model: str) -> str:
    """``llama2-7b`` as the tables print it."""
    return REGISTRY[model].display if model in REGISTRY else model


def dataset_name(dataset: str) -> str:
    """``gsm8k`` as the tables print it."""
    return _DISPLAY.get(dataset, dataset)


def block_name(cell: PrintedCell) -> str:
    """The block of a table that a cell stands in: ``Table 2, Llama2-7B, sigma 6``."""
    sigma = f", sigma {cell.sigma:g}" if cell.sigma is not None and cell.table != "table1" else ""
    return f"Table {cell.table.removeprefix('table')}, {model_name(cell.model)}{sigma}"


def cell_name(cell: PrintedCell) -> str:
    """Where a cell stands, in words: ``Table 2, Llama2-7B, sigma 6, located, epoch 5, GSM8K``."""
    parts = [block_name(cell)]
    parts += [cell.method] if cell.method else []
    parts += [f"epoch {cell.epoch}"] if cell.epoch is not None else []
    return ", ".join([*parts, dataset_name(cell.dataset)])


def place(number: PrintedNumber) -> str:
    """Where a number of running text stands: ``Section 3.1`` or ``the poster``."""
    return "the poster" if number.document == "poster" else number.at


def listed(items: Iterable[object]) -> str:
    """``a, b and c``."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
