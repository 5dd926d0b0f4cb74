"""Simulated rates: every kind of rule is simulated, errs in neither direction more often than 5 %, and needs data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from caploc import statistics
from caploc.benchmarks.statistics.rules import FOLDER, claimed, table_of_rules
from caploc.papers import Claim, load_paper, paper_names
from caploc.power import (
    DESIGNS,
    NO_SAMPLING,
    TRUTHS,
    Counted,
    Design,
    Rates,
    Sizes,
    design_of,
    kept_rates,
    known_rates,
    more_units,
    rates,
    truths_of,
)
from caploc.power.designs import Layers, Level, Paired, Proportion, SharedNeurons
from caploc.power.halves import GRID, Halves, Partitions, agreement_by_noise, shards_of
from caploc.power.items import Arms, Doses, Others, RandomChange, SetsDrawn
from caploc.rules import RULES
from caploc.store import Store
from caploc.tests.papers.examples import JUDGED, claim_of

CLAIMS = {**load_paper("capability_localization").claims, **load_paper("query_localization").claims}
SIZES = Sizes.of(None, 100, 5, gpu=False)
EXAMPLES = Halves(256, paper=256)
"""As many as the paper's, so that nothing is extrapolated."""
LARGE: dict[str, Design] = {
    "comparison": SetsDrawn(300, family=2, draws=199, tried=40, ranked=300),
    "plain_difference": Paired(300),
    "beyond_twins": EXAMPLES,
    "difference": EXAMPLES,
    "printed_or_direction": Paired(2500, comparisons=2, bounded=True),
    "specificity": Paired(1500, spread=0.2),
    "best_of": SetsDrawn(300, draws=199, ranked=60),
    "equivalence": Paired(300, comparisons=2, spread=0.2),
    "non_inferiority": Paired(1200, comparisons=2, spread=0.2),
    "no_more": Paired(150, bounded=True),
    "partition": Partitions(256, paper=256),
    "lower_bound": Level(150),
    "lower_bounds": Proportion(1000, method="wilson"),
    "above_twin": EXAMPLES,
    "both": EXAMPLES,
    "interval_below": Level(150),
    "corrected_overlap": Level(200, low=-0.43, bounded=True),
    "identity_below": Level(100, low=-0.43, bounded=True),
    "recall_below": Proportion(150, method="wilson"),
    "within": Level(300, high=100.0),
    "agreement": Proportion(2000),
    "readings": Proportion(2000),
    "monotone": Doses(300),
    "trend": Halves(400, paper=1600),
    "above_chance": SharedNeurons(60, comparisons=2),
}
COSTLY = ("above_twin", "beyond_twins", "both", "difference", "partition", "trend")
"""Kinds whose samples are of examples, of which fewer are simulated here."""


@cache
def simulated(kind: str) -> Rates:
    claim = claim_of(kind)
    if kind == "equivalence":  # every part: a share of them is looked at below
        claim = claim_of(kind, rule=RULES[kind](margin=0.05, share=1.0))
    if kind in ("trend", "difference"):
        claim = CLAIMS["convergence-llama2-7b" if kind == "trend" else "table1-commonality"]
    return rates(claim, LARGE[kind], runs=15 if kind in COSTLY else None)


def test_every_kind_of_rule_is_simulated_or_says_why_not() -> None:
    assert set(RULES) <= {*TRUTHS, *NO_SAMPLING}
    assert set(LARGE) == set(TRUTHS) & set(JUDGED)
    assert not set(TRUTHS) & {*NO_SAMPLING}


@pytest.mark.parametrize("kind", LARGE)
def test_neither_error_is_frequent_and_both_verdicts_can_be_reached(kind: str) -> None:
    """False SUPPORTED at the rule's nulls, false REFUTED at its stated effect: 5 %, and sampling error of the runs."""
    found = simulated(kind)
    assert found.calibrated, found
    assert found.can_support and found.can_refute, found


@pytest.mark.parametrize("kind", sorted({*LARGE} - {*COSTLY, "monotone", "printed_or_direction"}))
def test_so_many_units_find_the_stated_effect_and_its_opposite(kind: str) -> None:
    found = simulated(kind)
    assert found.power >= 0.7 and found.against >= 0.7, found


