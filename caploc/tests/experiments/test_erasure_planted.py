"""Verdicts on Table 3 where what each erasure leaves is planted: right where there is an effect and where none is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from caploc.audit.plots import draw
from caploc.experiments import erasure
from caploc.experiments.erasure import lost_more
from caploc.experiments.erasure_sets import Erasures, LocatedErased
from caploc.experiments.evaluating import EvaluationItems
from caploc.experiments.study import Study
from caploc.findings import Outcome, Verdict
from caploc.neurons import NeuronMask
from caploc.statistics import Change, change_of_random, draws_for, score_interval
from caploc.tests.experiments.planted_erasures import (
    DRAWS,
    ITEMS,
    PAPER,
    PlantedErasures,
    effects,
    erasures_of,
    items_of,
    kept,
    run,
)

HURTS, EACH = "table3-located-hurts-more", "table3-located-hurts-more-each"
RANDOM, TREND = "table3-random", "table3-sigma-trend"
BASE, ERASE, SPARES = "table3-base", "table3-erase", "table3-spares-general-text"
ALL = np.ones(ITEMS)


def _hurt(dataset: str, located: float = 0.3, random: float = 0.97, seed: int = 0) -> Erasures:
    return erasures_of(items_of(dataset, ALL), kept(located, seed)[0], kept(random, seed + 1, DRAWS))


def _floor(dataset: str, chance: float = 0.0) -> Erasures:
    score = np.zeros(ITEMS) if chance == 0 else kept(chance, 3)[0]
    return erasures_of(items_of(dataset, score, chance), score, np.stack([score] * DRAWS))


def test_located_hurts_more_on_every_dataset_and_on_average() -> None:
    study = PlantedErasures([_hurt("gsm8k"), _hurt("emotion", seed=10)])
    finding, verdict = run(erasure.located_hurts_more, study, HURTS)
    assert verdict.outcome is Outcome.SUPPORTED and effects(finding)["average"] > 0.5
    (plot,) = finding.measurement.plots
    assert draw(plot.kind, plot.title, plot.data)
    finding, verdict = run(erasure.located_hurts_more, study, EACH, "gsm8k")
    assert verdict.outcome is Outcome.SUPPORTED and effects(finding)["gsm8k"] > 0.5
    assert finding.measurement.parts["gsm8k"].p == pytest.approx(2 / 101)  # Holm over two, 100 draws


def test_one_dataset_that_is_not_hurt_is_refuted_by_itself_and_not_for_others() -> None:
    unhurt = erasures_of(items_of("emotion", np.ones(150)), np.ones(150), np.ones((DRAWS, 150)))
    study = PlantedErasures([_hurt("gsm8k"), _hurt("meta_math", seed=10), unhurt])
    assert run(erasure.located_hurts_more, study, HURTS)[1].outcome is Outcome.SUPPORTED
    assert run(erasure.located_hurts_more, study, EACH, "gsm8k")[1].outcome is Outcome.SUPPORTED
    _, verdict = run(erasure.located_hurts_more, study, EACH, "emotion")
    assert verdict.outcome is Outcome.REFUTED and "emotion" in verdict.reason


@pytest.mark.parametrize(
    ("text", "outcome"),
    [(0.0, Outcome.SUPPORTED), (0.7, Outcome.REFUTED), (0.2, Outcome.INCONCLUSIVE)],
    ids=["spared", "as much", "some"],
)
def test_general_text_is_spared_or_collapses_as_much(text: float, outcome: Outcome) -> None:
    texts = 1 + np.random.default_rng(0).normal(0, 0.02, (1, 24))
    found = replace(
        _hurt("gsm8k"),
        text={"base": texts, **dict.fromkeys(("located", "by layer", "largest"), texts + text)},
    )
    finding, verdict = run(erasure.spares_text, PlantedErasures([found]), SPARES, "gsm8k")
    assert verdict.outcome is outcome, verdict.reason
    assert effects(finding)["other"] == pytest.approx(text)


def test_a_dataset_more_takes_no_support_away() -> None:
    """Ten datasets, each with as many draws as Holm over them asks for."""
    names = [f"d{number}" for number in range(10)]
    found = [
        erasures_of(
            items_of(name, ALL), kept(0.3, 2 * seed)[0], kept(0.97, 2 * seed + 1, draws_for(100, 0.05, 10))
        )
        for seed, name in enumerate(names)
    ]
    _, verdict = run(erasure.located_hurts_more, PlantedErasures(found), EACH, "d0")
    assert verdict.outcome is Outcome.SUPPORTED


def test_one_more_random_set_is_seldom_supported_and_a_loss_mostly_is() -> None:
    """Two datasets of 150 items; random sets cost 3 points, and a located set as much, or the loss to be detected."""

    def simulate(number: int, loss: float, claim: str, dataset: str | None) -> Verdict:
        planted = [
            erasures_of(
                items_of(name, np.ones(150)),
                kept(0.97 - loss, 4 * number + at, 1, 150)[0],
                kept(0.97, 4 * number + at + 2, DRAWS, 150),
            )
            for at, name in enumerate(("gsm8k", "emotion"))
        ]
        return run(erasure.located_hurts_more, PlantedErasures(planted), claim, dataset)[1]

    for claim, dataset in ((HURTS, None), (EACH, "gsm8k")):
        detectable = PAPER.claim(claim).rule.detectable or 0
        nothing = [simulate(number, 0.0, claim, dataset).outcome for number in range(60)]
        planted = [simulate(number, detectable, claim, dataset).outcome for number in range(60)]
        assert nothing.count(Outcome.SUPPORTED) <= 3 and planted.count(Outcome.REFUTED) <= 3
        assert planted.count(Outcome.SUPPORTED) >= 48


def test_few_items_that_do_not_change_prove_nothing() -> None:
    few = np.ones(20)
    unhurt = erasures_of(items_of("emotion", few), few, np.ones((DRAWS, 20)))
    assert run(erasure.located_hurts_more, PlantedErasures([unhurt]), EACH, "emotion")[1].outcome is (
        Outcome.INCONCLUSIVE
    )
    assert lost_more(unhurt, "by layer").interval90.high > 0.05


def test_no_change_excludes_harm_at_least_as_well_as_one_change() -> None:
    def reach(changed: int) -> float:
        left = np.ones((DRAWS, 150))
        left[0, :changed] = 0
        return change_of_random(np.ones(150), left, [str(item) for item in range(150)]).interval90.low

    ends = [reach(changed) for changed in range(4)]
    assert ends[0] > -0.02 and ends == sorted(ends, reverse=True)


def test_located_that_are_one_more_random_set_are_refuted_or_undecided() -> None:
    outcomes = [
        run(
            erasure.located_hurts_more,
            PlantedErasures([_hurt("gsm8k", located=0.8, random=0.8, seed=100 + 2 * seed)]),
            HURTS,
        )[1].outcome
        for seed in range(20)
    ]
    assert outcomes.count(Outcome.SUPPORTED) <= 1


def test_datasets_at_floor_are_named_and_left_out() -> None:
    study = PlantedErasures([_hurt("gsm8k"), _floor("meta_math"), _floor("emotion", 0.3)])
    for experiment, claim in ((erasure.located_hurts_more, HURTS), (erasure.random, RANDOM)):
        finding, _ = run(experiment, study, claim)
        assert set(effects(finding)) == {"average"} and finding.measurement.n == ITEMS
        assert any("0.0 % on meta_math, not above chance (0.0 %)" in note for note in finding.notes)
        assert any("on emotion, not above chance (30.0 %)" in note for note in finding.notes)
    assert run(erasure.located_hurts_more, study, HURTS)[1].outcome is Outcome.SUPPORTED


@pytest.mark.parametrize(
    ("experiment", "claim"), [(erasure.located_hurts_more, HURTS), (erasure.random, RANDOM)]
)
def test_nothing_but_floors_is_inconclusive(experiment: object, claim: str) -> None:
    study = PlantedErasures([_floor("gsm8k"), _floor("emotion", 0.3)])
    finding, verdict = run(experiment, study, claim)  # type: ignore[arg-type]
    assert verdict.outcome is Outcome.INCONCLUSIVE and finding.measurement.floor is not None
    assert "floor effect: the untouched model scores 0.0 % on gsm8k, not above chance" in verdict.reason


def test_random_sets_that_change_nothing_or_much() -> None:
    def outcome(random: float) -> Outcome:
        base = items_of("gsm8k", np.ones(200))
        left = kept(random, 1, DRAWS, 200)
        study = PlantedErasures([erasures_of(base, np.zeros(200), left), _hurt("emotion", random=random)])
        assert set(effects(run(erasure.random, study, RANDOM)[0])) == {"average"}
        return run(erasure.random, study, RANDOM, "gsm8k")[1].outcome

    assert outcome(0.995) is Outcome.SUPPORTED
    assert outcome(0.9) is Outcome.REFUTED
    assert outcome(0.982) is Outcome.INCONCLUSIVE


def test_the_interval_of_random_sets_covers_items_and_sets() -> None:
    generator, inside = np.random.default_rng(4), 0
    for seed in range(60):
        item, one_set = generator.normal(size=(1, 30)), generator.normal(size=(20, 1))
        table = 0.5 + item + one_set + generator.normal(size=(20, 30))
        interval = change_of_random(np.zeros(30), table, [str(i) for i in range(30)], seed).interval
        inside += interval.low <= 0.5 <= interval.high
    assert inside >= 52


def _locate(
    monkeypatch: pytest.MonkeyPatch, study: Study, dataset: str, scores: dict[float, np.ndarray]
) -> None:
    """Plant what is left without the neurons located at each sigma; 12 / sigma of them are."""

    def mask(study: Study, dataset: str, sigma: float) -> NeuronMask:
        return NeuronMask(torch.ones(1, int(12 / sigma), dtype=torch.bool))

    monkeypatch.setattr(erasure, "located_mask", mask)
    for sigma, score in scores.items():
        study._results[LocatedErased(dataset, sigma)] = {"score": score, "nll": 1 - score}


@pytest.mark.parametrize(
    ("shares", "outcome"),
    [
        ({12.0: 0.9, 6.0: 0.6, 3.0: 0.2}, Outcome.SUPPORTED),
        ({12.0: 0.9, 6.0: 0.3, 3.0: 0.7}, Outcome.REFUTED),
        ({12.0: 1.0, 6.0: 1.0, 3.0: 1.0}, Outcome.INCONCLUSIVE),
    ],
)
def test_trend(monkeypatch: pytest.MonkeyPatch, shares: dict[float, float], outcome: Outcome) -> None:
    study = PlantedErasures([], [items_of("gsm8k", ALL)])
    _locate(monkeypatch, study, "gsm8k", {sigma: kept(share, 11)[0] for sigma, share in shares.items()})
    finding, verdict = run(erasure.sigma_trend, study, TREND, "gsm8k", None)
    assert verdict.outcome is outcome
    assert finding.measurement.asides["neurons located, sigma 3"] == 4


def test_trend_at_floor_is_inconclusive() -> None:
    study = PlantedErasures([], [items_of("gsm8k", np.zeros(ITEMS))])
    _, verdict = run(erasure.sigma_trend, study, TREND, "gsm8k", None)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "no loss can show" in verdict.reason


def _items(dataset: str, share: float, items: int = 2000) -> EvaluationItems:
    return items_of(dataset, np.arange(items) < share * items)


def test_numbers_of_the_papers_models() -> None:
    right = PlantedErasures([], [_items("emotion", 0.1763)])
    finding, verdict = run(erasure.base, right, BASE, "emotion", None, "llama2-7b")
    assert (finding.published, verdict.outcome) == ("17.63", Outcome.SUPPORTED)
    wrong = PlantedErasures([], [_items("emotion", 0.5)])
    assert run(erasure.base, wrong, BASE, "emotion", None, "llama2-7b")[1].outcome is Outcome.REFUTED
    other = run(erasure.base, right, BASE, "emotion", None)[1]
    assert other.outcome is Outcome.MEASURED and "prints no number" in other.reason


def test_erased_numbers_of_the_papers_models(monkeypatch: pytest.MonkeyPatch) -> None:
    items = _items("emotion", 0.1763)
    for share, outcome in ((0.034, Outcome.SUPPORTED), (0.17, Outcome.REFUTED)):
        left = _items("emotion", share).base["score"]
        study = PlantedErasures([erasures_of(items, left, items.base["score"][None])])
        _locate(monkeypatch, study, "emotion", {6.0: left})
        finding, verdict = run(erasure.erase, study, ERASE, "emotion", 6.0, "llama2-7b")
        assert (finding.published, verdict.outcome) == ("3.38", outcome)
        assert finding.measurement.asides["score, by layer, emotion"] == pytest.approx(0.1763, abs=1e-3)


def test_a_floor_hides_what_erasure_does_unless_the_paper_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    study = PlantedErasures([], [_items("gsm8k", 0.0)])
    _locate(monkeypatch, study, "gsm8k", {6.0: np.zeros(2000)})
    finding, verdict = run(erasure.erase, study, ERASE, "gsm8k", 6.0)
    assert verdict.outcome is Outcome.MEASURED and "0.0 % on gsm8k" in str(finding.measurement.floor)
    finding, verdict = run(erasure.erase, study, ERASE, "gsm8k", 6.0, "llama2-7b")
    assert (finding.published, verdict.outcome) == ("0.00", Outcome.SUPPORTED)


def test_the_average_column() -> None:
    bare = [_items("gsm8k", 0.0), _items("emotion", 0.1763), _items("code25k", 0.408), _items("imdb", 0.9)]
    finding, verdict = run(erasure.base, PlantedErasures([], bare), BASE, None, None, "llama2-7b")
    assert (finding.published, verdict.outcome) == ("19.48", Outcome.SUPPORTED)
    value = finding.measurement.value
    assert value is not None and value.estimate == pytest.approx((0.1763 + 0.408) / 3, abs=1e-3)
    _, verdict = run(erasure.base, PlantedErasures([], bare[:2]), BASE, None, None, "llama2-7b")
    assert verdict.outcome is Outcome.NOT_RUN and "code25k is not in this run" in verdict.reason


def test_scores_in_between_are_bootstrapped() -> None:
    names = [str(i) for i in range(40)]
    assert score_interval(np.ones(40), names).low == pytest.approx(0.025 ** (1 / 40))
    assert "BCa" in score_interval(np.linspace(0, 1, 40), names).kind
    assert "BCa" in score_interval(np.arange(40) % 2, names[:20] * 2).kind


def test_items_that_never_change_show_equality_only_if_they_are_many() -> None:
    def change(items: int) -> Change:
        base = np.ones(items)
        return change_of_random(base, np.ones((100, items)), [str(item) for item in range(items)])

    assert not change(40).interval90.inside(-0.02, 0.02)
    assert change(200).interval90.inside(-0.02, 0.02)
