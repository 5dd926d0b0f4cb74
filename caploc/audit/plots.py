"""The figures of the report, drawn from the plain data of `caploc.findings.Plot`, as PNG files in memory.

========================  ===========================================================================================
``heatmap``               Figure 4. ``rows``: labels; ``values``: per row the largest score of each block of neurons, in
                          standard deviations, layer after layer; ``layers``: how many layers
``convergence``           Figures 5, 7, 8. ``x``: sample sizes; ``curves``: label -> {x, mean, low, high}, one number a
                          size (x may be left out); ``untrained`` (optional): the same, untrained
``matrix``                overlap between datasets. ``labels``; ``values``: square, None where undefined; ``chance``
                          (optional): the same, or one number
``changes``               Figures 6, 10. ``rows``, ``columns``: labels; ``values``, ``low``, ``high``: by row and
                          column, None where there is no such cell
``splits``                half-split overlaps. ``groups``: label -> values; ``published``, ``chance``, ``untrained``
                          (optional): label -> number, or one number for all; ``marks`` (optional): further names ->
                          the same; ``axis`` (optional): of which overlap
``layers``                Figure 2. ``curves``: label -> {mean, low, high}, one number a layer (low and high may be left
                          out); ``located`` (optional): the layer to be marked
``losses``                Figure 9. ``x``: epochs; ``curves``: label -> {mean, low, high}, nats a token after each
``completeness``          ``errors``: label -> one number a layer; ``tolerance`` (optional)
========================  ===========================================================================================

Figures are matplotlib `Figure` objects without pyplot's global state; the same data gives the same bytes. Each is
drawn for a light page or a dark one (`caploc.audit.plot_style`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from caploc.audit.plots import (
    FONT_POINTS,
    MARKERS,
    Theme,
    changes,
    colour,
    convergence,
    floats,
    ink,
    layers,
    losses,
    png,
)
from caploc.audit.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 96
MOST_COLUMNS = 400
CHARACTERS_PER_INCH = 10


def draw(kind: str, title: str, data: Mapping[str, Any], theme: Theme = Theme.LIGHT) -> bytes:
    """The figure as PNG bytes.

    Raises `ValueError` for an unknown kind and where there is nothing to draw, `KeyError` for a missing field.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of plot {kind!r}; there is {', '.join(KINDS)}")
    if not data[_MAIN_FIELD[kind]]:
        raise ValueError(f"nothing to draw: {_MAIN_FIELD[kind]} is empty")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(theme.settings):
        figure = Figure(layout="constrained", dpi=DOTS_PER_INCH)
        canvas: Any = FigureCanvasAgg(figure)
        KINDS[kind](figure, data)
        figure.suptitle(_wrapped(visible(title, 120), figure.get_figwidth()), fontsize=FONT_POINTS + 1)
        canvas.draw()
    return png(canvas.buffer_rgba())


def _wrapped(title: str, inches: float) -> str:
    """The title in lines of about one length, so that no word is left alone."""
    lines = math.ceil(len(title) / (inches * CHARACTERS_PER_INCH)) or 1
    return textwrap.fill(title, math.ceil(len(title) / lines) + 6)


