"""CNL against the methods that the paper says it outperforms (group I): KN, causal tracing and knowledge circuits, all
averaged over the same samples, sets of equal size; plain magnitude stands beside."""

from __future__ import annotations

from caploc.experiments.rivals.outperforms import outperforms

__all__ = ["outperforms"]
