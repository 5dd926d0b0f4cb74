"""Every kind of figure is drawn, alike each time, from whatever data an experiment gives."""

from __future__ import annotations

import math
import sys
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from caploc.audit.plots import KINDS, Theme, draw, size

CURVE = {"mean": [0.5, 0.7, 0.8], "low": [0.4, 0.6, 0.7], "high": [0.6, 0.8, 0.9]}
DATA: dict[str, dict[str, Any]] = {
    "heatmap": {
        "rows": ["gsm8k", "imdb"],
        "values": [[1.0, 9.0, None, 2.0], [3.0, 4.0, 5.0, 6.0]],
        "layers": 2,
    },
    "convergence": {"x": [10, 20, 40], "curves": {"gsm8k": CURVE}, "untrained": {"gsm8k": CURVE}},
    "matrix": {"labels": ["a", "b"], "values": [[1, 0.2], [None, 1]], "chance": [[1, 0.1], [0.1, 1]]},
    "changes": {
        "rows": ["gsm8k"],
        "columns": ["gsm8k", "imdb"],
        "values": [[-0.9, None]],
        "low": [[-1, None]],
        "high": [[-0.5, None]],
    },
    "splits": {"groups": {"gsm8k": [0.5, 0.6, math.nan]}, "published": {"gsm8k": 0.96}, "chance": 0.01},
    "layers": {"curves": {"efficacy": CURVE, "magnitude": {"mean": [-0.1, None, 0.3]}}, "located": 1},
    "losses": {"x": [0, 1, 5], "curves": {"located": CURVE}},
    "completeness": {"errors": {"gsm8k": [0.8, 0.001], "imdb": [0.5, 0.002]}, "tolerance": 0.01},
}
ODD: list[tuple[str, dict[str, Any]]] = [
    ("heatmap", {"rows": ["a"], "values": [[None] * 4], "layers": 2}),
    ("heatmap", {"rows": ["a"], "values": [[0.0] * 5000], "layers": 40}),
    ("convergence", {"x": [10], "curves": {}, "untrained": CURVE}),
    ("convergence", {"x": [10, 20], "curves": {"a": {"x": [10], "mean": [None], "low": [None], "high": [None]}}}),
    ("splits", {"groups": {"a": []}, "published": {"other": 0.5}, "untrained": {"a": 0.5}}),
    ("layers", {"curves": {"a": {"mean": [math.nan] * 48}}}),
    ("completeness", {"errors": {"a": [0.0, math.nan]}}),
    ("splits", {"groups": {"$\\frac{ <b> \ud800\x00": [0.5]}}),
]  # fmt: skip


def image(content: bytes) -> Image.Image:
    assert content.startswith(b"\x89PNG")
    return Image.open(BytesIO(content))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_and_the_same_each_time(kind: str) -> None:
    first = draw(kind, "A title", DATA[kind])
    assert first == draw(kind, "A title", DATA[kind])
    assert image(first).width <= 1000
    assert len(image(first).convert("RGB").getcolors(10**6) or ()) > 10
    assert first != draw(kind, "Another title", DATA[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_dark_page_gets_light_text_on_a_dark_ground(kind: str) -> None:
    light, dark = (draw(kind, "A title", DATA[kind], theme) for theme in Theme)
    assert size(light) == size(dark) == image(dark).size
    for file, theme, lower in ((light, Theme.LIGHT, False), (dark, Theme.DARK, True)):
        grey = image(file).convert("L")
        assert "#{:02x}{:02x}{:02x}".format(*image(file).convert("RGB").getpixel((1, 1))) == theme.value[0]
        title = [level for _, level in grey.crop((0, 0, grey.width, 30)).getcolors(256) or ()]
        assert (max(title) > 200) is True and (min(title) < 60) is True  # ground and letters
        assert (grey.getpixel((1, 1)) < 60) is lower


@pytest.mark.parametrize(("kind", "data"), ODD)
@pytest.mark.filterwarnings("ignore:.*All-NaN|.*identical")
def test_odd_data_is_drawn_too(kind: str, data: dict[str, Any]) -> None:
    assert image(draw(kind, "$x_ \ud800", data)).height > 50


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_draw_is_said(kind: str) -> None:
    empty = {name: type(value)() for name, value in DATA[kind].items() if not isinstance(value, float)}
    with pytest.raises(ValueError, match="nothing to draw: "):
        draw(kind, "", empty)


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ValueError, match="unknown kind of plot 'pie'; there is heatmap, "):
        draw("pie", "", {})


def test_pyplot_and_its_global_state_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    for kind, data in DATA.items():
        draw(kind, "", data)
