"""The noise that corrupts a subject, in units of the model's own embeddings."""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caploc.streams import Stream, stream

_TOKENS_AT_ONCE = 4096


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
