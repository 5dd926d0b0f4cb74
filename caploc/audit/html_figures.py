"""A finding's plots as pictures inside the page, one drawing for light pages and one for dark ones."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from caploc.audit.plots import Theme, draw, size
from caploc.audit.results import Result
from caploc.audit.text import escaped

MOST_FIGURES = 150
"""More than these are left to the ledger, which holds their data: a page of them would open slowly."""


class Figures:
    """Draws the plots of results, in the order in which it is asked."""

    def __init__(self) -> None:
        self._drawn = 0

    def of(self, results: Iterable[Result]) -> Iterator[str]:
        """Each plot as HTML; one that cannot be drawn is a sentence, so that it does not cost the reader the page."""
        for result in results:
            for plot in (result.finding or {}).get("plots") or ():
                yield self._figure(plot, result)

    def _figure(self, plot: Mapping[str, Any], result: Result) -> str:
        cell, caption = result.planned.cell, str(plot.get("title", ""))
        caption += "" if cell.model in caption else f" ({cell.label})"
        if self._drawn >= MOST_FIGURES:
            return f"<p>{escaped(caption)}: its data are in the ledger; {MOST_FIGURES} figures are drawn</p>"
        try:
            light, dark = (draw(plot["kind"], caption, plot["data"], theme) for theme in Theme)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            return (
                f"<p>no figure for {escaped(caption)}: {escaped(type(error).__name__)}: {escaped(error)}</p>"
            )
        self._drawn += 1
        alternative = escaped(f"{caption}: {result.status.lower()}, {result.reason}")
        width, height = size(light)
        return (
            f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data(dark)}">'
            f'<img src="{_data(light)}" alt="{alternative}" width="{width}" height="{height}" loading="lazy">'
            "</picture></figure>"
        )


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
