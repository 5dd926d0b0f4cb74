"""What causal tracing is told and what it finds: its settings, the noise, and the trace of one example."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from caploc.errors import OptionError
from caploc.rows.sizing import refused_if_too_large
from caploc.streams import Stream, stream

Kind = Literal["hidden", "mlp", "attention"]
Answer = Literal["first", "whole"]
Rank = Literal["last-subject", "sum"]
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class Tracing:
    """How causal tracing is done.

    ================  ========================================================================================
    ``kind``          the state that is put back: ``hidden``, a layer's output, as in appendix C; ``mlp`` or
                      ``attention``, the output of that sub-module, before any norm behind it
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

    kind: Kind = "hidden"
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


@refused_if_too_large("the deviation of embeddings")
@torch.no_grad()
def embedding_deviation(embedding: nn.Embedding) -> float:
    """The standard deviation of all entries of what ``embedding`` makes of all its tokens.

    Taken from its output, so that the noise keeps its scale where a family scales its embeddings (Gemma 3). ROME takes
    it over the embeddings of its facts' subjects instead, so that one fact's noise depends on the others.
    """
    device = next(embedding.parameters()).device
    pieces = torch.arange(embedding.num_embeddings, device=device).split(_TOKENS_AT_ONCE)
    entries = embedding.num_embeddings * embedding.embedding_dim
    mean = sum(float(embedding(ids).double().sum()) for ids in pieces) / entries
    squares = sum(float((embedding(ids).double() - mean).square().sum()) for ids in pieces)
    return math.sqrt(squares / entries)


def draw_noise(
    seed: int, name: str, draws: int, tokens: int, width: int
) -> Float[Tensor, "draws tokens width"]:
    """Standard normal noise in float64 for the example called ``name``: its own, whatever is traced beside it, and the
    first draws the same whatever their number."""
    tag = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return torch.from_numpy(stream(Stream.NOISE, seed, tag).standard_normal((draws, tokens, width)))


@dataclass(frozen=True, eq=False)
class Trace:
    """Probabilities of the answer: clean, with noise on the subject, and with one state put back.

    Attributes:
        id: the example's.
        token_ids: the prompt's tokens.
        subject: which of them are the subject.
        clean: P(answer) of the clean run.
        corrupted: the same with each draw of the noise.
        restored_by_draw: with noise and the clean state of (token, layer) put back. Entries that cannot differ from
            ``corrupted``, those of tokens in front of the subject among them, equal it exactly.
        clean_is_top: whether the clean run's most probable token is the answer's (each of them, where the whole
            answer is read).
        corrupted_is_top: the same for each draw.
        settings: what was chosen, and ``deviation``, the noise's standard deviation.
    """

    id: str
    token_ids: tuple[int, ...]
    subject: range
    clean: float
    corrupted: Float[Tensor, " draws"]
    restored_by_draw: Float[Tensor, "draws tokens layers"]
    clean_is_top: bool
    corrupted_is_top: Bool[Tensor, " draws"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def restored(self) -> Float[Tensor, "tokens layers"]:
        """Mean over draws."""
        return self.restored_by_draw.mean(0)

    @property
    def spread(self) -> Float[Tensor, "tokens layers"]:
        """Standard deviation over draws (divided by their number: zero for a single one)."""
        return self.restored_by_draw.std(0, correction=0)

    def by_layer(self, rank: Rank = "last-subject") -> Float[Tensor, " layers"]:
        """P_l of appendix C, a layer's contribution: the restored probability at the subject's last token, or its sum
        over the prompt's tokens. Ranking by the gain over ``corrupted`` gives the same order.

        Raises:
            OptionError: an unknown ``rank``.
        """
        check_rank(rank)
        return self.restored[self.subject[-1]] if rank == "last-subject" else self.restored.sum(0)


def check_rank(rank: str) -> None:
    """Raise ``OptionError`` unless ``rank`` is one."""
    if rank not in get_args(Rank):
        raise OptionError(f"rank must be one of {', '.join(get_args(Rank))}, got {rank!r}")
