"""What every claim about edits of layers is measured on, and what its finding shows beside its own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from caploc.experiments.facts.report import finding_of

from caploc.experiments.edited_facts import PROMPT, SCORES, SUBJECT, LayerEdits, layer_edits, untrained_edits
from caploc.experiments.facts import WITH_PARAPHRASES
from caploc.experiments.fidelity import traced_facts
from caploc.experiments.reliability.rome_facts import RomeFacts, rome_facts
from caploc.experiments.study import Study
from caploc.experiments.traced_facts import LocatedLayer, TracedFacts, locate_layer
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import binomial_interval

TOKEN_NAMES = {SUBJECT: "", PROMPT: ", last prompt token"}


@dataclass(frozen=True, eq=False)
class Measured:
    """The facts, their traces, the located layer, and the edits of the same facts at every layer."""

    found: RomeFacts
    traces: TracedFacts
    located: LocatedLayer
    edits: LayerEdits
    untrained: LayerEdits

    @property
    def layer(self) -> int:
        return self.located.layer

    @property
    def others(self) -> list[int]:
        """All layers but the located one."""
        return [layer for layer in range(self.edits.num_layers) if layer != self.layer]


def measured(study: Study, cell: Cell) -> Measured:
    """Edits at every layer of the facts of the cell's dataset. Raises NotRunError, FloorError."""
    found = rome_facts(study, cell.dataset or "")
    _ = found.edited  # whether enough facts are known is asked before anything is traced or edited
    traces = traced_facts(study, found)
    edits = layer_edits(study, found)
    return Measured(found, traces, locate_layer(cell, found, traces), edits, untrained_edits(study, found))


def edits_finding(
    study: Study, one: Measured, cell: Cell, claim: str, quantity: str, **fields: Any
) -> Finding:
    """`finding_of` with what every claim about edits of layers shows beside its own numbers."""
    twin = one.untrained
    return finding_of(
        study,
        one.found.facts,
        cell,
        claim,
        quantity,
        n=fields.pop("n", len(one.edits)),
        quantities={**fields.pop("quantities", {}), **_beside(one)},
        controls={
            "efficacy without an edit": float(one.edits.before.mean()),
            f"untrained twin, {len(twin)} facts, best layer": float(twin.success().mean(0).max()),
            f"untrained twin, {len(twin)} facts, without an edit": float(twin.before.mean()),
            **fields.pop("controls", {}),
        },
        notes=[*fields.pop("notes", ()), *_notes(one)],
        settings={
            "edited_facts": len(one.edits),
            "located_layer": one.layer,
            **one.edits.settings,
            **fields.pop("settings", {}),
        },
        **fields,
    )


def layer_curve(one: Measured) -> Plot:
    """Figure 2: how well the same edits take at each layer."""
    curves: dict[str, dict[str, list[float]]] = {}
    for token, suffix in TOKEN_NAMES.items():
        success = one.edits.success(token)
        spread = [binomial_interval(int(column.sum()), len(column), method="wilson") for column in success.T]
        curves[f"efficacy{suffix}"] = {
            "mean": success.mean(0).tolist(),
            "low": [interval.low for interval in spread],
            "high": [interval.high for interval in spread],
        }
    curves |= {name: {"mean": one.edits.mean(name)[1:].tolist()} for name in SCORES if name != "efficacy"}
    drawn = {name: curve for name, curve in curves.items() if np.isfinite(curve["mean"]).any()}
    return Plot("layers", "The same facts edited at every layer", {"curves": drawn, "located": one.layer})


def _beside(one: Measured) -> dict[str, float]:
    numbers: dict[str, float] = {"located layer": float(one.layer)}
    for token, suffix in TOKEN_NAMES.items():
        success = one.edits.success(token).mean(0)
        numbers |= {f"efficacy, layer {layer}{suffix}": float(value) for layer, value in enumerate(success)}
    for name in SCORES[1:]:
        values = one.edits.mean(name)[1:]
        numbers[f"{name}, located layer"] = float(values[one.layer])
        numbers[f"{name}, mean of the other layers"] = float(values[one.others].mean())
    numbers |= {f"restored P, layer {layer}": float(p) for layer, p in enumerate(one.located.restored)}
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def _notes(one: Measured) -> list[str]:
    notes = [
        one.located.note,
        "edits change the key of the subject's last token, as ROME does; the paper does not say which token, and edits "
        "at the prompt's last stand beside",
    ]
    for token, suffix in TOKEN_NAMES.items():
        success = one.edits.success(token)
        for share, every in ((1, "every edit succeeds"), (0, "no edit succeeds")):
            if (success == share).all():
                notes.append(f"{every} in every layer{suffix}: no difference can show (rome-ipp-saturation)")
    if not one.edits.success()[:, -1].any():
        notes.append(
            "no edit of the last layer succeeds, whose MLP reaches no later token; it counts all the same "
            "(rome-counted-layers)"
        )
    if one.found.facts.dataset not in WITH_PARAPHRASES:
        notes.append(
            "facts are edited to another fact's answer, and no neighbours are asked (zsre-edit-targets)"
        )
    return notes
