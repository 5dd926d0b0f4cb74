"""Simulated rates: every kind of rule is simulated, errs in neither direction more often than 5 %, and needs data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from caploc import statistics
from caploc.audit.claims import ClaimTest
from caploc.papers import Claim, load_paper
from caploc.power import (
    DESIGNS,
    ELSEWHERE,
    NO_SAMPLING,
    TRUTHS,
    Counted,
    Design,
    Halves,
    Level,
    Paired,
    Proportion,
    Rates,
    SetsDrawn,
    Sizes,
    design_of,
    kept_rates,
    more_units,
    rates,
)
from caploc.rules import RULES
from caploc.store import Store
from caploc.tests.papers.examples import JUDGED, claim_of

CLAIMS = load_paper("capability_localization").claims
SIZES = Sizes(examples=200, facts=150, fewer=150, edited=150, items=200, draws=199, datasets=3, runs=3)
"""Large enough that every kind of rule can decide."""
LARGE: dict[str, Design] = {
    "comparison": SetsDrawn(300, comparisons=2, draws=199),
    "plain_difference": SetsDrawn(300, draws=199),
    "difference": Paired(150),
    "specificity": SetsDrawn(600, draws=199, between=0.02, own=0.1),
    "best_of": SetsDrawn(300, comparisons=3, draws=199),
    "equivalence": Paired(300, comparisons=2, spread=0.2),
    "non_inferiority": Paired(1200, comparisons=2, spread=0.2),
    "lower_bound": Level(150),
    "lower_bounds": Proportion(1000),
    "both": Level(150),
    "interval_below": Level(150),
    "overlap_below": Proportion(300),
    "within": Level(300, high=100.0),
    "agreement": Proportion(2000),
    "readings": Proportion(2000),
    "monotone": DESIGNS["erasure.sigma_trend"](SIZES),
}


@cache
def simulated(kind: str) -> Rates:
    claim = claim_of(kind)
    if kind == "equivalence":  # every part: a share of them is looked at below
        claim = claim_of(kind, rule=RULES[kind](margin=0.05, share=1.0))
    return rates(claim, LARGE[kind], runs=200)


def test_every_kind_of_rule_is_simulated_or_says_why_not() -> None:
    assert set(RULES) <= {*TRUTHS, *ELSEWHERE, *NO_SAMPLING}
    assert set(LARGE) == set(TRUTHS) & set(JUDGED)
    assert not set(TRUTHS) & {*ELSEWHERE, *NO_SAMPLING}


@pytest.mark.parametrize("kind", LARGE)
def test_neither_error_is_frequent_and_both_verdicts_can_be_reached(kind: str) -> None:
    """False SUPPORTED at the rule's null, false REFUTED at its stated effect: 5 % of 200 runs, and sampling error."""
    found = simulated(kind)
    assert found.calibrated, found
    assert found.can_support and found.can_refute, found


@pytest.mark.parametrize("kind", sorted({*LARGE} - {"monotone"}))
def test_so_many_units_find_the_stated_effect_and_its_opposite(kind: str) -> None:
    found = simulated(kind)
    assert found.power >= 0.7 and found.against >= 0.7, found


def test_a_rule_that_errs_is_told() -> None:
    """Thresholds so close that noise crosses them."""
    careless = replace(Rates(0.9, 0.9, 0.01, 0.01, True, True, 0.1, 200), false_refuted=0.15)
    assert not careless.calibrated
    biased = rates(claim_of("interval_below"), _Biased(60), runs=100)
    assert biased.false_supported > 0.5 and not biased.calibrated


class _Biased(Level):
    """What a statistic that is a tenth too low would do."""

    def sample(self, truth, rng, noise=1.0):  # type: ignore[no-untyped-def]
        return super().sample(max(0.0, (truth or 0) - 0.1), rng, noise)


