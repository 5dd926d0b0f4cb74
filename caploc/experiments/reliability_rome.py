"""Section 3.2 and figure 2 on ROME: its own verification repeated at every layer. Is the located layer special?

`caploc.experiments.edited_facts` names the edits, the traces, and the layer that counts as located.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.experiments.edited_facts import (
    PROMPT,
    SCORES,
    SUBJECT,
    Editable,
    EditableFacts,
    EditsByLayer,
    FactTraces,
    LayerEdits,
    LocatedLayer,
    TracedFacts,
    locate_layer,
)
from caploc.experiments.evidence import difference, effects, finite, number
from caploc.experiments.facts import BY_SUBJECT, OF_EQUATION_8, WITH_PARAPHRASES
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Study, family
from caploc.findings import Cell, Effect, Measurement, Plot, Test
from caploc.interventions.rank_one.prompts import Token
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES

TOKEN_NAMES = {SUBJECT: "", PROMPT: ", last prompt token"}
BEST_LAYER = (
    "95 %, bootstrap over facts, the best layer found on one half and scored on the other; at least that of the paired "
    "proportions with the best layer (Bonett & Price)"
)


# ------------------------------------------------------------------------------------- what all of its claims rest on


@dataclass(frozen=True, eq=False)
class EditedEverywhere:
    """The facts, their traces, the located layer, and the edits of the same facts at every layer."""

    found: EditableFacts
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

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"edited_facts": len(self.edits), "located_layer": self.layer, **self.edits.settings}

    @property
    def notes(self) -> Sequence[str]:
        notes = [
            self.located.note,
            "edits change the key of the subject's last token, as ROME does; the paper does not say which token, and "
            "edits at the prompt's last stand beside",
        ]
        for token, suffix in TOKEN_NAMES.items():
            success = self.edits.success(token)
            for share, every in ((1, "every edit succeeds"), (0, "no edit succeeds")):
                if (success == share).all():
                    notes.append(
                        f"{every} in every layer{suffix}: no difference can show (rome-ipp-saturation)"
                    )
        if not self.edits.success()[:, -1].any():
            notes.append(
                "no edit of the last layer succeeds, whose MLP reaches no later token; it counts all the same "
                "(rome-counted-layers)"
            )
        if self.found.facts.dataset not in WITH_PARAPHRASES:
            notes.append(
                "facts are edited to another fact's answer, and no neighbours are asked (zsre-edit-targets)"
            )
        return notes


def _needs(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    dataset = cell.dataset or ""
    yield from (EditsByLayer(dataset), EditsByLayer(dataset, "untrained"), FactTraces(dataset))


def _edited_everywhere(study: Study, cell: Cell, claim: Claim) -> EditedEverywhere:
    """Edits at every layer of the facts of the cell's dataset. Raises NotRunError, FloorError."""
    dataset = cell.dataset or ""
    edits, untrained = (study.result(EditsByLayer(dataset, control)) for control in ("", "untrained"))
    found, traces = study.result(Editable(dataset)), study.result(FactTraces(dataset))
    return EditedEverywhere(
        found,
        traces,
        locate_layer(cell.model, claim, found, traces, study.settings.seed),
        edits,
        untrained,
    )


def _completed(one: EditedEverywhere, measurement: Measurement) -> Measurement:
    twin = one.untrained
    return replace(
        measurement,
        asides={**measurement.asides, **_beside(one)},
        controls={
            "efficacy without an edit": float(one.edits.before.mean()),
            f"untrained twin, {len(twin)} facts, best layer": float(twin.success().mean(0).max()),
            f"untrained twin, {len(twin)} facts, without an edit": float(twin.before.mean()),
        },
        n=measurement.n or len(one.edits),
        draws=RESAMPLES,
        basis=[one, one.found.facts],
        unused=OF_EQUATION_8,
        floor=measurement.floor or one.located.floor,
    )


on_edits = family(_needs, _edited_everywhere, _completed)
"""Claims about edits of layers."""


def _beside(one: EditedEverywhere) -> dict[str, float]:
    numbers: dict[str, float] = {"located layer": float(one.layer)}
    for token, suffix in TOKEN_NAMES.items():
        success = one.edits.success(token).mean(0)
        numbers |= {f"efficacy, layer {layer}{suffix}": float(value) for layer, value in enumerate(success)}
    for name in SCORES[1:]:
        values = one.edits.mean(name)[1:]
        numbers[f"{name}, located layer"] = float(values[one.layer])
        numbers[f"{name}, mean of the other layers"] = float(values[one.others].mean())
    numbers |= {f"restored P, layer {layer}": float(p) for layer, p in enumerate(one.located.restored)}
    numbers["P with noise alone"] = one.located.corrupted
    return finite(numbers)


# ----------------------------------------------------------------------------------------- one layer against the others


