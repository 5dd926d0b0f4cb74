"""Rules of single facts at the default number of facts: how often they say what is not so, and what is.

Each is simulated at the edge of what it calls so or not so, where errors are likeliest, and at the effect it is meant
to detect. `CPU_FACTS` known facts in three wordings, or as many sums.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from caploc.experiments import decoupling, reliability_kn
from caploc.experiments.facts import CPU_FACTS
from caploc.experiments.locating_facts import Agreements
from caploc.findings import Cell, Finding, Measurement, Outcome, Verdict
from caploc.rules import judge
from caploc.tests.experiments.planted_facts import (
    PAPER,
    PLACES,
    fact_set,
    own_cores,
    run,
    scaled_of,
    scaled_study,
    sets_of,
)
from caploc.tests.experiments.test_decoupling import study_of
from caploc.tests.experiments.test_reliability_kn import RANDOM

RUNS = 100
SEED = 20


def rates(simulate: Callable[[int], Verdict]) -> dict[Outcome, int]:
    found = [simulate(number).outcome for number in range(RUNS)]
    return {outcome: found.count(outcome) for outcome in Outcome}


def assert_at_most_five_percent(simulate: Callable[[int], Verdict], *wrong: Outcome) -> None:
    """By accident, of so few runs: 5 and the binomial error of their number."""
    found = rates(simulate)
    assert sum(found[one] for one in wrong) <= 10, found


def overlapping(share: float, spread: float = 0.15) -> Callable[[int], Verdict]:
    """Facts whose wordings share a core, of a share of their 20 neurons that differs from fact to fact."""

    def simulate(number: int) -> Verdict:
        generator = np.random.default_rng([SEED, number])
        facts = fact_set(CPU_FACTS, 3)
        width = min(spread, 1 - share, share)
        shares = generator.uniform(share - width, share + width, CPU_FACTS)
        sizes = np.floor(20 * shares + generator.random(CPU_FACTS)).astype(int).clip(0, 20)
        cores, sets = own_cores(CPU_FACTS, 20, number), []
        for owner in facts.fact:
            others = np.setdiff1d(np.arange(PLACES), cores[owner])
            others = generator.choice(others, 20 - sizes[owner], replace=False)
            sets.append(np.concatenate([cores[owner][: sizes[owner]], others]))
        known = Agreements(facts, sets_of(sets), facts.kept)
        corrected, _ = known.corrected(number)
        parts = {"corrected overlap": corrected, "baseline gap": known.gaps(number)[0]}
        claim = PAPER.claim("fidelity-kn-overlap")
        return judge(
            claim, Finding(claim.id, Cell("m", "counterfact"), Measurement("overlap", corrected, parts))
        )

    return simulate


def moving(
    experiment: str, doubled: tuple[float, float], zeroed: tuple[float, float] = (0.5, 0.5)
) -> Callable[[int], Verdict]:
    """Shares of answers that move as KN predicts, (located, random)."""

    def simulate(number: int) -> Verdict:
        generator = np.random.default_rng([SEED, number])

        def signs(share: float, *shape: int) -> np.ndarray:
            return np.where(generator.random(shape) < share, 0.3, -0.3)

        located = signs(doubled[0], CPU_FACTS), -signs(zeroed[0], CPU_FACTS)
        random = signs(doubled[1], CPU_FACTS, RANDOM), -signs(zeroed[1], CPU_FACTS, RANDOM)
        study = scaled_study(scaled_of(located, random), seed=number)
        claim = f"reliability-kn-{experiment.replace('_', '-')}"
        return run(getattr(reliability_kn, f"kn_{experiment}"), study, claim, dataset="zsre")[1]

    return simulate


def summed(of_sum: float, of_task: int) -> Callable[[int], Verdict]:
    """20 neurons a prompt, some the sum's, on average ``of_sum``, and some the task's."""

    def simulate(number: int) -> Verdict:
        generator = np.random.default_rng([SEED, number])
        order = generator.permutation(PLACES)
        tasks, free = (order[:of_task], order[of_task : 2 * of_task]), order[2 * of_task :]
        sets = []
        for _ in range(CPU_FACTS):
            own = generator.choice(free, generator.binomial(8, of_sum / 8), replace=False)
            for task in tasks:
                rest = generator.choice(np.setdiff1d(free, own), 20 - len(own) - of_task, replace=False)
                sets.append(np.concatenate([own, task, rest]))
        study = study_of(sets_of(sets))
        return run(decoupling.individual_low, study, "decoupling-individual-low", dataset="decoupling")[1]

    return simulate


S, R, U = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("simulate", "wrong"),
    [
        pytest.param(overlapping(0.807), (S, R), id="corrected overlap of 80 %"),
        pytest.param(overlapping(0.0), (S, R), id="random sets"),
        pytest.param(moving("double", (0.7, 0.7)), (S,), id="doubled as random"),
        pytest.param(moving("double", (0.6, 0.5)), (R,), id="doubled, 10 points more than random"),
        pytest.param(moving("zero", (0.5, 0.5), (0.7, 0.7)), (S,), id="zeroed as random"),
        pytest.param(moving("similar_to_random", (0.65, 0.5)), (S, R), id="15 points from random"),
        pytest.param(moving("not_necessarily", (0.95, 0.5), (0.95, 0.5)), (S, R), id="5 % against"),
        pytest.param(summed(2.0, 6), (S, R), id="10 points for the sum"),
        pytest.param(summed(0.0, 0), (S, R), id="random sets for sums"),
    ],
)
def test_errors_are_seldom(simulate: Callable[[int], Verdict], wrong: tuple[Outcome, ...]) -> None:
    assert_at_most_five_percent(simulate, *wrong)


@pytest.mark.parametrize(
    ("simulate", "right"),
    [
        pytest.param(overlapping(0.4), S, id="overlap of 40 %"),
        pytest.param(overlapping(0.95), R, id="overlap of 95 %"),
        pytest.param(moving("double", (0.851, 0.6)), S, id="doubled, 25 points more than random"),
        pytest.param(moving("double", (0.5, 0.7)), R, id="doubled, less than random"),
        pytest.param(moving("zero", (0.5, 0.5), (0.7, 0.95)), S, id="zeroed, 25 points less than random"),
        pytest.param(moving("similar_to_random", (0.8, 0.8), (0.8, 0.8)), S, id="as random"),
        pytest.param(moving("similar_to_random", (0.85, 0.5)), R, id="35 points from random"),
        pytest.param(moving("not_necessarily", (0.851, 0.5), (0.726, 0.5)), S, id="as printed against"),
        pytest.param(moving("not_necessarily", (1.0, 0.5), (1.0, 0.5)), R, id="none against"),
        pytest.param(summed(0.0, 6), S, id="none for the sum"),
        pytest.param(summed(4.0, 6), R, id="20 points for the sum"),
    ],
)
def test_what_is_there_is_mostly_seen(simulate: Callable[[int], Verdict], right: Outcome) -> None:
    found = rates(simulate)
    assert found[right] >= 0.8 * RUNS, found
