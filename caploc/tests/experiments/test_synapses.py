"""Synapses: which cells they are, that what is measured is what direct runs give, and verdicts on planted effects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from caploc.experiments import synapses
from caploc.experiments.evidence import assemble
from caploc.experiments.facts import FactSet, FirstFacts, facts_of
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Experiment, Study, StudySettings
from caploc.experiments.synapses import (
    CELL_SETS,
    CUT,
    DOUBLED,
    FREE,
    HELD,
    LONG_SETS,
    MATCHED,
    FirstWordings,
    ScaledSynapses,
    Synapses,
    WithRoom,
    knowledge_synapses,
)
from caploc.findings import Cell, Finding, Outcome, Verdict
from caploc.interventions.attention import Attention, AttentionScaling
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.neurons import NeuronMask
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.store import Store
from caploc.tests.experiments.planted_facts import fact_set, real_facts, small_model

PAPER = load_paper("query_localization")
CELL = Cell("planted", "pararel")
SETS = 1 + CELL_SETS + LONG_SETS
CLAIMS: dict[str, Experiment] = {
    "ql-attention-neglected": synapses.attention_neglected,
    "ql-ks-suppress-answer": synapses.suppress_answer,
    "ql-ks-suppress-kn": synapses.suppress_neurons,
    "ql-ks-selects": synapses.selects,
    "ql-ks-enhance": synapses.enhance,
}


def attention_of(weights: torch.Tensor, key_heads: int = 2) -> Attention:
    layers, _, _, columns = weights.shape
    return Attention(weights.double(), torch.ones(layers, key_heads, columns, dtype=torch.float64))


def test_synapses_are_the_cells_of_highest_attention() -> None:
    weights = torch.zeros(1, 4, 6, 6)
    weights[0, :2, -1] = torch.tensor([0.9, 0.1, 0.3, 0.0, 0.2, 0.9])  # two query heads share key head 0
    weights[0, 2, -1, 3], weights[0, 3, -1, 3] = 0.9, 0.0  # of key head 1: 0.45 on average
    weights[0, :2, :, 1] = 0.15  # over all rows, column 1 has more than column 2
    found = knowledge_synapses(attention_of(weights), share=2 / 12)
    assert found.nonzero().tolist() == [[0, 0, 2], [0, 1, 3]], "neither the first column nor the last"
    summed = knowledge_synapses(attention_of(weights), share=1 / 12, by="column sum")
    assert summed.nonzero().tolist() == [[0, 0, 1]]
    assert knowledge_synapses(attention_of(weights), share=1.0).sum() == 2 * 4
    assert knowledge_synapses(attention_of(weights), share=0.001).sum() == 1


def test_cells_as_long_together_add_up_to_the_chosen_ones_length() -> None:
    lengths = torch.rand(3, 2, 40, generator=torch.Generator().manual_seed(0)).double()
    chosen = torch.zeros(3, 2, 40, dtype=torch.bool)
    chosen[0, 0, :6] = chosen[2] = True
    found = synapses._as_long(chosen, lengths, seed=4)
    assert not (found & chosen).any() and not found[:, 1].any() and not found[:, 2].any(), (
        "none are left in layer 2"
    )
    own = float((lengths * chosen)[0].sum())
    for one in found:
        assert own - 1 <= float((lengths * one)[0].sum()) <= own
    assert len({tuple(one.flatten().tolist()) for one in found}) == LONG_SETS


# ----------------------------------------------------------------------------------------------- against direct runs


def study_of(tmp_path: Path, facts: FactSet, family: str = "llama") -> tuple[Study, ScaledSynapses]:
    lm, spec = small_model(family, 4), facts_of("pararel")
    settings = StudySettings(store=Store(tmp_path), margins=PAPER.margins)
    return Study(lm.name, settings, lm, {spec: facts}), ScaledSynapses(FirstFacts(spec, 3))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_what_is_kept_of_a_fact_is_what_direct_runs_give(family: str, tmp_path: Path) -> None:
    lm = small_model(family, 4)
    facts = real_facts(lm, 3)
    study, spec = study_of(tmp_path, facts, family)
    found = study.result(spec)
    assert len(found) == 3 and found.odds.shape == (3, 2, 2, SETS) and found.other_ways.shape == (3, 2, 3)
    located = study.result(LocatedFacts("kn", FirstWordings(spec.facts))).sets
    prompt = facts.prompts[facts.first[1]]
    neurons = torch.from_numpy(located.members[1].toarray().reshape(lm.num_layers, -1) > 0)
    with AttentionScaling(lm) as scaling:
        chosen = knowledge_synapses(scaling.look(prompt))[None]
        for done, factor in ((CUT, 0.0), (DOUBLED, 2.0)):
            for held, mask in ((FREE, None), (HELD, neurons[None])):
                one = scaling.log_probs(prompt, chosen, factor, held=mask)
                assert found.odds[1, done, held, 0] == pytest.approx(
                    log_odds(one.log_probs) - log_odds(one.clean), abs=1e-5
                )
            free = scaling.log_probs(prompt, chosen, factor)
            new, old = free.activations[0][neurons], free.clean_activations[neurons]
            assert found.gain[1, done, 0] == pytest.approx(
                float((new * old).sum() / (old * old).sum()) - 1, abs=1e-5
            )
            other = scaling.log_probs(prompt, chosen, factor, "renormalized")
            assert found.other_ways[1, done, 0] == pytest.approx(
                log_odds(other.log_probs) - log_odds(other.clean), abs=1e-5
            )
    assert np.isfinite(found.odds).all() and np.isfinite(found.matched_gain).all()
    assert (found.size > 0.3).all() and (found.size < 1.1).all()
    assert (found.share[:, 0] > found.share[:, MATCHED].mean(1)).all()
    entries = sum(1 for one in tmp_path.rglob("*") if one.is_file())
    again, _ = study_of(tmp_path, facts, family)
    assert np.array_equal(again.result(spec).odds, found.odds)
    assert sum(1 for one in tmp_path.rglob("*") if one.is_file()) == entries, "read from the store"


def log_odds(log_probs: torch.Tensor) -> float:
    p = float(log_probs.sum().exp())
    return float(np.log(p / (1 - p)))


def test_a_fact_without_located_neurons_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, spec = study_of(tmp_path, real_facts(small_model("llama", 4), 3))
    calls: list[int] = []

    def locate(values: torch.Tensor) -> NeuronMask:
        calls.append(1)
        return DEFAULT_CUT.locate(values if len(calls) != 2 else torch.zeros_like(values))

    monkeypatch.setattr(synapses, "DEFAULT_CUT", SimpleNamespace(threshold=0.2, locate=locate))
    assert len(study.result(spec)) == 2 and len(calls) == 3


# -------------------------------------------------------------------------------------------------------- verdicts


def planted(
    seed: int,
    answer: float = 0.0,
    held: float = 0.0,
    gain: float = 0.0,
    selected: float = 0.0,
    rise: float = 0.0,
    facts: int = 48,
) -> Synapses:
    """Synapses that do what matched cells do, but for the effects that are given; facts are unlike each other."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> np.ndarray:
        of_fact = rng.normal(0, 1, (facts, *(1 for _ in shape)))
        return 0.5 * of_fact + rng.normal(0, 0.5, (facts, *shape))

    odds = noise(2, 2, SETS) - 1.0
    odds[:, CUT, FREE, 0] -= answer
    odds[:, CUT, HELD, 0] -= held
    odds[:, DOUBLED] = 0.4 * (odds[:, DOUBLED] + 1.0)
    odds[:, DOUBLED, FREE, 0] += rise
    activations = 0.1 * noise(2, SETS) - 0.05
    activations[:, CUT, 0] -= gain + selected
    activations[:, DOUBLED] += 0.05
    activations[:, DOUBLED, 0] += rise / 5
    others = 0.1 * noise(2, SETS) - 0.05
    others[:, CUT, 0] -= gain
    clean = np.log(rng.uniform(0.3, 0.7, facts))
    clusters = np.arange(facts) // 2
    return Synapses(
        odds, activations, others, noise(2, 3), clean, clusters, np.abs(noise(SETS)), np.ones(facts)
    )