def _heatmap(figure: Figure, data: Mapping[str, Any]) -> None:
    rows = list(data["rows"])
    values = [[math.nan if value is None else float(value) for value in row] for row in data["values"]]
    width = max((len(row) for row in values), default=1)
    starts = [round(layer * width / data["layers"]) for layer in range(data["layers"])]
    fold = max(1, math.ceil(width / MOST_COLUMNS))
    folded = [
        [max((v for v in row[i : i + fold] if v == v), default=math.nan) for i in range(0, width, fold)]
        for row in values
    ]
    figure.set_size_inches(9, 1.4 + 0.42 * len(rows))
    axes = figure.subplots()
    largest = max((v for row in folded for v in row if v == v), default=1.0)
    image = axes.imshow(
        folded, aspect="auto", cmap="viridis", vmin=0, vmax=largest or 1.0, interpolation="nearest",
        extent=(0, width, len(rows) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [visible(row, 30) for row in rows])
    step = max(1, math.ceil(len(starts) / 16))
    centres = [start + width / len(starts) / 2 for start in starts]
    axes.set_xticks(centres[::step], [str(layer) for layer in range(0, len(starts), step)])
    for start in starts[1:]:
        axes.axvline(start, color="white", linewidth=0.8)
    axes.set_xlabel("layer; a column is the largest of neighbouring neurons")
    figure.colorbar(image, ax=axes, label="largest |z|", pad=0.01)


def _matrix(figure: Figure, data: Mapping[str, Any]) -> None:
    labels = [visible(label, 20) for label in data["labels"]]
    values, chance = [floats(row) for row in data["values"]], data.get("chance")
    side = 1.6 + 0.95 * len(labels)
    figure.set_size_inches(max(4.2, side), max(3.4, 0.8 * side))
    axes = figure.subplots()
    from matplotlib import colormaps

    image = axes.imshow(values, cmap=colormaps["viridis"].with_extremes(bad="#666666"), vmin=0, vmax=1)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            base = chance[i][j] if isinstance(chance, (list, tuple)) else chance
            text = "-" if value != value else f"{100 * value:.1f}"
            note = "" if base is None or i == j else f"\nchance {100 * base:.1f}"
            axes.text(j, i, text + note, ha="center", va="center", fontsize=FONT_POINTS - 2,
                      color="black" if value == value and value > 0.6 else "white")  # fmt: skip
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    figure.colorbar(image, ax=axes, label="overlap")


def _splits(figure: Figure, data: Mapping[str, Any]) -> None:
    groups = {label: floats(values) for label, values in data["groups"].items()}
    figure.set_size_inches(6.4, 1.3 + 0.55 * len(groups))
    axes = figure.subplots()
    for index, values in enumerate(groups.values()):
        finite = [value for value in values if value == value]
        spread = [index + 0.28 * math.sin(12.9898 * i) for i in range(len(finite))]
        single = len(finite) == 1  # a dot among clouds would be lost
        axes.scatter(finite, [index] if single else spread, s=70 if single else 9, alpha=1 if single else 0.55,
                     linewidths=0, color=colour(index))  # fmt: skip
    marked = [
        (name, mark, shade, data.get(name))
        for name, mark, shade in (
            ("published", "*", ink()),
            ("chance", "|", "#D55E00"),
            ("untrained", "x", ink()),
        )
    ]
    further = data.get("marks") or {}
    marked += [
        (visible(name, 40), MARKERS[index % len(MARKERS)], ink(), given)
        for index, (name, given) in enumerate(further.items())
    ]
    for name, mark, shade, given in marked:
        if given is None:
            continue
        points = given if isinstance(given, Mapping) else dict.fromkeys(groups, given)
        at = [
            (value, index) for index, label in enumerate(groups) if (value := points.get(label)) is not None
        ]
        if at:
            across, down = zip(*at, strict=True)
            axes.scatter(across, down, marker=mark, s=110, color=shade, label=name, zorder=3)
    axes.set_yticks(range(len(groups)), [visible(label, 40) for label in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(visible(data.get("axis", "overlap of two random halves"), 60))
    axes.grid(axis="x", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=FONT_POINTS - 2, loc="best")


def _completeness(figure: Figure, data: Mapping[str, Any]) -> None:
    errors = {label: floats(values) for label, values in data["errors"].items()}
    layers = max((len(values) for values in errors.values()), default=1)
    figure.set_size_inches(min(9, max(4.6, 2 + 0.12 * layers * (len(errors) + 1))), 3.2)
    axes = figure.subplots()
    width = 0.8 / max(1, len(errors))
    for index, (label, values) in enumerate(errors.items()):
        places = [layer - 0.4 + (index + 0.5) * width for layer in range(len(values))]
        axes.bar(places, values, width, color=colour(index), label=visible(label, 30))
    if data.get("tolerance") is not None:
        axes.axhline(float(data["tolerance"]), color=ink(), linestyle="--", label="tolerance")
    positive = [value for values in errors.values() for value in values if value > 0]
    if positive and max(positive) > 100 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xticks(range(0, layers, max(1, math.ceil(layers / 16))))
    axes.set_xlabel("layer")
    axes.set_ylabel("completeness error")
    axes.legend(fontsize=FONT_POINTS - 2)


_MAIN_FIELD = {
    "heatmap": "values",
    "convergence": "x",
    "matrix": "values",
    "changes": "values",
    "splits": "groups",
    "layers": "curves",
    "losses": "curves",
    "completeness": "errors",
}
KINDS: Mapping[str, Callable[[Figure, Mapping[str, Any]], None]] = {
    "heatmap": _heatmap,
    "convergence": convergence,
    "matrix": _matrix,
    "changes": changes,
    "splits": _splits,
    "layers": layers,
    "losses": losses,
    "completeness": _completeness,
}
