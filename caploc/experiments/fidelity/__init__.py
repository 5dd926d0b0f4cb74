"""Fidelity (section 3.1): do different wordings of one fact lead a method to the same place?

One file a method; each claim is a function of a ``Study``, a ``Cell`` and the claim's id that returns a ``Finding``.
`caploc.experiments.fidelity.overlap` turns what any method located into the finding of its overlap.
"""

from __future__ import annotations

from caploc.experiments.fidelity.kn import kn_mean_located, kn_overlap

__all__ = ["kn_mean_located", "kn_overlap"]