def test_a_rule_that_errs_is_told() -> None:
    """Thresholds so close that noise crosses them."""
    careless = replace(Rates(0.9, 0.9, 0.01, 0.01, True, True, 0.1, 200), false_refuted=0.15)
    assert not careless.calibrated
    biased = rates(claim_of("interval_below"), _Biased(60))
    assert biased.false_supported > 0.5 and not biased.calibrated


class _Biased(Level):
    """What a statistic that is a tenth too low would do."""

    def sample(self, truth, rng, noise=1.0):  # type: ignore[no-untyped-def]
        return super().sample(max(0.0, (truth or 0) - 0.1), rng, noise)


def test_a_sixth_dataset_with_few_draws_cannot_be_supported_and_more_draws_can() -> None:
    claim = claim_of("comparison")
    few = SetsDrawn(100, family=6, draws=100)
    assert not rates(claim, few, runs=20).can_support
    assert statistics.minimum_draws(0.05, 6) > 100
    assert rates(claim, replace(few, draws=120), runs=20).can_support


@pytest.mark.parametrize(
    ("kind", "design"), [("plain_difference", Paired(40, spread=0.4)), ("no_more", Paired(45, bounded=True))]
)
def test_power_grows_with_units_and_says_about_how_many_are_needed(kind: str, design: Design) -> None:
    claim = claim_of(kind)
    found = rates(claim, design, runs=120)
    needed = more_units(claim, design, found)
    assert needed is not None and found.power < 0.8 and needed > design.units
    assert 0.7 <= rates(claim, design.with_units(needed), runs=120).power <= 0.95


def test_no_number_of_units_where_the_effect_is_too_small() -> None:
    design = Paired(20, spread=100.0)
    found = rates(claim_of("plain_difference"), design)
    assert more_units(claim_of("plain_difference"), design, found, most=400) is None


def test_equivalence_needs_as_many_items_as_a_margin_of_two_points() -> None:
    """If no item of 64 changes, three points cannot be excluded; of 300 they can."""
    claim: Claim = CLAIMS["table4-harmless-updating"]
    assert not rates(claim, Paired(64, binary=True, discordant=0.0), runs=20).can_support
    assert rates(claim, Paired(300, binary=True, discordant=0.0), runs=20).can_support
    assert not rates(CLAIMS["table3-random"], RandomChange(40, changed=0.0), runs=20).can_support
    assert rates(CLAIMS["table3-random"], RandomChange(200, changed=0.0), runs=20).power == 1


def test_harm_is_found_and_its_absence_too() -> None:
    claim = CLAIMS["table4-harmless-updating"]
    found = rates(claim, Others(800, trained=3, elsewhere=4, runs=5, between=0.005, texts=60), runs=40)
    assert found.calibrated and found.power >= 0.8 and found.against >= 0.8, found


def test_where_a_least_effect_is_stated_no_effect_is_the_opposite() -> None:
    each = CLAIMS["table2-located-beats-random-each"]
    design = Arms(400, runs=6, others=8, drawn=True, between=0.005)
    found = rates(each, design, runs=60)
    assert found.power >= 0.8 and found.against >= 0.8 and found.calibrated, found
    plain = replace(each, rule=each.rule.model_copy(update={"least_effect": None}))
    assert truths_of(plain, design).opposite == (-0.15,) and truths_of(each, design).opposite == (None,)


def test_equivalence_of_a_share_of_the_parts_is_seldom_supported_by_accident() -> None:
    """Three of seven layers are equal and four differ by just the margin: any of the four would do."""
    claim = CLAIMS["reliability-rome-layers-equal"]
    found = rates(claim, Layers(160, comparisons=7), runs=120)
    assert found.calibrated and found.power >= 0.8, found
    at_90 = replace(claim, rule=claim.rule.model_copy(update={"margin": 0.1}))
    careless = rates(at_90, _EachAlone(160, comparisons=7), runs=120)
    assert careless.false_supported > 0.1 and not careless.calibrated


class _EachAlone(Layers):
    """Every layer at the level that one alone would have."""

    def sample(self, truth, rng, noise=1.0):  # type: ignore[no-untyped-def]
        found = super().sample(truth, rng, noise)
        return replace(found, interval=found.interval90)


