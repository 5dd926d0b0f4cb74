"""Specificity to a type of dataset on planted outcomes, and the two permutation tests against all deals by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from caploc.datasets import DATASETS as REGISTERED
from caploc.experiments import cross_dataset
from caploc.experiments.cross_dataset_matrix import Matrix
from caploc.experiments.dataset_types import Split, datasets_p, rows_p, types_of
from caploc.findings import Finding, Outcome
from caploc.tests.experiments.planted import judged
from caploc.tests.experiments.planted_matrices import (
    DATASETS,
    Effect,
    cell_of,
    everywhere,
    nothing,
    planted_matrix,
    same_type,
    study_with,
)

CLAIM = "cross-same-type-specificity"
TYPES = {name: REGISTERED[name].task for name in DATASETS}


def other_types(row: str, column: str) -> float:
    return 0.5 * (TYPES[row] != TYPES[column])


def both(effect: Effect, columns: Sequence[str] = DATASETS, **options: Any) -> list[Matrix]:
    rows = [name for name in ("gsm8k", "emotion", "code25k") if name in columns]
    return [
        planted_matrix("training", effect, rows=rows, columns=columns, seed=1, **options),
        planted_matrix("erasing", effect, columns=columns, seed=2, **options),
    ]


def run(training: Matrix, erasing: Matrix) -> tuple[Finding, Outcome]:
    study = study_with(training, erasing)
    finding, verdict = judged(cross_dataset.same_type_specificity, study, cell_of(), CLAIM)
    return finding, verdict.outcome


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (same_type, Outcome.SUPPORTED),
        (everywhere, Outcome.REFUTED),
        (other_types, Outcome.REFUTED),
        (nothing, Outcome.REFUTED),
    ],
)
def test_what_is_planted_is_found(effect: Effect, expected: Outcome) -> None:
    finding, outcome = run(*both(effect, items=200, noisy=0))
    assert outcome is expected
    assert finding.measurement.n == 1000


def test_it_is_refuted_where_other_types_change_as_well() -> None:
    """Own far above other, other far from 0."""
    finding, outcome = run(*both(lambda row, column: 0.3 + same_type(row, column), noisy=0))
    assert outcome is Outcome.REFUTED
    own, other = finding.measurement.parts["own"], finding.measurement.parts["other"]
    assert own.interval[0] > 0.1 and other.interval[0] > 0.1  # type: ignore[index]


def test_gains_and_losses_do_not_cancel() -> None:
    finding, _ = run(*both(everywhere, noisy=0))
    by_hand = [
        np.mean(
            [
                one.sign * change.value
                for (row, column), change in one.changes.items()
                if TYPES[row] != TYPES[column]
            ]
        )
        for one in both(everywhere, noisy=0)
    ]
    other = finding.measurement.parts["other"].estimate
    assert other == pytest.approx(np.mean(by_hand)) and other > 0.2  # type: ignore[operator]


def test_p_of_rows_is_that_of_all_deals() -> None:
    erasing = planted_matrix("erasing", same_type, seed=4, noisy=0.3)
    split = Split.of(erasing, TYPES)
    assert split is not None
    leads = []
    for row in ("gsm8k", "meta_math", "emotion", "imdb"):
        sizes = [abs(erasing.changes[row, column].value) for column in DATASETS if column != row]
        first = next(column for column in DATASETS if column != row and TYPES[column] == TYPES[row])
        own = [column for column in DATASETS if column != row].index(first)
        leads.append([sizes[own], *(size for place, size in enumerate(sizes) if place != own)])
    sums = np.array([sum(deal) for deal in itertools.product(*leads)])
    expected = np.mean(sums >= sums[0] - 1e-12)
    assert rows_p([split], 0) == pytest.approx(expected)


def test_p_of_datasets_is_that_of_all_deals() -> None:
    erasing = planted_matrix("erasing", same_type, seed=4)
    assert datasets_p([erasing], TYPES, 0) == pytest.approx(1 / 15)
    no_type = planted_matrix("erasing", nothing, seed=4, noisy=0.3)
    leads = []
    for deal in itertools.permutations(TYPES.values()):
        types = dict(zip(TYPES, deal, strict=True))
        sizes: dict[bool, list[float]] = {True: [], False: []}
        for row, column in no_type.others:
            sizes[types[row] == types[column]].append(abs(no_type.changes[row, column].value))
        leads.append(np.mean(sizes[True]) - np.mean(sizes[False]))
    assert datasets_p([no_type], TYPES, 0) == pytest.approx(np.mean(np.array(leads) >= leads[0] - 1e-12))


def test_fragile_datasets_are_seldom_called_a_type() -> None:
    """Each dataset breaks to its own degree, whatever is erased: no type acts on itself."""
    low = 0
    for seed in range(100):
        fragile = dict(zip(DATASETS, np.random.default_rng(seed).random(5), strict=True))
        erasing = planted_matrix("erasing", lambda _, column: fragile[column], seed=seed, items=20, draws=2)  # noqa: B023
        split = Split.of(erasing, TYPES)
        assert split is not None
        low += rows_p([split], 0) < 0.05
    assert low <= 9  # 5 % and two standard deviations


def test_datasets_of_ones_own_have_no_type() -> None:
    columns = (*DATASETS, "mine")
    finding, outcome = run(*both(same_type, columns, items=100, noisy=0))
    assert outcome is Outcome.SUPPORTED
    assert "mine left out: a dataset of your own has no type" in finding.notes
    assert "one dataset only of type program: it counts as another type for the rest" in finding.notes
    assert types_of(columns) == TYPES


def test_without_two_of_a_type_it_cannot_run() -> None:
    finding, outcome = run(*both(everywhere, ("gsm8k", "emotion", "code25k")))
    assert outcome is Outcome.NOT_RUN and "two datasets of one type" in (finding.measurement.not_run or "")
    floors = [
        Matrix(one.intervention, {}, {"tested on imdb": "floor effect: no"}) for one in both(everywhere)
    ]
    finding, outcome = run(*floors)
    assert (
        outcome is Outcome.INCONCLUSIVE
        and finding.measurement.floor is not None
        and "tested on imdb: left out" in finding.measurement.floor
    )


def test_one_intervention_can_do_alone() -> None:
    _, erasing = both(same_type, items=200, noisy=0)
    finding, outcome = run(Matrix("training", {}, {"tested on gsm8k": "ceiling effect"}), erasing)
    assert outcome is Outcome.SUPPORTED
    assert any(note.startswith("training left out") for note in finding.notes)
    assert "erasing of random neurons, same type" in finding.measurement.asides
