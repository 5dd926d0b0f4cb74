"""``--samples auto``: what a look holds a finding to, which claims are looked at early, and how often that errs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from caploc.benchmarks.statistics.rules import FOLDER, PAPERS, claimed, table_of_looks
from caploc.findings import Bound, Cell, Chance, Effect, Finding, Measurement, Outcome, Part, Test
from caploc.papers import load_paper
from caploc.power import DESIGNS, Sizes
from caploc.power import stopping as simulated
from caploc.power.designs import Level, Paired
from caploc.power.stopping import kept_stopping, stopping
from caploc.rules import judge
from caploc.rules.looks import EARLY, LOOKS, Look, held_to
from caploc.store import Store
from caploc.tests.papers.examples import claim_of

CLAIM = claim_of("interval_below")


def held(one: Part, look: Look) -> Part:
    found = held_to(Finding(CLAIM.id, Cell("m"), Measurement("q", one, {"p": one})), look, CLAIM)
    assert found.measurement.parts["p"] == found.measurement.value
    assert found.settings["look"] == f"{look.number} of 3" and "--samples auto" in found.notes[0]
    assert found.measurement.value is not None
    return found.measurement.value


@pytest.mark.parametrize(
    ("look", "z", "z90"), [(LOOKS[0], 4.333, 3.750), (LOOKS[1], 2.963, 2.540), (LOOKS[2], 1.969, 1.662)]
)
def test_a_normal_interval_reaches_as_far_as_the_boundary(look: Look, z: float, z90: float) -> None:
    plain, narrow = norm.isf(0.025), norm.isf(0.05)
    one = held(Effect(1.0, (1 - plain, 1 + plain), (1 - narrow, 1 + narrow), 0.004), look)
    assert one.interval == pytest.approx((1 - z, 1 + z), abs=1e-3)
    assert one.interval90 == pytest.approx((1 - z90, 1 + z90), abs=1e-3)
    assert one.p == pytest.approx(min(1.0, 0.004 * 0.05 / norm.sf(z90)), rel=5e-3)


@given(
    st.floats(-2, 2) | st.none(),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)).map(sorted),
    st.floats(0, 1) | st.just(math.nan) | st.none(),
)
def test_an_earlier_look_asks_for_more(estimate: float | None, ends: list[float], p: float | None) -> None:
    """Intervals hold those of later looks and the plain one, as far as a fraction goes; p values are no smaller."""
    one = Bound(estimate, (ends[0], ends[1]), p=p)
    found = [held(one, look) for look in LOOKS] + [one]
    for early, late in pairwise(found):
        assert early.interval is not None and late.interval is not None
        assert early.interval[0] <= late.interval[0] + 1e-12 and early.interval[1] >= late.interval[1] - 1e-12
        if p is not None and not math.isnan(p):
            assert early.p is not None and late.p is not None and early.p >= late.p
    if p is None:
        assert all(each.p is None for each in found)
    if ends[0] >= 0 and ends[1] <= 1:
        assert found[0].interval is not None and 0 <= found[0].interval[0] <= found[0].interval[1] <= 1


def test_every_p_value_of_a_part_is_raised_and_what_was_not_run_stays() -> None:
    one = held(Chance(0.5, p=0.001, p_by_layer=0.002), LOOKS[1])
    assert isinstance(one, Chance) and one.p_by_layer == pytest.approx(2 * one.p)  # type: ignore[operator]
    missing = Finding(CLAIM.id, Cell("m"), Measurement("q", not_run="no data"))
    assert held_to(missing, LOOKS[0], CLAIM) is missing
    assert held(Test(p=0.9), LOOKS[0]).p == 1.0


def test_a_verdict_at_a_look_is_that_of_whoever_judges_the_finding_again() -> None:
    below = Bound(0.5, (0.4, 0.6))
    claim = replace(CLAIM, rule=type(CLAIM.rule)(supported_below=0.7, refuted_above=0.7))
    finding = Finding(claim.id, Cell("m"), Measurement("level", below))
    assert [judge(claim, held_to(finding, look, claim)).outcome for look in LOOKS] == [
        Outcome.INCONCLUSIVE, Outcome.SUPPORTED, Outcome.SUPPORTED
    ]  # fmt: skip
    again = Finding.loads(held_to(finding, LOOKS[0], claim).dumps())
    assert judge(claim, again).outcome is Outcome.INCONCLUSIVE


def test_an_exponential_tail_errs_by_less_than_3_points_a_side() -> None:
    """No event in n facts: the exact upper end is -log(level) / n, which a normal scale widens by too little early."""
    assert sum(0.025 ** look.wider(0.025) for look in LOOKS) < 0.029


def test_only_experiments_of_facts_each_alone_are_looked_at_early() -> None:
    names = {name for paper in PAPERS for _, name in claimed(FOLDER.parent / paper)}
    assert names >= EARLY
    few, many = (Sizes.of(None, 100, 5, gpu=gpu) for gpu in (False, True))
    for name in EARLY:
        assert DESIGNS[name](few).unit == "facts" and DESIGNS[name](few).units < DESIGNS[name](many).units, (
            name
        )


@pytest.mark.parametrize("kind", ["interval_below", "corrected_overlap", "comparison", "equivalence"])
def test_looking_early_errs_no_more_often_and_saves_facts(kind: str) -> None:
    design = {
        "interval_below": Level(150),
        "corrected_overlap": Level(200, low=-0.43, bounded=True),
        "comparison": Paired(120, spread=0.1),
        "equivalence": Paired(300, spread=0.1),
    }[kind]
    rule = {"rule": type(claim_of(kind).rule)(margin=0.05, share=1.0)} if kind == "equivalence" else {}
    found = stopping(claim_of(kind, **rule), design, 60)
    # of 60 runs at 5 %, more than 8 come once in a hundred
    assert found.false_supported <= 8 / 60 and found.false_refuted <= 8 / 60, found
    assert found.power >= 0.8 and found.against >= 0.8, found
    assert found.share < 0.9 or found.share_opposite < 0.9, found


def test_looks_without_a_correction_would_be_seen_to_err(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three looks, each at the plain level, say SUPPORTED at the threshold about twice as often as they may."""
    claim, design = claim_of("interval_below"), Level(150)
    honest = stopping(claim, design, 200)
    monkeypatch.setattr(simulated, "held_to", lambda finding, look, claim: finding)
    careless = stopping(claim, design, 200)
    assert honest.false_supported <= 0.05 < careless.false_supported + 0.02
    assert careless.false_supported > honest.false_supported


