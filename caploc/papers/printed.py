"""What a paper prints: cells of its tables and numbers in its text, digit by digit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class PrintedNumber:
    """A number in running text. ``key`` names what it counts; ``printed`` keeps the digits as they stand."""

    key: str
    printed: str
    unit: str
    document: str
    at: str

    @property
    def value(self) -> Decimal:
        """The number, exact in the decimals that are printed."""
        return Decimal(self.printed.replace(",", ""))


@dataclass(frozen=True)
class PrintedCell:
    """One cell of a printed table; a coordinate that the table does not have is None.

    ``change`` is the difference from the base score printed beside the score. ``poster_sigma`` is the poster's label
    where it contradicts the paper's ``sigma``. ``second_in`` names the documents that mark the cell as second best.
    """

    id: str
    table: str
    printed: str
    unit: str
    model: str
    dataset: str
    quantity: str
    sigma: float | None = None
    method: str | None = None
    epoch: int | None = None
    change: str | None = None
    poster_sigma: float | None = None
    second_in: tuple[str, ...] = ()

    @property
    def value(self) -> Decimal:
        """The number, exact in the decimals that are printed."""
        return Decimal(self.printed.replace(",", ""))

    def matches(self, coordinates: Mapping[str, object]) -> bool:
        """Whether every named coordinate has that value, such as ``{"table": "table1", "quantity": "iou"}``."""
        return all(getattr(self, name) == value for name, value in coordinates.items())
