"""Figures 6 and 10: changes of score, by dataset located on (rows) and dataset tested on (columns)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caploc.audit.plots import FONT_POINTS
from caploc.audit.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def changes(figure: Figure, data: Mapping[str, Any]) -> None:
    """Gains blue, losses red, each cell with its value and interval in points."""
    rows, columns = ([visible(name, 20) for name in data[axis]] for axis in ("rows", "columns"))
    values, low, high = (
        [[math.nan if value is None else float(value) for value in row] for row in data[name]]
        for name in ("values", "low", "high")
    )
    figure.set_size_inches(max(4.6, 2.2 + 1.05 * len(columns)), max(2.6, 1.5 + 0.7 * len(rows)))
    axes = figure.subplots()
    from matplotlib import colormaps

    colours = colormaps["RdBu"].with_extremes(bad="#666666")
    image = axes.imshow(values, cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            defined = value == value
            ends = f"\n[{100 * low[i][j]:.1f}, {100 * high[i][j]:.1f}]" if defined else ""
            axes.text(j, i, (f"{100 * value:+.1f}" if defined else "-") + ends, ha="center", va="center",
                      fontsize=FONT_POINTS - 2,
                      color="black" if defined and abs(value) < 0.6 else "white")  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("tested on")
    axes.set_ylabel("located on")
    figure.colorbar(image, ax=axes, label="change of score")
