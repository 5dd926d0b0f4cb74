"""Claims of groups E and F on outcomes with a known answer: supported where it is planted, refuted where it is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from caploc.experiments import enhancement
from caploc.experiments import enhancement_elsewhere as elsewhere
from caploc.experiments.enhancement_arms import EPOCHS, FROZEN, LOCATED, METHODS, OTHERS, RANDOM
from caploc.experiments.study import Experiment
from caploc.findings import Bound, Cell, Effect, Finding, Number, Outcome, Verdict
from caploc.papers import PrintedCell
from caploc.tests.experiments.planted import PAPER, judged
from caploc.tests.experiments.trained import ITEMS, TrainedStudy

CLAIMS: Mapping[str, Experiment] = {
    "table2-numbers": enhancement.table2_numbers,
    "table2-numbers-code25k": enhancement.table2_numbers,
    "table2-located-beats-random": enhancement.located_beats_random,
    "table2-located-beats-random-each": enhancement.located_beats_random,
    "table2-located-beats-wo-located": enhancement.located_beats_others,
    "table2-located-best-average": enhancement.located_best_average,
    "table2-small-portion-suffices": enhancement.small_portion_suffices,
    "fig9-enhancement-loss": elsewhere.enhancement_loss,
    "table4-numbers": elsewhere.table4_numbers,
    "table4-located-best": elsewhere.table4_located_best,
    "table4-harmless-updating": elsewhere.harmless_updating,
}
COMPARISONS = [name for name in CLAIMS if "numbers" not in name and not name.endswith("-each")]
AHEAD = {"base": 0.3, LOCATED: 0.8, RANDOM: 0.5, OTHERS: 0.4, FROZEN: 0.5}
EQUAL = dict.fromkeys(AHEAD, 0.5)
BEHIND = {"base": 0.8, LOCATED: 0.3, RANDOM: 0.6, OTHERS: 0.7, FROZEN: 0.7}


def run(
    claim: str, study: TrainedStudy, model: str = "mine", sigma: float = 6.0, dataset: str | None = None
) -> tuple[Finding, Verdict]:
    """The finding, which must be complete, and its verdict."""
    cell = Cell(model, dataset, sigma)
    finding, verdict = judged(CLAIMS[claim], study, cell, claim)
    assert (finding.claim, finding.cell) == (claim, cell)
    return finding, verdict


def printed(finding: Finding) -> list[PrintedCell]:
    """The printed cells that the finding's numbers are held against."""
    claim = PAPER.claim(finding.claim)
    found = [
        claim.printed_number(finding.cell, name, one.at)
        for name, one in finding.measurement.of(Number).items()
    ]
    return [one for one in found if isinstance(one, PrintedCell)]


def estimate(finding: Finding) -> float | None:
    return finding.measurement.value.estimate if finding.measurement.value else None


@pytest.mark.parametrize("claim", COMPARISONS)
@pytest.mark.parametrize(
    ("levels", "text", "expected"),
    [(AHEAD, 0.0, Outcome.SUPPORTED), (BEHIND, 0.1, Outcome.REFUTED)],
    ids=["ahead", "behind"],
)
def test_verdict_follows_what_is_planted(
    claim: str, levels: Mapping[str, float], text: float, expected: Outcome
) -> None:
    study = TrainedStudy(levels, levels, text, spread=0.02)
    assert run(claim, study)[1].outcome is expected, run(claim, study)[1].reason


@pytest.mark.parametrize("claim", [name for name in COMPARISONS if "harmless" not in name])
def test_no_difference_is_refuted(claim: str) -> None:
    verdict = run(claim, TrainedStudy(EQUAL, EQUAL))[1]
    assert verdict.outcome is Outcome.REFUTED, verdict.reason


def test_harm_to_general_text_alone_refutes() -> None:
    outcome, reason = (
        (verdict := run("table4-harmless-updating", TrainedStudy(AHEAD, AHEAD, 0.05))[1]).outcome,
        (verdict.reason),
    )
    assert outcome is Outcome.REFUTED
    assert "general text" in reason


