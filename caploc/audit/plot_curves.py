"""Curves: over sample sizes (Figures 5, 7, 8), layers (Figure 2) and epochs (Figure 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caploc.audit.plots import FONT_POINTS, MARKERS, colour, ink
from caploc.audit.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def convergence(figure: Figure, data: Mapping[str, Any]) -> None:
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
    _overlap_axis(axes)
    axes.legend(fontsize=FONT_POINTS - 2, loc="center left", bbox_to_anchor=(1.01, 0.5))


def layers(figure: Figure, data: Mapping[str, Any]) -> None:
    """One value a layer; dotted where a curve has no interval."""
    figure.set_size_inches(8.4, 4)
    axes = figure.subplots()
    count = max(len(curve["mean"]) for curve in data["curves"].values())
    for index, (label, curve) in enumerate(data["curves"].items()):
        _curve(axes, range(count), label, curve, index, "-" if "low" in curve else ":")
    if data.get("located") is not None:
        axes.axvline(data["located"], color=ink(), linestyle="--", linewidth=1, label="located layer")
    axes.set_xticks(range(0, count, max(1, math.ceil(count / 16))))
    axes.set_xlabel("layer")
    axes.set_ylabel("share, or difference of P")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=FONT_POINTS - 2, loc="center left", bbox_to_anchor=(1.01, 0.5))


def losses(figure: Figure, data: Mapping[str, Any]) -> None:
    """Loss by epoch, with the runs' range."""
    figure.set_size_inches(8.4, 4)
    axes = figure.subplots()
    for index, (label, curve) in enumerate(data["curves"].items()):
        _curve(axes, list(data["x"]), label, curve, index, "-")
    axes.set_xticks(list(data["x"]))
    axes.set_xlabel("epochs")
    axes.set_ylabel("nats a token")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=FONT_POINTS - 2, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _curve(
    axes: Axes, sizes: Sequence[float], label: str, curve: Mapping[str, Any], index: int, style: str
) -> None:
    shade, marker = colour(index), MARKERS[index % len(MARKERS)]
    mean, low, high = (floats(curve.get(name)) for name in ("mean", "low", "high"))
    sizes = list(curve.get("x", sizes))[: len(mean)]
    shown = visible(label, 40)
    axes.plot(sizes, mean[: len(sizes)], style, color=shade, marker=marker, markersize=5, label=shown)
    if low and high:
        axes.fill_between(sizes, low[: len(sizes)], high[: len(sizes)], color=shade, alpha=0.12, linewidth=0)


def floats(values: Any) -> list[float]:
    """Numbers, with nan for None."""
    return [math.nan if value is None else float(value) for value in values or ()]


def _overlap_axis(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("overlap")
    axes.grid(alpha=0.3)
