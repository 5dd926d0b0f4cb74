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
drawn for a light page or a dark one. Colours are Okabe and Ito's, which colour-blind readers can tell apart; curves
differ in their markers as well.
"""

from __future__ import annotations

import hashlib
import math
import struct
import textwrap
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caploc.audit.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 96
MOST_COLUMNS = 400
CHARACTERS_PER_INCH = 10
MARKERS = "osD^vPX"
FONT_POINTS = 10
_BLUE, _SKY = "#0072B2", "#56B4E9"
_OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00")


class Theme(Enum):
    """The colours of a page: its panels' ground, its text, and the palette, the more visible of the two blues first."""

    LIGHT = ("#ffffff", "#1b1b1b", (_BLUE, *_OTHERS, _SKY))
    DARK = ("#212429", "#ececec", (_SKY, *_OTHERS, _BLUE))

    @property
    def settings(self) -> dict[Any, Any]:
        """matplotlib's parameters for figures of this theme."""
        from cycler import cycler

        ground, ink, palette = self.value
        inked = (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        )
        grounded = ("figure.facecolor", "axes.facecolor", "legend.facecolor")
        return {
            "font.size": FONT_POINTS,
            "font.family": "DejaVu Sans",
            "text.parse_math": False,
            "axes.prop_cycle": cycler(color=[*palette, ink]),
            "figure.constrained_layout.h_pad": 0.08,
            **dict.fromkeys(inked, ink),
            **dict.fromkeys(grounded, ground),
        }


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
    return _png(canvas.buffer_rgba())


def _wrapped(title: str, inches: float) -> str:
    """The title in lines of about equal length, so that no word is left alone on the last."""
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


