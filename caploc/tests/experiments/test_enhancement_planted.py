"""Claims of groups E and F on outcomes with a known answer: supported where it is planted, refuted where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from caploc.experiments import enhancement
from caploc.experiments.enhancement.arms import FROZEN, LOCATED, METHODS, OTHERS, RANDOM
from caploc.findings import Cell, Finding, Outcome, Verdict
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.tests.experiments.trained import TrainedStudy

PAPER = load_paper("capability_localization")
CLAIMS: Mapping[str, Callable[..., Finding]] = {
    "table2-numbers": enhancement.table2_numbers,
    "table2-located-beats-random": enhancement.located_beats_random,
    "table2-located-beats-wo-located": enhancement.located_beats_others,
    "table2-located-best-average": enhancement.located_best_average,
    "table2-small-portion-suffices": enhancement.small_portion_suffices,
    "fig9-enhancement-loss": enhancement.enhancement_loss,
    "table4-numbers": enhancement.table4_numbers,
    "table4-located-best": enhancement.table4_located_best,
    "table4-harmless-updating": enhancement.harmless_updating,
}
COMPARISONS = [name for name in CLAIMS if not name.endswith("numbers")]
AHEAD = {"base": 0.3, LOCATED: 0.8, RANDOM: 0.5, OTHERS: 0.4, FROZEN: 0.5}
EQUAL = dict.fromkeys(AHEAD, 0.5)
BEHIND = {"base": 0.8, LOCATED: 0.3, RANDOM: 0.6, OTHERS: 0.7, FROZEN: 0.7}


def run(claim: str, study: TrainedStudy, model: str = "mine", sigma: float = 6.0) -> tuple[Finding, Verdict]:
    """The finding, which must be complete and strict JSON, and its verdict."""
    cell = Cell(model, None, sigma)
    finding = CLAIMS[claim](study, cell, claim)
    assert (finding.claim, finding.cell) == (claim, cell)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(PAPER.claim(claim), finding)


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
def test_no_difference_is_never_support(claim: str) -> None:
    outcome = run(claim, TrainedStudy(EQUAL, EQUAL))[1].outcome
    assert outcome is (Outcome.INCONCLUSIVE if "best-average" in claim else Outcome.REFUTED)


def test_harm_to_general_text_alone_refutes() -> None:
    outcome, reason = (
        (verdict := run("table4-harmless-updating", TrainedStudy(AHEAD, AHEAD, 0.05))[1]).outcome,
        (verdict.reason),
    )
    assert outcome is Outcome.REFUTED
    assert "general text" in reason


def test_luck_with_random_sets_is_no_support() -> None:
    """Random sets differ so much that located, ahead of their mean on every item, may be one of them."""
    study = TrainedStudy({**AHEAD, LOCATED: 0.62, RANDOM: 0.5}, spread=0.15)
    assert run("table2-located-beats-random", study)[1].outcome is Outcome.INCONCLUSIVE


def test_zeroing_can_be_all_that_others_lose() -> None:
    """The arm that leaves the located neurons as they are stands beside, and shows it."""
    study = TrainedStudy({**AHEAD, FROZEN: 0.9})
    finding, verdict = run("table2-located-beats-wo-located", study)
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.quantities["minus the others, located frozen, after 10 epochs:high"] < 0


def test_a_gain_below_the_level_of_guessing_is_refuted() -> None:
    study = TrainedStudy({"base": 0.0, LOCATED: 0.45}, chance=0.65)
    _, verdict = run("table2-small-portion-suffices", study)
    assert verdict.outcome is Outcome.REFUTED
    assert "over chance" in verdict.reason


@pytest.mark.parametrize("claim", CLAIMS)
def test_diverged_runs_leave_the_verdict_open_and_the_rest_measured(claim: str) -> None:
    finding, verdict = run(claim, TrainedStudy(AHEAD, AHEAD, diverged=LOCATED), "llama2-7b")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "diverged" in verdict.reason
    assert finding.estimate is not None
    assert any("seed 0, at step 4" in note for note in finding.notes)


def test_printed_cells_are_compared_one_by_one() -> None:
    """All 36 numbers of a block of Table 2, the 3 of a block of Table 4, and those that agree by their ids."""
    close = {LOCATED: 0.44, RANDOM: 0.44, OTHERS: 0.44, "base": 0.3}
    finding, verdict = run("table2-numbers", TrainedStudy(close, close), "llama2-7b")
    keys = {name.rpartition(":")[0] for name in finding.quantities if name.startswith("number:")}
    assert len(keys) == 36
    assert "number:table2/llama2-7b/sigma6/located/10/emotion" in keys
    assert verdict.outcome is Outcome.REFUTED
    changed, _ = run("table4-numbers", TrainedStudy(close, {**close, LOCATED: 0.41}), "llama2-7b")
    assert {name for name in changed.quantities if name.startswith("number:") and name.endswith(":low")} == {
        f"number:table4/llama2-7b/sigma6/{method.replace(' ', '-')}/average:low" for method in METHODS
    }


def test_numbers_of_a_model_that_the_paper_does_not_have() -> None:
    for claim in ("table2-numbers", "table4-numbers"):
        finding, verdict = run(claim, TrainedStudy(AHEAD, AHEAD))
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "prints no number" in verdict.reason
        assert not any(name.startswith("number:") for name in finding.quantities)


def test_what_was_trained_on_is_none_of_the_others() -> None:
    """Gains on the datasets trained on alone are no change elsewhere, and those elsewhere none in Table 2."""
    nowhere = dict.fromkeys(AHEAD, 0.5)
    assert run("table4-numbers", TrainedStudy(AHEAD, nowhere))[0].estimate == 0
    assert run("table4-numbers", TrainedStudy(nowhere, AHEAD))[0].estimate == pytest.approx(0.5)
    assert run("table2-located-beats-random", TrainedStudy(nowhere, AHEAD))[0].estimate == 0


def test_one_dataset_has_no_others() -> None:
    finding, verdict = run("table4-located-best", TrainedStudy(AHEAD, datasets=("gsm8k",)))
    assert verdict.outcome is Outcome.NOT_RUN
    assert "not trained on" in (finding.not_run or "")
    assert run("table2-located-beats-random", TrainedStudy(AHEAD, datasets=("gsm8k",)))[1].outcome is (
        Outcome.SUPPORTED
    )


def test_a_base_that_leaves_nothing_to_gain_is_a_ceiling_and_no_refutation() -> None:
    finding, verdict = run("table2-small-portion-suffices", TrainedStudy({"base": 0.98, LOCATED: 0.98}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.floor is not None and finding.floor.count("ceiling effect") == 3


@pytest.mark.parametrize(
    "claim", ["table2-located-beats-random", "table2-located-beats-wo-located", "table2-located-best-average"]
)
def test_arms_that_all_guess_are_a_floor_and_no_refutation(claim: str) -> None:
    finding, verdict = run(claim, TrainedStudy({"base": 0.3, **dict.fromkeys(METHODS, 0.3)}, chance=0.4))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.floor is not None and finding.floor.count("floor effect") == 3
