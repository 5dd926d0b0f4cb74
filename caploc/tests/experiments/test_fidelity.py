"""Fidelity on planted sets: each verdict where it must come out, whatever method located the sets."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.experiments import fidelity
from caploc.experiments.facts import FactSet
from caploc.findings import Outcome
from caploc.tests.experiments.planted_facts import (
    fact_set,
    located_study,
    own_cores,
    run,
    sets_of,
    with_core,
)

FACTS, WORDINGS, SIZE = 40, 5, 20


def overlap(facts: FactSet, core: int, seed: int = 0, **options: object):
    sets = with_core(own_cores(len(facts), core), facts.fact, SIZE, seed)
    return run(fidelity.kn_overlap, located_study(facts, sets), "fidelity-kn-overlap", **options)


@pytest.mark.parametrize(
    ("core", "outcome"), [(3, Outcome.SUPPORTED), (15, Outcome.REFUTED), (0, Outcome.INCONCLUSIVE)]
)
def test_wordings_that_share_little_much_or_nothing(core: int, outcome: Outcome) -> None:
    """20 neurons a wording, ``core`` of them the fact's own; without any, unrelated facts overlap as much."""
    finding, verdict = overlap(fact_set(FACTS, WORDINGS), core)
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(core / SIZE, abs=0.05) and finding.n == FACTS
    assert finding.interval[0] <= finding.estimate <= finding.interval[1]
    assert finding.controls["unrelated facts"] == pytest.approx(SIZE / 600, abs=0.02)
    assert finding.chance == pytest.approx(SIZE / 600, abs=0.01)
    assert finding.p_values["permutation of facts"] == (0.001 if core else pytest.approx(0.5, abs=0.5))


def test_an_overlap_that_unrelated_facts_share_is_no_fact() -> None:
    facts = fact_set(FACTS, WORDINGS)
    sets = with_core(own_cores(1, 6), np.zeros(len(facts.prompts), int), SIZE, 1)
    finding, verdict = run(fidelity.kn_overlap, located_study(facts, sets), "fidelity-kn-overlap")
    assert finding.estimate < 0.4 and verdict.outcome is Outcome.INCONCLUSIVE
    assert "unrelated items are not shown to overlap less" in verdict.reason


def test_an_overlap_around_the_line_decides_nothing() -> None:
    facts = fact_set(FACTS, WORDINGS)
    cores = [core[: 2 + number % 12] for number, core in enumerate(own_cores(FACTS, 14))]
    sets = with_core(cores, facts.fact, SIZE, 2)
    finding, verdict = run(fidelity.kn_overlap, located_study(facts, sets), "fidelity-kn-overlap")
    assert finding.interval[0] < 0.4 < finding.interval[1] and verdict.outcome is Outcome.INCONCLUSIVE


def test_facts_with_one_answer_are_no_unrelated_ones() -> None:
    """What goes with the answer, and not with the fact, shows in the control of the same answer."""
    answers = [f" {number % 4}" for number in range(FACTS)]
    facts = fact_set(FACTS, WORDINGS, answers=answers)
    sets = with_core(own_cores(4, 12), facts.fact % 4, SIZE, 3)
    finding, _ = run(fidelity.kn_overlap, located_study(facts, sets), "fidelity-kn-overlap")
    same = finding.controls["same answer, another subject"]
    assert same == pytest.approx(finding.estimate, abs=0.02) and finding.controls["unrelated facts"] < 0.1
    low, high = (finding.quantities[f"same_answer_gap:{end}"] for end in ("low", "high"))
    assert low < 0.02 and high > -0.02


