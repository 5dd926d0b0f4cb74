"""How figures look: themes for light and dark pages, colours, and the PNG file that comes of it.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; curves differ in their markers as well.
"""

from __future__ import annotations

import struct
from enum import Enum
from io import BytesIO
from typing import Any

MARKERS = "osD^vPX"
FONT_POINTS = 10
_BLUE, _SKY = "#0072B2", "#56B4E9"
_OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00")


class Theme(Enum):
    """The colours of a page: its panels' ground, its text, and the palette, the better visible blue first."""

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


def ink() -> str:
    """The text colour of the figure that is being drawn."""
    import matplotlib

    return str(matplotlib.rcParams["text.color"])


def colour(index: int) -> str:
    """The colour of the ``index``-th curve or group; after the palette comes the text colour, then it begins anew."""
    import matplotlib

    palette = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return str(palette[index % len(palette)])


def png(pixels: Any) -> bytes:
    """A PNG file of a canvas' RGBA pixels, in a palette of 256 colours, which halves the size of the report."""
    from PIL import Image

    stream = BytesIO()
    extent = (pixels.shape[1], pixels.shape[0])
    image = Image.frombuffer("RGBA", extent, pixels, "raw", "RGBA", 0, 1).convert("RGB")
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def size(file: bytes) -> tuple[int, int]:
    """Width and height of a PNG file in pixels."""
    width, height = struct.unpack(">II", file[16:24])
    return width, height