def judged(
    claim: str, found: Synapses | FloorError, early: Synapses | FloorError | None = None
) -> tuple[Finding, Verdict]:
    settings = StudySettings(margins=PAPER.margins)
    known: dict[Spec[Any], Any] = {synapses._scaled(CELL): found, synapses._with_room("pararel"): found}
    study = Study("planted", settings, small_model("llama", 2), known)
    room: dict[Spec[Any], Any] = {synapses._with_room("pararel"): found if early is None else early}
    study.__dict__["early"] = study if early is None else Study("planted-early", settings, study.lm, room)
    entry = PAPER.claim(claim)
    finding = assemble(entry, CELL, CLAIMS[claim](study, CELL, entry), [study])
    return finding, judge(entry, finding)


EFFECTS: dict[str, dict[str, Any]] = {
    "ql-attention-neglected": {"held": 2.0},
    "ql-ks-suppress-answer": {"answer": 2.0},
    "ql-ks-suppress-kn": {"gain": 0.2},
    "ql-ks-selects": {"selected": 0.2},
    "ql-ks-enhance": {"rise": 0.6},
}
RUNS = 40


@pytest.mark.parametrize("claim", CLAIMS)
def test_synapses_that_do_nothing_are_seldom_supported_and_an_effect_mostly(claim: str) -> None:
    nothing = [judged(claim, planted(seed))[1].outcome for seed in range(RUNS)]
    assert nothing.count(Outcome.SUPPORTED) <= RUNS // 20
    effect = [judged(claim, planted(seed, **EFFECTS[claim]))[1].outcome for seed in range(RUNS // 4)]
    assert effect.count(Outcome.SUPPORTED) >= 9
    others: dict[str, Any] = {
        name: size for name, size in EFFECTS["ql-ks-suppress-kn"].items() if claim == "ql-ks-selects"
    }
    unselective = [judged(claim, planted(seed, **others))[1].outcome for seed in range(RUNS // 4)]
    assert Outcome.SUPPORTED not in unselective, "all neurons as large fall alike"


def test_the_other_way_round_is_refuted() -> None:
    opposite: dict[str, dict[str, Any]] = {
        "ql-ks-suppress-kn": {"gain": -0.2},
        "ql-ks-selects": {"selected": -0.2},
        "ql-ks-enhance": {"rise": -0.6},
    }
    for claim, effects in opposite.items():
        assert judged(claim, planted(1, **effects))[1].outcome is Outcome.REFUTED
    for claim in ("ql-attention-neglected", "ql-ks-suppress-answer"):
        assert judged(claim, planted(2, answer=-0.5, held=-0.5))[1].outcome is Outcome.REFUTED


def test_enhancement_is_read_where_there_is_room() -> None:
    finding, verdict = judged("ql-ks-enhance", FloorError("no room"), planted(3, rise=0.6))
    assert verdict.outcome is Outcome.SUPPORTED
    assert "measured on planted-early, 48 facts with 0.05 < P(answer) < 0.8" in finding.notes
    _, verdict = judged("ql-ks-enhance", FloorError("no room"), FloorError("nor early"))
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "nor early")
    _, verdict = judged("ql-ks-enhance", FloorError("no room"))
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "no room")


def test_facts_have_room_by_their_probability() -> None:
    facts = fact_set(40, 2, dataset="pararel")
    chances = np.repeat(np.linspace(0.01, 0.99, 40), 2)
    study = Study("planted", StudySettings(margins=PAPER.margins), small_model("llama", 2))
    answered = replace(facts, log_prob=np.log(chances))
    kept = WithRoom(facts_of("pararel"), 100).choose(study, answered)
    inside = np.exp(kept.log_prob)
    assert (
        len(kept) == ((chances > 0.05) & (chances < 0.8)).sum() / 2
        and inside.min() > 0.05
        and inside.max() < 0.8
    )
    assert len(WithRoom(facts_of("pararel"), 5).choose(study, answered)) == 5
    with pytest.raises(
        FloorError, match=r"^no room for enhancement: planted gives 0 of 40 answers a probability .*$"
    ):
        WithRoom(facts_of("pararel"), 5).choose(study, replace(facts, log_prob=np.log(chances) / 1e4))


def test_too_few_facts_are_a_floor() -> None:
    few = planted(1, facts=10)
    for claim in CLAIMS:
        _, verdict = judged(claim, few)
        assert verdict.outcome is Outcome.INCONCLUSIVE and "fewer than the 16" in verdict.reason


def test_a_subjects_facts_count_as_one() -> None:
    """Six facts of each subject that are alike say no more than one of them."""
    found = planted(5, held=1.0)
    alike = replace(found, odds=np.repeat(found.odds[:8], 6, axis=0))
    widths = []
    for clusters in (np.arange(48), np.arange(48) // 6):
        value = judged("ql-attention-neglected", replace(alike, clusters=clusters))[0].measurement.value
        assert value is not None and value.interval is not None
        widths.append(value.interval[1] - value.interval[0])
    assert widths[1] > 2 * widths[0]