def test_wordings_that_change_the_answer_and_unknown_facts_are_left_out() -> None:
    rank = np.ones((FACTS, WORDINGS), int)
    rank[:, 3:] = 7  # two wordings are not understood
    rank[:10, 0] = 2  # ten facts are not known
    facts = fact_set(FACTS, WORDINGS, rank=rank.ravel())
    cores = own_cores(FACTS, 16)
    good = with_core(cores, facts.fact, SIZE, 4)
    bad = with_core(own_cores(FACTS, 0), facts.fact, SIZE, 5)
    from scipy import sparse

    rows = np.where(
        facts.kept, np.arange(len(facts.prompts)), len(facts.prompts) + np.arange(len(facts.prompts))
    )
    members = sparse.vstack([good.members, bad.members]).tocsr()[rows]
    sets = type(good)(members, good.strata)
    finding, verdict = run(fidelity.kn_overlap, located_study(facts, sets), "fidelity-kn-overlap")
    assert verdict.outcome is Outcome.REFUTED and finding.n == FACTS - 10
    assert finding.quantities["all wordings of known facts"] < finding.estimate - 0.3
    assert finding.quantities["all facts, known or not"] < finding.quantities["all wordings of known facts"]
    assert "10 of 40 facts left out: the model does not know them" in finding.notes
    assert "60 further wordings of known facts left out: they change the model's answer" in finding.notes


def test_facts_that_the_model_does_not_know_say_nothing() -> None:
    rank = np.full((FACTS, WORDINGS), 9)
    rank[:15] = 1
    finding, verdict = overlap(fact_set(FACTS, WORDINGS, rank=rank.ravel()), 10)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == finding.floor == "the model does not know the facts (15 of 40)"


def test_empty_sets_are_left_out_and_counted() -> None:
    """Both empty: no pair; one empty: an overlap of 0."""
    facts = fact_set(FACTS, WORDINGS)
    full = with_core(own_cores(FACTS, 20), facts.fact, SIZE, 6)
    places = [
        np.zeros(0, int) if prompt % 5 in (3, 4) else row.indices for prompt, row in enumerate(full.members)
    ]
    finding, _ = run(fidelity.kn_overlap, located_study(facts, sets_of(places)), "fidelity-kn-overlap")
    assert finding.quantities["pairs of two empty sets, left out"] == FACTS
    assert finding.quantities["empty sets"] == 2 * FACTS
    assert finding.estimate == pytest.approx(3 / 9)  # of ten pairs three overlap wholly, six not at all
    nothing, verdict = run(
        fidelity.kn_overlap, located_study(facts, sets_of([np.zeros(0, int)] * 200)), "fidelity-kn-overlap"
    )
    assert nothing.floor and verdict.outcome is Outcome.INCONCLUSIVE


def test_numbers_are_compared_where_the_paper_prints_them() -> None:
    facts = fact_set(FACTS, WORDINGS)
    for model, prefix in (("gptj-6b", "number:overlap"), ("tiny-gptj", "overlap")):
        finding, _ = overlap(facts, 7, model=model)
        assert f"{prefix}:low" in finding.quantities
        assert finding.published == ("37.3" if model == "gptj-6b" else None)


@pytest.mark.parametrize(
    ("size", "model", "outcome"),
    [
        (15, "gptj-6b", Outcome.SUPPORTED),
        (70, "gptj-6b", Outcome.REFUTED),
        (25, "gptj-6b", Outcome.INCONCLUSIVE),
        (15, "tiny-llama", Outcome.INCONCLUSIVE),
    ],
)
def test_mean_located(size: int, model: str, outcome: Outcome) -> None:
    facts = fact_set(FACTS, WORDINGS)
    study = located_study(facts, with_core(own_cores(FACTS, 1), facts.fact, size, 7))
    finding, verdict = run(fidelity.kn_mean_located, study, "fidelity-kn-mean-located", model=model)
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == size and finding.unit == "count" and finding.n == FACTS * WORDINGS
    assert (finding.floor is None) == (model == "gptj-6b")


def test_the_same_seed_gives_the_same_finding() -> None:
    facts = fact_set(FACTS, WORDINGS)
    first, again = (overlap(facts, 7)[0].to_json() for _ in range(2))
    assert first == again