def _convergence(figure: Figure, data: Mapping[str, Any]) -> None:
    """Overlap by number of samples; a dotted curve for the untrained model."""
    figure.set_size_inches(8.4, 4)
    axes = figure.subplots()
    sizes = list(data["x"])
    for index, (label, curve) in enumerate(data["curves"].items()):
        _curve(axes, sizes, label, curve, index, "-")
    if data.get("untrained"):
        untrained = data["untrained"]
        alone = "mean" in untrained
        for index, (label, curve) in enumerate(({"untrained": untrained} if alone else untrained).items()):
            name = label if "untrained" in label else f"{label}, untrained"
            # without its band, which would cover the trained model's
            bare = {"x": curve.get("x", sizes), "mean": curve["mean"]}
            _curve(axes, sizes, name, bare, -1 if alone else index, ":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("samples")
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("overlap")
    _finish(axes)


def _layers(figure: Figure, data: Mapping[str, Any]) -> None:
    """One value a layer; dotted where a curve has no interval."""
    figure.set_size_inches(8.4, 4)
    axes = figure.subplots()
    count = max(len(curve["mean"]) for curve in data["curves"].values())
    for index, (label, curve) in enumerate(data["curves"].items()):
        _curve(axes, range(count), label, curve, index, "-" if "low" in curve else ":")
    if data.get("located") is not None:
        axes.axvline(data["located"], color=_ink(), linestyle="--", linewidth=1, label="located layer")
    axes.set_xticks(range(0, count, max(1, math.ceil(count / 16))))
    axes.set_xlabel("layer")
    axes.set_ylabel("share, or difference of P")
    _finish(axes)


def _losses(figure: Figure, data: Mapping[str, Any]) -> None:
    """Loss by epoch, with the runs' range."""
    figure.set_size_inches(8.4, 4)
    axes = figure.subplots()
    for index, (label, curve) in enumerate(data["curves"].items()):
        _curve(axes, list(data["x"]), label, curve, index, "-")
    axes.set_xticks(list(data["x"]))
    axes.set_xlabel("epochs")
    axes.set_ylabel("nats per token")
    _finish(axes)


def _matrix(figure: Figure, data: Mapping[str, Any]) -> None:
    labels = [visible(label, 20) for label in data["labels"]]
    values, chance = [_floats(row) for row in data["values"]], data.get("chance")
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


def _changes(figure: Figure, data: Mapping[str, Any]) -> None:
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


def _splits(figure: Figure, data: Mapping[str, Any]) -> None:
    groups = {label: _floats(values) for label, values in data["groups"].items()}
    figure.set_size_inches(6.4, 1.3 + 0.55 * len(groups))
    axes = figure.subplots()
    for index, values in enumerate(groups.values()):
        finite = [value for value in values if value == value]
        spread = [index + 0.28 * math.sin(12.9898 * i) for i in range(len(finite))]
        single = len(finite) == 1  # a dot among clouds would be lost
        axes.scatter(finite, [index] if single else spread, s=70 if single else 12, alpha=1 if single else 0.75,
                     linewidths=0, color=_colour(index))  # fmt: skip
    marked = [
        (name, mark, shade, data.get(name))
        for name, mark, shade in (
            ("published", "*", _ink()),
            ("chance", "|", "#D55E00"),
            ("untrained", "x", _ink()),
        )
    ]
    further = data.get("marks") or {}
    marked += [
        (visible(name, 40), MARKERS[index % len(MARKERS)], _ink(), given)
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
    errors = {label: _floats(values) for label, values in data["errors"].items()}
    layers = max((len(values) for values in errors.values()), default=1)
    figure.set_size_inches(min(9, max(4.6, 2 + 0.12 * layers * (len(errors) + 1))), 3.2)
    axes = figure.subplots()
    width = 0.8 / max(1, len(errors))
    for index, (label, values) in enumerate(errors.items()):
        places = [layer - 0.4 + (index + 0.5) * width for layer in range(len(values))]
        axes.bar(places, values, width, color=_colour(index), label=visible(label, 30))
    if data.get("tolerance") is not None:
        axes.axhline(float(data["tolerance"]), color=_ink(), linestyle="--", label="tolerance")
    positive = [value for values in errors.values() for value in values if value > 0]
    if positive and max(positive) > 100 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xticks(range(0, layers, max(1, math.ceil(layers / 16))))
    axes.set_xlabel("layer")
    axes.set_ylabel("completeness error")
    axes.legend(fontsize=FONT_POINTS - 2)


def _curve(
    axes: Axes, sizes: Sequence[float], label: str, curve: Mapping[str, Any], index: int, style: str
) -> None:
    shade, marker = _colour(index), MARKERS[index % len(MARKERS)]
    mean, low, high = (_floats(curve.get(name)) for name in ("mean", "low", "high"))
    sizes = list(curve.get("x", sizes))[: len(mean)]
    shown = visible(label, 40)
    axes.plot(sizes, mean[: len(sizes)], style, color=shade, marker=marker, markersize=5, label=shown)
    if low and high:
        axes.fill_between(sizes, low[: len(sizes)], high[: len(sizes)], color=shade, alpha=0.12, linewidth=0)


def _floats(values: Any) -> list[float]:
    """Numbers, with nan for None."""
    return [math.nan if value is None else float(value) for value in values or ()]


def _finish(axes: Axes) -> None:
    """A grid, and the legend to the right of the curves."""
    axes.grid(alpha=0.3)
    axes.legend(fontsize=FONT_POINTS - 2, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _ink() -> str:
    """The text colour of the figure that is being drawn."""
    import matplotlib

    return str(matplotlib.rcParams["text.color"])


def _colour(index: int) -> str:
    """The colour of the ``index``-th curve or group; the palette, then the text colour, then over again."""
    import matplotlib

    palette = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return str(palette[index % len(palette)])


def _png(pixels: Any) -> bytes:
    """A PNG file of a canvas' RGBA pixels, in a palette of 256 colours, which halves the size of the report."""
    from PIL import Image

    stream = BytesIO()
    extent = (pixels.shape[1], pixels.shape[0])
    image = Image.frombuffer("RGBA", extent, pixels, "raw", "RGBA", 0, 1).convert("RGB")
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(stream, format="PNG", compress_level=6)  # the highest takes twice the time for 8 % less
    return stream.getvalue()


@cache
def plots_version() -> str:
    """What a figure depends on beside its data: this file and the packages that draw."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return " ".join([own, metadata.version("matplotlib"), metadata.version("pillow")])


def size(file: bytes) -> tuple[int, int]:
    """Width and height of a PNG file in pixels."""
    width, height = struct.unpack(">II", file[16:24])
    return width, height


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
    "convergence": _convergence,
    "matrix": _matrix,
    "changes": _changes,
    "splits": _splits,
    "layers": _layers,
    "losses": _losses,
    "completeness": _completeness,
}