def test_looks_see_the_same_facts() -> None:
    """The first look's sample is the beginning of the last one's."""
    taken: list[np.ndarray] = []

    class Seen(Level):
        def sample(self, truth, rng, noise=1.0):  # type: ignore[no-untyped-def]
            taken.append(rng.beta(2, 3, self.units))
            return super().sample(truth, rng, noise)

    stopping(CLAIM, Seen(100), 1)
    first = next(one for one in taken if len(one) == 25)
    assert any(len(one) > 25 and np.array_equal(one[:25], first) for one in taken)


def test_a_plan_keeps_what_it_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    found = kept_stopping(CLAIM, Level(60), store)
    monkeypatch.setattr(simulated, "stopping", lambda *_: pytest.fail("simulated again"))
    assert kept_stopping(CLAIM, Level(60), store) == found
    assert "of the facts" in found.words


def test_the_benchmark_has_a_row_a_claim() -> None:
    claims = load_paper("capability_localization").claims
    table = table_of_looks(4, only=("fidelity-kn-overlap", "table1-overlap"))
    assert [row["claim"] for row in table.rows] == ["fidelity-kn-overlap"]
    assert {"false supp %", "false ref %", "facts % at effect"} <= set(
        table.rows[0]
    ) and "table1-overlap" in claims