@on_edits
def rome_layers_equal(one: EditedEverywhere, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-rome-layers-equal``: efficacy at the located layer minus that at each other, the same edits.

    Which layer is located: `caploc.experiments.edited_facts.locate_layer`. The value is the mean over the other layers;
    the rule reads them one by one. Beside: the layers of the first half of the model and the located one's neighbours
    alone (``rome-counted-layers``), and edits at the prompt's last token.

    Edits that succeed in no layer at all are a floor effect: that facts can be edited is part of the claim.
    """
    _require_editable(one)
    margin, seed = float(claim.rule.parameters["margin"]), study.settings.seed
    success = one.edits.success()
    own = success[:, one.layer]
    level = stats.free_level(len(one.others), float(claim.rule.parameters["share"]))
    compared = _by_layer(one, SUBJECT, seed, level)
    overall = stats.compare_pairs(own, success[:, one.others].mean(1), clusters=one.edits.clusters, seed=seed)
    equal = stats.holm([stats.equivalence_p(own, success[:, layer], margin) for layer in one.others])
    half, near = range(one.edits.num_layers // 2), (one.layer - 1, one.layer + 1)
    readings = {
        "all layers": _share_equal(compared, one.others, margin),
        "the first half of the model": _share_equal(compared, half, margin),
        "the neighbours": _share_equal(compared, near, margin),
        "all layers, last prompt token": _share_equal(
            _by_layer(one, PROMPT, seed, level), one.others, margin
        ),
    }
    at_prompt = one.edits.success(PROMPT).mean(0)
    return Measurement(
        "share of edits that succeed, located layer minus another, mean over the others",
        difference(overall.estimate, overall.interval, BY_SUBJECT),
        effects({f"layer-{layer}": effect for layer, effect in compared.items()}),
        effect_size=overall.effect_size,
        asides={
            **{f"share shown equal, {name}": share for name, share in readings.items()},
            "located minus the others, last prompt token": float(
                at_prompt[one.layer] - at_prompt[one.others].mean()
            ),
            **{f"TOST, layer-{layer}": Test(p=float(p)) for layer, p in zip(one.others, equal, strict=True)},
        },
        notes=_too_few(len(success), margin, level),
        plots=[_layer_curve(one)],
    )


@on_edits
def rome_ipp(one: EditedEverywhere, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-rome-ipp``: layers are the choices, the best of all but the located one chosen on one half of
    the facts and scored on the other.

    Beside: edits at the prompt's last token, and the located layer among the choices (``rome-ipp-maximum``), with which
    the best on the same facts cannot be beaten.
    """
    _require_editable(one)
    seed, success = study.settings.seed, one.edits.success()
    found = _ipp(one, SUBJECT, seed)
    own = success[:, one.layer]
    best = max(one.others, key=lambda layer: float(success[:, layer].mean()))
    interval = stats.at_least_mcnemar(found.interval, own, success[:, best])
    return Measurement(
        "IPP: share of edits that succeed, located layer minus the best other",
        Effect(found.estimate, (interval.low, interval.high), method=BEST_LAYER),
        {"ipp": number(found.estimate, interval)},
        asides={
            "best other layer": float(best),
            "chosen and scored on the same facts (biased)": found.same_items,
            "against the mean layer": found.mean_choice,
            "located layer among the choices, same facts": float(own.mean() - success.mean(0).max()),
            "last prompt token": _ipp(one, PROMPT, seed).estimate,
        },
    )


def _require_editable(one: EditedEverywhere) -> None:
    if not one.edits.success().any():
        raise FloorError(f"floor effect: none of {len(one.edits)} facts can be edited in any layer")


def _ipp(one: EditedEverywhere, token: Token, seed: int) -> stats.Ipp:
    success = one.edits.success(token)
    return stats.ipp(success[:, one.layer], success[:, one.others].T, clusters=one.edits.clusters, seed=seed)


def _by_layer(one: EditedEverywhere, token: Token, seed: int, level: float) -> dict[int, stats.Effect]:
    """By other layer, the located one's success minus its, with intervals of this level."""
    success = one.edits.success(token)
    return {
        layer: stats.compare_successes(
            success[:, one.layer], success[:, layer], one.edits.clusters, seed, level
        )
        for layer in one.others
    }


def _share_equal(compared: Mapping[int, stats.Effect], layers: Iterable[int], margin: float) -> float:
    """Of those of ``layers`` that are compared, the share shown to be equal."""
    chosen = [compared[layer] for layer in layers if layer in compared]
    return float(np.mean([effect.interval.inside(-margin, margin) for effect in chosen]))


def _too_few(facts: int, margin: float, level: float) -> list[str]:
    """Whether so many facts could show equality at all, said where they could not."""
    least = stats.mcnemar_from_counts(0, 0, facts, level=level).interval
    if least.inside(-margin, margin):
        return []
    return [
        f"{facts} edited facts are too few to show two layers equal within {margin:g}, even if all end alike "
        f"({100 * level:.3g} % interval to {least.high:.3f})"
    ]


def _layer_curve(one: EditedEverywhere) -> Plot:
    """Figure 2: how well the same edits take at each layer."""
    curves: dict[str, dict[str, list[float]]] = {}
    for token, suffix in TOKEN_NAMES.items():
        success = one.edits.success(token)
        spread = [
            stats.binomial_interval(int(column.sum()), len(column), method="wilson") for column in success.T
        ]
        curves[f"efficacy{suffix}"] = {
            "mean": success.mean(0).tolist(),
            "low": [interval.low for interval in spread],
            "high": [interval.high for interval in spread],
        }
    curves |= {name: {"mean": one.edits.mean(name)[1:].tolist()} for name in SCORES if name != "efficacy"}
    drawn = {name: curve for name, curve in curves.items() if np.isfinite(curve["mean"]).any()}
    return Plot("layers", "The same facts edited at every layer", {"curves": drawn, "located": one.layer})
