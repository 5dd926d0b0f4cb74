"""Figure 9: the loss after training located neurons and random ones (appendix F)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.enhancement.arms import FROZEN, LOCATED, METHODS, OTHERS, RANDOM
from caploc.experiments.enhancement.report import LAST, Trained, estimate_of, finding_of
from caploc.experiments.enhancement.runs import EPOCHS, all_enhancements
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import Pair, effect_of, part_quantities, stratified_permutation

PART = "effect:loss"


@ends_in_a_finding
def enhancement_loss(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fig9-enhancement-loss``: random minus located, nats a token of held-out answers after the last epoch.

    Held out are the evaluation items of the dataset trained on; the mean is over the datasets trained on. p exchanges
    the two arms' runs within each dataset and seed. The areas under the training curves stand beside.
    """
    trained = all_enhancements(study, cell.sigma or 0)
    effects = {
        PART: effect_of(_pairs(trained, RANDOM), drawn=True, scores=False, seed=study.settings.seed),
    }
    by_dataset = {pair.tested: float(pair.differences.mean()) for pair in _pairs(trained, RANDOM)}
    others = {
        f"{arm} minus located": float(np.mean([pair.differences.mean() for pair in _pairs(trained, arm)]))
        for arm in (OTHERS, FROZEN)
    }
    return finding_of(
        study,
        trained,
        cell,
        claim,
        "loss on held-out answers after training random neurons, minus that after the located ones",
        (LOCATED, RANDOM),
        unit="nats",
        **estimate_of(effects[PART]),
        quantities={
            **part_quantities(effects),
            **{f"random minus located, {name}": value for name, value in by_dataset.items()},
            **others,
            "random minus located, area under the training curve": _area(trained, RANDOM)
            - _area(trained, LOCATED),
        },
        p_values={PART: _exchange_p(trained, study.settings.seed)},
        controls={arm: _last(trained, arm) for arm in (LOCATED, RANDOM, OTHERS, FROZEN)}
        | {"base": float(np.mean([one.base_nll[name].mean() for name, one in trained.items()]))},
        plots=_plots(study, trained, cell.sigma or 0),
    )


def _pairs(trained: Trained, rival: str) -> list[Pair]:
    """Located against a rival, minus the loss, so that the rival's runs are the second arm and the sign is right."""
    return [
        Pair(name, name, -one.of(LOCATED, name, LAST, "nll"), -one.of(rival, name, LAST, "nll"))
        for name, one in trained.items()
    ]


def _exchange_p(trained: Trained, seed: int) -> float:
    losses: list[float] = []
    labels: list[bool] = []
    strata: list[str] = []
    for name, one in trained.items():
        for arm in (LOCATED, RANDOM):
            for index in one.required(arm):
                losses.append(float(one.nll[name][index, -1].mean()))
                labels.append(arm == LOCATED)
                strata.append(f"{name}, seed {one.runs[index].seed}")
    return stratified_permutation(losses, labels, strata, alternative="less", seed=seed).p


def _area(trained: Trained, arm: str) -> float:
    """The mean of the training loss over all steps: the area under the curve, divided by its length."""
    return float(
        np.mean(
            [np.mean([one.losses[index].mean() for index in one.required(arm)]) for one in trained.values()]
        )
    )


def _last(trained: Trained, arm: str) -> float:
    return float(np.mean([one.of(arm, name, LAST, "nll").mean() for name, one in trained.items()]))


def _plots(study: Study, trained: Trained, sigma: float) -> Sequence[Plot]:
    if not study.settings.has_figures(sigma):
        return ()
    plots = []
    for name, one in trained.items():
        curves = {}
        for arm in METHODS:
            loss = np.stack([one.nll[name][index].mean(-1) for index in one.required(arm)])
            curves[arm] = _curve([float(one.base_nll[name].mean()), *loss.mean(0)], loss)
        plots.append(
            Plot(
                "losses",
                f"Fig. 9: loss on held-out answers of {name}, {one.study.model} at sigma {sigma:g}",
                {"x": [0, *EPOCHS], "curves": curves},
            )
        )
    return plots


def _curve(mean: Sequence[float], runs: np.ndarray) -> dict[str, list[float]]:
    """Mean, lowest and highest over the runs; all start from the base."""
    start = float(mean[0])
    return {
        "mean": [float(value) for value in mean],
        "low": [start, *runs.min(0).tolist()],
        "high": [start, *runs.max(0).tolist()],
    }