@pytest.mark.parametrize(("lost", "expected"), [(0.15, Outcome.REFUTED), (0.02, Outcome.SUPPORTED)])
def test_harm_to_a_single_dataset_is_not_hidden_by_the_average(lost: float, expected: Outcome) -> None:
    """15 points on one of nine pairs are 1.7 on average, which alone would pass."""
    even = {**AHEAD, LOCATED: 0.5, "base": 0.5}
    study = TrainedStudy(AHEAD, even)
    (found,) = (one for key, one in study._results.items() if (key.dataset, key.sigma) == ("gsm8k", 6.0))  # type: ignore[attr-defined]
    located = found.indices(LOCATED)
    right = np.flatnonzero(found.score["imdb"][located[0], -1])[: round(lost * ITEMS)]
    found.score["imdb"][np.ix_(located, [len(EPOCHS) - 1], right)] = 0.0
    finding, verdict = run("table4-harmless-updating", study)
    assert estimate(finding) == pytest.approx(-lost / 9, abs=0.001)
    assert verdict.outcome is expected, verdict.reason
    assert ("imdb after gsm8k" in verdict.reason) is (expected is Outcome.REFUTED)


def test_intervals_of_single_pairs_hold_for_all_of_them() -> None:
    finding, _ = run("table4-harmless-updating", TrainedStudy(AHEAD, AHEAD, 0.01))
    single = finding.measurement.of(Bound)
    assert len(single) == 9 + 3
    assert all("99.44 %" in one.method for name, one in single.items() if "general text" not in name)
    assert all("98.33 %" in one.method for name, one in single.items() if "general text" in name)


def test_an_accident_of_random_sets_is_no_support() -> None:
    """Random sets differ so much that located, ahead of their mean on every item, may be one of them."""
    study = TrainedStudy({**AHEAD, LOCATED: 0.62, RANDOM: 0.5}, spread=0.15)
    assert run("table2-located-beats-random", study)[1].outcome is Outcome.INCONCLUSIVE


def test_zeroing_can_be_all_that_others_lose() -> None:
    """The arm that leaves the located neurons as they are stands beside, and shows it."""
    study = TrainedStudy({**AHEAD, FROZEN: 0.9})
    finding, verdict = run("table2-located-beats-wo-located", study)
    assert verdict.outcome is Outcome.SUPPORTED
    frozen = finding.measurement.asides["minus the others, located frozen, after 10 epochs"]
    assert isinstance(frozen, Effect) and frozen.interval is not None and frozen.interval[1] < 0


def test_a_gain_below_the_level_of_guessing_is_refuted() -> None:
    study = TrainedStudy({"base": 0.0, LOCATED: 0.45}, chance=0.65)
    _, verdict = run("table2-small-portion-suffices", study)
    assert verdict.outcome is Outcome.REFUTED
    assert "over chance" in verdict.reason


@pytest.mark.parametrize("claim", CLAIMS)
def test_diverged_runs_leave_the_verdict_open_and_the_rest_measured(claim: str) -> None:
    dataset = "code25k" if claim.endswith("code25k") else None
    finding, verdict = run(claim, TrainedStudy(AHEAD, AHEAD, diverged=LOCATED), "llama2-7b", dataset=dataset)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "diverged" in verdict.reason
    assert estimate(finding) is not None
    assert any("seed 0, at step 4" in note for note in finding.notes)


def test_printed_cells_are_compared_one_by_one() -> None:
    """All 36 numbers of a block of Table 2, the 3 of a block of Table 4, and those that agree by their ids."""
    close = {LOCATED: 0.44, RANDOM: 0.44, OTHERS: 0.44, "base": 0.3}
    held: list[PrintedCell] = []
    for dataset in ("gsm8k", "emotion", "code25k", None):
        claim = "table2-numbers-code25k" if dataset == "code25k" else "table2-numbers"
        finding, verdict = run(claim, TrainedStudy(close, close), "llama2-7b", dataset=dataset)
        assert {one.dataset for one in printed(finding)} == {dataset or "average"}
        assert verdict.outcome is Outcome.REFUTED
        held += printed(finding)
    assert len(held) == 36 == len({one.id for one in held})
    assert "table2/llama2-7b/sigma6/located/10/emotion" in {one.id for one in held}
    changed, _ = run("table4-numbers", TrainedStudy(close, {**close, LOCATED: 0.41}), "llama2-7b")
    assert {one.id for one in printed(changed)} == {
        f"table4/llama2-7b/sigma6/{method.replace(' ', '-')}/average" for method in METHODS
    }


