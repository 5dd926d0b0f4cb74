"""From what a locator found on a model to the measures it is judged by (`caploc.check.marks.MEASURES`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from caploc.check.contract import Found, Trial
from caploc.evaluation import evaluate, prepare
from caploc.examples import Example
from caploc.locators.magnitude import disjoint_sets
from caploc.metrics import overlap
from caploc.neurons import NeuronMask

if TYPE_CHECKING:
    from caploc.model.loading import LanguageModel
    from caploc.zoo import ZooModel

RANDOM_SETS = 20
"""Random sets that an erasure is compared with: a set that does nothing is as harmful as all of them."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores, and which neurons were planted, both flat; |score| ranks.

    Ties count as what breaking them at random gives on average, so that no order of neurons is favoured.
    """

    strength: Float[np.ndarray, " neurons"]
    planted: Bool[np.ndarray, " neurons"]

    @property
    def auc(self) -> float:
        """Area under the ROC curve (Mann-Whitney), nan where all neurons or none are planted."""
        positive = int(self.planted.sum())
        negative = len(self.planted) - positive
        if not positive or not negative:
            return math.nan
        ranks = rankdata(self.strength)
        return float((ranks[self.planted].sum() - positive * (positive + 1) / 2) / (positive * negative))

    @property
    def average_precision(self) -> float:
        """The mean, over the planted neurons, of the precision among all that rank at least as high."""
        if not self.planted.any():
            return math.nan
        levels, where = np.unique(-self.strength, return_inverse=True)
        hits = np.bincount(where, weights=self.planted, minlength=len(levels))
        precision = hits.cumsum() / np.bincount(where, minlength=len(levels)).cumsum()
        return float((precision * hits).sum() / hits.sum())

    @property
    def precision_at_planted(self) -> float:
        """Share of planted neurons among the |M| highest."""
        count = int(self.planted.sum())
        if not count:
            return math.nan
        least = np.partition(self.strength, -count)[-count]
        above, tied = self.strength > least, self.strength == least
        expected = self.planted[above].sum() + (count - above.sum()) * self.planted[tied].mean()
        return float(expected / count)

    def top(self, count: int) -> Bool[np.ndarray, " neurons"]:
        """The ``count`` highest; of equal ones the first."""
        chosen = np.zeros(len(self.strength), dtype=bool)
        chosen[np.argsort(-self.strength, kind="stable")[:count]] = True
        return chosen


def measures(model: ZooModel, trial: Trial) -> dict[str, float]:
    """All that can be measured of a trial, by the names of ``MEASURES``; what cannot be is left out."""
    known = agreement(model, trial)
    planted = model.neurons.numpy(force=True)
    if trial.main is not None and planted.any():
        known |= erasure(model, _set(trial.main, planted))
    return known


def agreement(model: ZooModel, trial: Trial) -> dict[str, float]:
    """Those that follow from what was found and planted alone: no model is run."""
    found = trial.main
    if found is None:
        return {}
    planted = model.neurons.numpy(force=True)
    known = {"CPU s": trial.seconds, "passes": trial.passes}
    if found.chosen is not None:
        known["found"] = float(found.chosen.sum())
    if not planted.any():
        if found.chosen is not None:
            known["false discoveries"] = float(found.chosen.mean())
        return known
    known |= _ranking(model, trial, planted)
    if found.chosen is not None:
        hits = float((found.chosen & planted).sum())
        size = float(found.chosen.sum())
        known |= {"precision": hits / size if size else math.nan, "recall": hits / float(planted.sum())}
    chosen = _set(found, planted)
    halves = [_set(one, planted) for name in ("first half", "second half") if (one := trial.found.get(name))]
    if len(halves) == 2:
        known["overlap of halves"] = overlap(halves[0], halves[1])
    if model.decoys is not None:
        decoys = model.decoys.numpy(force=True)
        known["decoys found"] = float((chosen & decoys).sum() / decoys.sum())
    return {name: value for name, value in known.items() if not math.isnan(value)}


def _ranking(model: ZooModel, trial: Trial, planted: np.ndarray) -> dict[str, float]:
    known = {}
    scores = trial.main.scores if trial.main is not None else None
    if scores is not None:
        ranking = Ranking(np.abs(scores).ravel(), planted.ravel())
        known = {
            "AUC": ranking.auc,
            "AP": ranking.average_precision,
            "precision at |M|": ranking.precision_at_planted,
        }
        if model.decoys is not None:
            either = planted | model.decoys.numpy(force=True)
            known["decoy AUC"] = Ranking(np.abs(scores)[either], planted[either]).auc
    for name, found in trial.found.items():
        if name.startswith("other task") and found.scores is not None:
            known["other-task AUC"] = Ranking(np.abs(found.scores).ravel(), planted.ravel()).auc
    return known


def _set(found: Found, planted: np.ndarray) -> Bool[np.ndarray, "layers neurons"]:
    """The locator's own set, or where it gives a ranking alone, its top |M|."""
    if found.chosen is not None:
        return found.chosen
    assert found.scores is not None  # one of them is there
    top = Ranking(np.abs(found.scores).ravel(), planted.ravel()).top(int(planted.sum()))
    return top.reshape(planted.shape)


def erasure(model: ZooModel, chosen: Bool[np.ndarray, "layers neurons"]) -> dict[str, float]:
    """What the model can still do without ``chosen``, beside random sets of the same counts in every layer."""
    mask = NeuronMask(torch.from_numpy(chosen))
    drawn, _ = disjoint_sets(mask, model.neurons.cpu(), RANDOM_SETS, seed=0)
    nothing = torch.zeros_like(mask.values)
    own = accuracy(model.lm, model.evaluation, torch.stack([nothing, mask.values, *drawn]))
    known = {
        "accuracy": own[0],
        "erased": own[1],
        "erased above chance": own[1] - model.gate.chance,
        "random as harmful": float(np.mean(own[2:] <= own[1])),
    }
    others = [
        accuracy(model.lm, examples, torch.stack([nothing, mask.values]))
        for examples in model.others.values()
    ]
    if others:
        known["side effect"] = max(before - after for before, after in others)
    return {name: float(value) for name, value in known.items()}


def accuracy(
    lm: LanguageModel, examples: Sequence[Example], sets: Bool[Tensor, "sets layers neurons"]
) -> Float[np.ndarray, " sets"]:
    """With each set's neurons at zero: the share of examples whose answer is predicted, every token of it, teacher
    forced."""
    prepared = prepare(lm, "answers", examples, scoring="tokens")
    return evaluate(lm, prepared, sets).exact.mean(-1)