def test_a_level_for_a_share_is_that_of_two_one_sided_tests_for_all() -> None:
    assert statistics.free_level(5, 1.0) == pytest.approx(0.90)
    assert statistics.free_level(7, 0.5) == pytest.approx(1 - 2 * 0.05 / 4)
    assert statistics.free_level(4, 0.75) == pytest.approx(1 - 2 * 0.05 / 3)


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95])
def test_halves_agree_by_what_is_asked_for(wanted: float) -> None:
    """The size of the noise is known by the agreement it leaves, which samples have on average."""
    design, rng = Halves(80), np.random.default_rng(0)
    size = design.size_for(wanted, "overlap", 80)
    found = [design.grown(size, rng).halves.mean().value for _ in range(12)]
    assert abs(float(np.mean(found)) - design.at(size, "overlap", 80)) < 0.05
    agree = agreement_by_noise("overlap", 80)
    assert np.all(np.diff(agree) <= 0) and agree[0] > 0.9 and agree[-1] < 0.35 and len(agree) == len(GRID)


def test_shards_locate_by_the_standard_deviation() -> None:
    scores = np.random.default_rng(0).normal(size=(200, 50))
    scores[:, 7] += 9
    mask = shards_of(scores).locate([np.arange(128)])
    assert mask.shape == (1, 1, 50) and np.flatnonzero(mask[0, 0]).tolist() == [7]


def test_rates_are_kept_and_follow_the_rule_and_the_sizes(tmp_path: Path) -> None:
    store, claim = Store(tmp_path), claim_of("interval_below")
    assert known_rates(claim, Level(40), store) is None
    found = kept_rates(claim, Level(40), store)
    assert kept_rates(claim, Level(40), store) == found == rates(claim, Level(40))
    assert known_rates(claim, Level(40), store) == found
    assert known_rates(claim, Level(41), store) is None
    assert known_rates(replace(claim, level=0.01), Level(40), store) is None
    assert known_rates(claim, Level(40), store, covered=False) is None


def test_every_experiment_of_the_claims_states_its_design() -> None:
    folder = Path(__file__).parents[3] / "claims"
    if not folder.is_dir():
        pytest.skip("claims/ comes with the repository, not with an installed package")
    named = {
        name: (test, CLAIMS[test.claim].rule.kind)
        for paper in paper_names()
        for test, name in claimed(folder / paper)
    }
    missing = {
        name
        for name, (test, kind) in named.items()
        if test.over != "print" and kind not in NO_SAMPLING and design_of(name, SIZES) is None
    }
    assert not missing, f"state the design of {sorted(missing)} in caploc/power/experiments.py"
    assert not set(DESIGNS) - set(named), "designs of experiments that no claim has"
    assert all(isinstance(make(SIZES), Design) for make in DESIGNS.values())
    counted = {name for name, make in DESIGNS.items() if isinstance(make(SIZES), Counted)}
    assert "commonality.neuron_ratio" in counted


def test_sizes_are_those_that_experiments_take() -> None:
    """Of the embedded models, and with --samples."""
    from caploc.experiments import edited_facts, evaluating, facts, study

    assert (SIZES.examples, SIZES.items) == (study.CPU_SAMPLES, evaluating.CPU_ITEMS)
    assert (SIZES.facts, SIZES.fewer, SIZES.traced) == (
        facts.CPU_FACTS,
        facts.CPU_FEWER_FACTS,
        facts.ForTracing.on_cpu,
    )
    assert SIZES.edited == edited_facts.CPU_EDITED < SIZES.editable
    asked = Sizes.of(30, 100, 5, gpu=False)
    assert (asked.examples, asked.facts, asked.items, asked.edited) == (30, 30, 30, 30)


def test_the_benchmark_has_a_row_a_claim_and_says_what_would_do() -> None:
    if not FOLDER.is_dir():
        pytest.skip("claims/ comes with the repository, not with an installed package")
    rows = {row["claim"]: row for row in table_of_rules(20, ["fidelity-ordering", "table3-base"]).rows}
    assert set(rows) == {"fidelity-ordering", "table3-base"}
    weak = rows["fidelity-ordering"]
    assert weak["sizes"] == "20 facts" and weak["power %"] < 80 and weak["for 80 %"] > 20
    assert rows["table3-base"]["sizes"] == "700 items (paper's models)"