def test_a_dataset_that_gains_nothing_is_judged_by_itself() -> None:
    ahead, equal = TrainedStudy(AHEAD), TrainedStudy(EQUAL)
    study = TrainedStudy(AHEAD)
    study._results = {
        one: (equal if one.dataset == "emotion" else ahead).result(one)  # type: ignore[attr-defined]
        for one in ahead._results
    }
    each, pooled = "table2-located-beats-random-each", "table2-located-beats-random"
    assert run(each, study, dataset="gsm8k")[1].outcome is Outcome.SUPPORTED
    assert run(each, study, dataset="emotion")[1].outcome is Outcome.REFUTED
    assert run(pooled, study)[1].outcome is Outcome.SUPPORTED
    assert run("table2-small-portion-suffices", study, dataset="emotion")[1].outcome is Outcome.REFUTED
    assert run("table2-small-portion-suffices", study)[1].outcome is Outcome.SUPPORTED
    _, elsewhere = run(each, study, dataset="imdb")
    assert elsewhere.outcome is Outcome.NOT_RUN and "imdb is not trained on" in elsewhere.reason


def test_numbers_of_a_model_that_the_paper_does_not_have() -> None:
    for claim in ("table2-numbers", "table4-numbers"):
        finding, verdict = run(claim, TrainedStudy(AHEAD, AHEAD))
        assert verdict.outcome is Outcome.MEASURED
        assert "prints no number" in verdict.reason
        assert not printed(finding)


def test_what_was_trained_on_is_none_of_the_others() -> None:
    """Gains on the datasets trained on alone are no change elsewhere, and those elsewhere none in Table 2."""
    nowhere = dict.fromkeys(AHEAD, 0.5)
    assert estimate(run("table4-numbers", TrainedStudy(AHEAD, nowhere))[0]) == 0
    assert estimate(run("table4-numbers", TrainedStudy(nowhere, AHEAD))[0]) == pytest.approx(0.5)
    assert estimate(run("table2-located-beats-random", TrainedStudy(nowhere, AHEAD))[0]) == 0


def test_one_dataset_has_no_others() -> None:
    finding, verdict = run("table4-located-best", TrainedStudy(AHEAD, datasets=("gsm8k",)))
    assert verdict.outcome is Outcome.NOT_RUN
    assert "not trained on" in (finding.measurement.not_run or "")
    assert run("table2-located-beats-random", TrainedStudy(AHEAD, datasets=("gsm8k",)))[1].outcome is (
        Outcome.SUPPORTED
    )


def test_a_base_that_leaves_nothing_to_gain_is_a_ceiling_and_no_refutation() -> None:
    finding, verdict = run("table2-small-portion-suffices", TrainedStudy({"base": 0.98, LOCATED: 0.98}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.measurement.floor is not None and finding.measurement.floor.count("ceiling effect") == 3


@pytest.mark.parametrize(
    "claim", ["table2-located-beats-random", "table2-located-beats-wo-located", "table2-located-best-average"]
)
def test_arms_that_are_all_right_are_a_ceiling_and_no_refutation(claim: str) -> None:
    finding, verdict = run(claim, TrainedStudy({"base": 0.96, **dict.fromkeys(METHODS, 0.96)}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.measurement.floor is not None and finding.measurement.floor.count("ceiling effect") == 3


@pytest.mark.parametrize(
    "claim", ["table2-located-beats-random", "table2-located-beats-wo-located", "table2-located-best-average"]
)
def test_arms_that_all_guess_are_a_floor_and_no_refutation(claim: str) -> None:
    finding, verdict = run(claim, TrainedStudy({"base": 0.3, **dict.fromkeys(METHODS, 0.3)}, chance=0.4))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.measurement.floor is not None and finding.measurement.floor.count("floor effect") == 3
