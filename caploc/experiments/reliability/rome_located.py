"""The layer that counts as located, by a rule fixed beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caploc.experiments.facts.report import PAPER, PRINTED_FOR
from caploc.experiments.reliability.rome_facts import RomeFacts
from caploc.experiments.reliability.rome_traces import TracedFacts
from caploc.findings import Cell
from caploc.papers import load_paper

PRINTED_IN = "reliability-rome-layers-equal"


@dataclass(frozen=True, eq=False)
class LocatedLayer:
    """``layer``, from 0; ``restored [layers]`` what tracing restores, mean over the facts that are not edited;
    ``note``: why this layer."""

    layer: int
    restored: np.ndarray
    note: str


def locate_layer(cell: Cell, found: RomeFacts, traces: TracedFacts) -> LocatedLayer:
    """The printed layer 5, counted from 0 as in ROME's code, where the paper's model is edited.

    Other models have other depths: there it is the layer whose MLP output, put back at the subject's last token,
    restores the most probability, mean over known facts that are not edited. So no outcome of an edit, and no fact that
    is edited, has a say in the choice; of equal layers the first is taken.

    Raises:
        FloorError: too few facts are known to set some aside.
    """
    restored = traces.restored[found.others].mean(0)
    claim = load_paper(PAPER).claim(PRINTED_IN)
    traced = int(restored.argmax())
    if cell.model in PRINTED_FOR[claim.group][0]:
        layer = int(claim.numbers[0].printed)
        return LocatedLayer(
            layer, restored, f"layer {layer} is the printed one; tracing names layer {traced}"
        )
    note = (
        f"layer {traced} stands for the printed layer 5 of GPT-J: causal tracing names it on {len(found.others)} known "
        f"facts that are not edited (restored P {restored[traced]:.3g}, {np.sort(restored)[-2]:.3g} in the next best)"
    )
    return LocatedLayer(traced, restored, note)