def test_a_sixth_dataset_with_few_draws_cannot_be_supported_and_more_draws_can() -> None:
    claim = claim_of("comparison")
    few = SetsDrawn(100, comparisons=6, draws=100)
    assert not rates(claim, few, runs=20).can_support
    assert statistics.minimum_draws(0.05, 6) > 100
    assert rates(claim, replace(few, draws=120), runs=20).can_support


def test_power_grows_with_units_and_says_how_many_are_needed() -> None:
    claim = claim_of("plain_difference")
    small = SetsDrawn(20)
    needed = more_units(claim, small)
    assert needed is not None and needed > small.units
    assert rates(claim, small).power < 0.8 <= rates(claim, small.with_units(2 * needed)).power
    assert more_units(claim, Paired(20, spread=100.0)) is None


def test_equivalence_needs_as_many_items_as_a_margin_of_two_points() -> None:
    """If no item of 64 changes, two points cannot be excluded; of 300 they can."""
    claim: Claim = CLAIMS["table4-harmless-updating"]
    assert not rates(claim, Paired(64, binary=True, discordant=0.0), runs=20).can_support
    assert rates(claim, Paired(300, binary=True, discordant=0.0), runs=20).can_support


@pytest.mark.xfail(
    strict=True,
    reason="each part's interval is at level .05, so that some of several parts at the margin lie within more often",
)
def test_equivalence_of_a_share_of_the_parts_is_seldom_supported_by_accident() -> None:
    assert rates(claim_of("equivalence"), Paired(300, comparisons=5, spread=0.2), runs=400).calibrated


@pytest.mark.parametrize("overlap", [0.5, 0.8, 0.95])
def test_halves_overlap_by_what_is_asked_for(overlap: float) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    found = [Halves(80).sample(overlap, rng).estimate for _ in range(20)]
    assert abs(float(np.mean(found)) - overlap) < 0.03


def test_rates_are_kept_and_follow_the_rule_and_the_sizes(tmp_path: Path) -> None:
    store, claim = Store(tmp_path), claim_of("interval_below")
    found = kept_rates(claim, Level(40), store)
    assert kept_rates(claim, Level(40), store) == found == rates(claim, Level(40))
    entries = {file.name for file in tmp_path.rglob("*.safetensors")}
    kept_rates(claim, Level(41), store)
    kept_rates(replace(claim, level=0.01), Level(40), store)
    assert len({file.name for file in tmp_path.rglob("*.safetensors")}) == len(entries) + 2


def test_every_experiment_of_the_claims_states_its_design() -> None:
    folder = Path(__file__).parents[3] / "claims" / "capability_localization"
    if not folder.is_dir():
        pytest.skip("claims/ comes with the repository, not with an installed package")
    missing = {
        name
        for name, (test, kind) in _experiments(folder).items()
        if test.over != "print" and kind not in NO_SAMPLING and design_of(name, SIZES) is None
    }
    assert not missing, f"state the design of {sorted(missing)} in caploc/power/experiments.py"
    assert all(isinstance(make(SIZES), Design) for make in DESIGNS.values())
    counted = {name for name, make in DESIGNS.items() if isinstance(make(SIZES), Counted)}
    assert "commonality.neuron_ratio" in counted


def _experiments(folder: Path) -> dict[str, tuple[ClaimTest, str]]:
    """Name of an experiment -> its test and its claim's kind of rule."""
    import importlib.util

    found = {}
    for file in folder.glob("test_*.py"):
        spec = importlib.util.spec_from_file_location(f"_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for test in vars(module).values():
            for mark in (
                getattr(test, "pytestmark", []) if callable(test) and hasattr(test, "__code__") else []
            ):
                declared = mark.args[0] if mark.name == "claim" else None
                if isinstance(declared, ClaimTest):
                    reference = declared.experiment
                    name = f"{reference.module.rpartition('.')[2]}.{reference.name}"
                    found[name] = (declared, CLAIMS[declared.claim].rule.kind)
    return found
