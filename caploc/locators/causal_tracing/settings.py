"""What decides a trace, beside the model and the example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from caploc.errors import OptionError

Kind = Literal["hidden", "mlp", "attention"]
Answer = Literal["first", "whole"]


@dataclass(frozen=True)
class Tracing:
    """How causal tracing is done.

    ================  ========================================================================================
    ``kind``          the state that is put back: ``hidden``, a layer's output; ``mlp`` or ``attention``, the
                      output of that sub-module, before any norm behind it
    ``window``        how many layers around l have their sub-module restored at once; ROME's figures use 10
                      of 48. Even windows reach one layer further down than up, and the model's ends cut them
    ``noise``         the noise's standard deviation, in standard deviations of the model's embeddings
    ``draws``         how often the noise is drawn
    ``answer``        whose probability is read: ``first``, the answer's first token, as ROME does, or
                      ``whole``, the product over its tokens, teacher forced
    ``seed``          of the noise
    ``chunk_tokens``  tokens in a pass, None for automatic; changes results by rounding only, no part of
                      ``settings``
    ================  ========================================================================================

    Raises:
        OptionError: a value that makes no sense.
    """

    kind: Kind = "mlp"
    window: int = 1
    noise: float = 3.0
    draws: int = 10
    answer: Answer = "first"
    seed: int = 0
    chunk_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(Kind)), ("answer", get_args(Answer))):
            if getattr(self, name) not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in (("window", 1), ("draws", 1), ("seed", 0), ("chunk_tokens", 1)):
            value = getattr(self, name)
            absent = value is None and name == "chunk_tokens"
            if not absent and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.kind == "hidden" and self.window != 1:
            raise OptionError(
                f"window {self.window} is for the kinds mlp and attention; a hidden state is restored in one layer"
            )
        if not (isinstance(self.noise, int | float) and math.isfinite(self.noise) and self.noise > 0):
            raise OptionError(f"noise must be a positive number of standard deviations, got {self.noise!r}")

    def restored_layers(self, layer: int, num_layers: int) -> range:
        """The layers whose state is put back for the entry of ``layer``: [l - w // 2, l + ceil(w / 2)), cut to the
        model."""
        below, above = self.window // 2, -(-self.window // 2)
        return range(max(0, layer - below), min(num_layers, layer + above))

    @property
    def settings(self) -> dict[str, Any]:
        """What results are keyed by and a finding records."""
        return {
            "kind": self.kind,
            "window": self.window,
            "noise": float(self.noise),
            "draws": self.draws,
            "answer": self.answer,
            "seed": self.seed,
        }
