"""What a locator is measured by on models whose localization is known, and the marks it should reach: all data.

The marks were set before any locator was tried on these models, by what a use of the location needs: a set that is
erased or trained must hold mostly the right neurons, and a ranking must put them first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

EXACT = ("written", "split")
"""Kinds of models in which each planted neuron is known to carry the task, by construction."""
LEARNED = ("trained", "rescaled", "shared", "last-token")
"""Kinds in which the task was trained into the planted neurons alone: others may have come to matter a little."""
NONE = ("spread", "untrained")
"""Kinds without a set of neurons to find."""

MEASURES: Mapping[str, str] = {
    "AUC": "planted against other neurons, by |score|: the chance that a planted one ranks higher",
    "AP": "average precision of the ranking; of a random one, the share of planted neurons",
    "precision at |M|": "share of planted neurons among as many top-ranked ones as were planted",
    "precision": "share of planted neurons in the locator's own set",
    "recall": "share of the planted neurons that the locator's own set holds",
    "found": "neurons in the locator's own set",
    "overlap of halves": "of the sets found on two halves of the examples; without a set, of the top |M| of each",
    "decoy AUC": "planted against decoys: as active, without effect",
    "decoys found": "share of the decoys in the locator's own set; without a set, in the top |M|",
    "other-task AUC": "the same neurons in the ranking for a task that they do not carry",
    "accuracy": "of the model as it is, on examples that the locator has not seen",
    "erased": "accuracy without the found neurons; without a set, without the top |M|",
    "erased above chance": "that accuracy minus chance",
    "random as harmful": (
        "share of random sets, as many in each layer and none of them found or planted, that leave no more accuracy"
    ),
    "side effect": "largest loss of accuracy on another task without the found neurons",
    "false discoveries": "share of all neurons that are found where none carry the task alone",
    "CPU s": "CPU seconds of the call on all examples",
    "passes": "tokens through MLPs, in forward passes over the examples; backward passes not counted",
}
"""Measure -> what it says."""


@dataclass(frozen=True)
class Mark:
    """A bound on one measure on some kinds of models. ``why``: where the bound comes from.

    ``copies``: not on models in which each fact is spread over more neurons ("-r4" in their names): each matters less.
    """

    key: str
    measure: str
    relation: Literal["at least", "at most"]
    bound: float
    kinds: tuple[str, ...]
    why: str
    copies: int | None = None

    def applies(self, kind: str, model: str) -> bool:
        """Whether it is asked of a model."""
        copies = re.search(r"-r(\d+)(-|$)", model)
        few = self.copies is None or copies is None or int(copies[1]) <= self.copies
        return kind in self.kinds and few

    def met(self, value: float) -> bool:
        """Whether ``value`` reaches it, to rounding."""
        return value >= self.bound - 1e-9 if self.relation == "at least" else value <= self.bound + 1e-9

    def __str__(self) -> str:
        return f"{self.measure} {self.relation} {self.bound:g}"


DECOYS = ("decoys",)
PLANTED = (*EXACT, *DECOYS, *LEARNED)
SEPARATE = ("written", "decoys", "trained")
"""Kinds whose planted neurons do nothing for the other tasks."""
MARKS: tuple[Mark, ...] = (
    Mark("ranks-written", "AUC", "at least", 0.99, EXACT, "they alone carry it: nothing may rank above", 2),
    Mark("ranks-trained", "AUC", "at least", 0.85, LEARNED, "what was not trained may carry a little"),
    Mark("top-trained", "precision at |M|", "at least", 0.5, LEARNED, "most of a set of that size is right"),
    Mark("precision", "precision", "at least", 0.7, PLANTED, "of a set that is reported, most must be right"),
    Mark("recall", "recall", "at least", 0.5, PLANTED, "a set that misses most of it is no location"),
    Mark("tells-decoys", "decoy AUC", "at least", 0.95, DECOYS, "activity without effect locates nothing"),
    Mark("leaves-decoys", "decoys found", "at most", 0.1, DECOYS, "activity without effect locates nothing"),
    Mark("own-task", "other-task AUC", "at most", 0.7, SEPARATE, "what ranks for every task locates none"),
    Mark("erases", "erased above chance", "at most", 0.1, PLANTED, "without it, the task cannot be done"),
    Mark("beats-random", "random as harmful", "at most", 0.0, PLANTED, "no set drawn at random does as much"),
    Mark("spares-others", "side effect", "at most", 0.05, SEPARATE, "it carries no other task"),
    Mark(
        "finds-nothing", "false discoveries", "at most", 0.01, NONE, "no set carries it: none is to be found"
    ),
)
"""All marks, in the order in which they are shown."""
