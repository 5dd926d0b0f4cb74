"""Edits over wordings equal changed weights, are sized on other facts, and lead to the right verdicts where planted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caploc import statistics as stats
from caploc.architectures import input_axis, weight_by_input
from caploc.examples import Example, tokenize
from caploc.experiments import consistent_edits, selection
from caploc.experiments.consistent_edits import (
    ARMS,
    AWARE,
    BETAS,
    COMPARED,
    ERASED,
    HALF,
    LARGEST,
    LOCATING,
    MEAN,
    NEIGHBOURS,
    ONE,
    TIMES,
    TWICE,
    UNION,
    UPDATED,
    EditedFacts,
    Editing,
    Edits,
)
from caploc.experiments.evaluating import GeneralText
from caploc.experiments.evidence import assemble
from caploc.experiments.facts import Fact, FactSet, facts_of
from caploc.experiments.locating_facts import LocatedSets
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Experiment, Study, StudySettings
from caploc.experiments.wordings import Queries, query_facts
from caploc.findings import Cell, Finding, Outcome, Verdict
from caploc.interventions.weights import replaced_weights
from caploc.model.loading import LanguageModel
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.store import Store
from caploc.tests.experiments.planted_facts import locations_of, sets_of, small_model

PAPER = load_paper("query_localization")
CELL = Cell("planted", "pararel")
TEXTS = (
    "{} is in",
    "where is {}?",
    "the place of {} is",
    "{} lives in",
    "home of {}:",
    "{} comes from",
    "go to {} in",
)
ANSWERS = ("it", "at", "on", "up", "by")
CLAIMS: dict[str, Experiment] = {
    "ql-cas-erase": selection.erase,
    "ql-cas-update": selection.update,
    "ql-cas-locality": selection.locality,
    "ql-cas-average-gain": selection.average_gain,
    "ql-cas-on-consistent": selection.on_consistent,
    "ql-edit-generalizes-less": selection.generalizes_less,
    "ql-union-costs": selection.union_costs,
}


def facts_of_model(lm: LanguageModel, count: int) -> FactSet:
    facts = [
        Fact(
            str(number),
            tuple(
                Example(
                    f"{number}-{at}",
                    text.format(f"rome{number}"),
                    ANSWERS[number % 5],
                    str(number),
                    f"rome{number}",
                )
                for at, text in enumerate(TEXTS)
            ),
        )
        for number in range(count)
    ]
    prompts = [tokenize(lm, one) for fact in facts for one in fact.wordings]
    index = np.repeat(np.arange(count), len(TEXTS))
    return FactSet("pararel", facts, prompts, index, np.ones(len(index), int), np.full(len(index), -1.0))


def editing_of(
    lm: LanguageModel, facts: FactSet, texts: tuple[str, ...] = ("a town is here", "two and two")
) -> Editing:
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 1, (len(facts.prompts), lm.num_layers, lm.num_neurons))
    sets = sets_of([np.arange(number, number + 5) for number in range(len(facts.prompts))])
    return Editing(lm, Queries.of(facts, sets), scores, texts, seed=0)


# --------------------------------------------------------------------------------------------- against changed weights


@pytest.mark.parametrize("weight", [0.0, 2.0], ids=[ERASED, UPDATED])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_outcomes_are_those_of_changed_weights(family: str, weight: float) -> None:
    lm = small_model(family, 3)
    facts = facts_of_model(lm, 6)
    editing, arms = editing_of(lm, facts), [(ONE, 1.0), (AWARE, 2.0), (UNION, 1.0), (LARGEST, 1.0)]
    found = editing.outcomes(2, 6, weight, arms)
    spared, new = editing._spared(2)
    assert len(spared) == NEIGHBOURS and new is not None
    own = np.flatnonzero(facts.fact == 2)
    evaluated = [own[0], *own[LOCATING:]]
    right = [int(facts.prompts[one].answer_ids[0]) for one in (*evaluated, *spared)]
    assert new not in right and len({facts.fact[one] for one in spared} | {2}) == NEIGHBOURS + 1

    def logs(prompt: int) -> torch.Tensor:
        with torch.no_grad():
            return lm.model(facts.prompts[prompt].prompt_ids[None]).logits[0, -1].double().log_softmax(-1)

    clean = [float(logs(one)[answer]) for one, answer in zip(spared, right[-NEIGHBOURS:], strict=True)]
    embeddings = lm.model.get_output_embeddings().weight.detach()
    masks = editing.masks(2, 6, arms)[1:]
    for arm, mask in enumerate(masks):
        weights = {}
        for layer, chosen in zip(lm.layers, mask, strict=True):
            projection = lm.architecture.mlp_out_of(layer)
            name = next(name for name, one in lm.model.named_parameters() if one is projection.weight)
            changed = weight_by_input(projection).clone()
            changed[chosen] = (
                changed[chosen] + weight * embeddings[new] - embeddings[right[0]] if weight else 0.0
            )
            weights[name] = changed.T.contiguous() if input_axis(projection) else changed
        with replaced_weights(lm, weights):
            after = [logs(one) for one in (*evaluated, *spared)]
        best = [int(one.argmax()) for one in after]
        success = [one == new if weight else one != answer for one, answer in zip(best, right, strict=True)]
        assert found[0][arm] == success[0] and found[1][arm].tolist() == success[1 : len(evaluated)]
        kept = [one == answer for one, answer in zip(best, right, strict=True)][-NEIGHBOURS:]
        assert found[2][arm] == np.mean(kept)
        lost = [
            before - float(one[answer])
            for before, one, answer in zip(clean, after[-NEIGHBOURS:], right[-NEIGHBOURS:], strict=True)
        ]
        assert found[3][arm] == pytest.approx(np.mean(lost), abs=1e-5)
    assert np.isfinite(found[4]).all() and np.abs(found[4]).max() > 0
    none = editing_of(lm, facts, ()).outcomes(2, 6, weight, arms)
    assert np.isnan(none[4]).all() and np.array_equal(none[3], found[3])


def test_arms_choose_as_they_say() -> None:
    lm = small_model("llama", 3)
    editing = editing_of(lm, facts_of_model(lm, 6))
    masks = editing.masks(1, 8, ARMS).numpy()
    assert not masks[0].any()
    values = editing.scores[7:14][:LOCATING]
    by_arm = dict(zip(ARMS, masks[1:], strict=True))
    for arm in COMPARED:
        for times in TIMES:
            assert by_arm[arm, times].sum() == 8 * times
            score = values[0] if arm == ONE else values.mean(0) - BETAS[arm] * values.std(0)
            chosen = by_arm[arm, times]
            assert score[chosen].min() >= score[~chosen].max()
    union = by_arm[UNION, 1.0]
    assert by_arm[ONE, 1.0][union].sum() == 8 and 8 < union.sum() <= 32
    assert by_arm[HALF, 1.0].sum() == by_arm[TWICE, 1.0].sum() == by_arm[LARGEST, 1.0].sum() == 8


def test_size_is_chosen_on_facts_that_are_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearest to half, by all arms together; what the evaluated facts do has no say."""
    lm = small_model("llama", 3)
    facts, spec = facts_of_model(lm, 24), facts_of("pararel")
    known: dict[Spec[Any], Any] = {spec: facts, GeneralText(): ["a town is here"]}
    study = Study(lm.name, StudySettings(store=Store(tmp_path), margins=PAPER.margins), lm, known)
    own, asked = Editing.outcomes, list[tuple[int, int, bool]]()

    def outcomes(
        self: Editing, fact: int, size: int, weight: float, arms: object, spare: bool = True
    ) -> object:
        asked.append((fact, size, spare))
        found = own(self, fact, size, weight, arms, spare)  # type: ignore[arg-type]
        share = size / 160 if not spare else 0.0  # 80 of them erase half
        return (found[0], np.full_like(found[1], share), *found[2:])

    monkeypatch.setattr(Editing, "outcomes", outcomes)
    found = study.result(EditedFacts(spec, ERASED))
    calibrating = {fact for fact, _, spare in asked if not spare}
    assert found.chosen.tolist() == [80, 0] and len(calibrating) == 6
    assert calibrating.isdisjoint(found.fact.tolist()) and len(found) == 18
    assert {size for _, size, spare in asked if spare} == {80}
    clusters = facts.clusters
    assert set(clusters[list(calibrating)]).isdisjoint(found.clusters.tolist())


def test_facts_of_one_subject_stay_together() -> None:
    lm = small_model("llama", 2)
    facts = facts_of_model(lm, 12)
    both = [
        Fact(
            one.id,
            tuple(Example(w.id, w.prompt, w.answer, w.group, f"rome{int(one.id) % 6}") for w in one.wordings),
        )
        for one in facts.facts
    ]
    calibrating, evaluated = consistent_edits._apart(replace(facts, facts=both))
    assert sorted(calibrating + evaluated) == list(range(12)) and len(calibrating) == 4
    assert {one % 6 for one in calibrating}.isdisjoint({one % 6 for one in evaluated})


# ----------------------------------------------------------------------------------------------------------- verdicts


def planted(
    seed: int,
    aware: float = 0.0,
    mean: float = 0.0,
    spares: float = 0.0,
    union: float = 0.0,
    gap: float = 0.0,
    facts: int = 96,
    text: bool = True,
) -> Edits:
    """Success rises and costs grow with the size; arms differ from one wording by what is given.

    ``spares``: the share of the cost that consistent neurons save; ``gap``: what half of the facts lack on wordings
    held out.
    """
    rng = np.random.default_rng(seed)
    at = {arm: np.array([ARMS.index((arm, times)) for times in TIMES]) for arm in COMPARED}
    chance = np.full(len(ARMS), 0.5)
    cost = np.full(len(ARMS), 0.2)
    for arm, more in ((ONE, 0.0), (MEAN, mean), (AWARE, aware)):
        chance[at[arm]] = np.array([0.3, 0.5, 0.7]) + more
        cost[at[arm]] = np.array([0.1, 0.2, 0.4]) * (1 - (spares if arm == AWARE else 0))
    of_union = ARMS.index((UNION, 1.0))
    chance[of_union] += union
    cost[of_union] += union
    easy = rng.normal(0, 0.1, (facts, 1))
    low = np.arange(facts) % 2 == 0
    first = (rng.random((facts, len(ARMS))) < chance + easy).astype(float)
    general = chance + easy - gap * low[:, None]
    held = (rng.random((facts, len(ARMS), 3)) < general[..., None]).astype(float)
    spent = cost * rng.uniform(0.5, 1.5, (facts, 1)) + rng.normal(0, 0.02, (facts, len(ARMS)))
    kept = (rng.random((facts, len(ARMS))) > cost / 2).astype(float)
    of_text = spent / 5 if text else np.full_like(spent, np.nan)
    return Edits(
        first, held, kept, spent, of_text, np.arange(facts), np.arange(facts) // 2, np.array([40, 0])
    )


LM = small_model("llama", 2)


@cache
def located(count: int) -> tuple[FactSet, LocatedSets]:
    """Facts, of which those with even numbers agree less over wordings."""
    rng, places = np.random.default_rng(3), []
    for fact in range(count):
        core = rng.choice(600, 10 - 5 * (fact % 2 == 0), replace=False)
        places += [np.unique([*core, *rng.choice(600, 10 - len(core))]) for _ in TEXTS]
    return facts_of_model(LM, count), sets_of(places)


def judged(claim: str, found: Edits | FloorError) -> tuple[Finding, Verdict]:
    facts, sets = located(96 if isinstance(found, FloorError) else len(found))
    how = UPDATED if claim == "ql-cas-update" else ERASED
    spec = selection._specs(CELL)[how]
    known: dict[Spec[Any], Any] = {
        query_facts("pararel"): facts,
        spec: found,
        spec.located: locations_of(sets),
    }
    study = Study("planted", StudySettings(margins=PAPER.margins), LM, known)
    entry = PAPER.claim(claim)
    finding = assemble(entry, CELL, CLAIMS[claim](study, CELL, entry), [study])
    return finding, judge(entry, finding)


RUNS = 20


@pytest.mark.parametrize("claim", CLAIMS)
def test_arms_that_do_the_same_are_seldom_supported(claim: str) -> None:
    outcomes = [judged(claim, planted(seed))[1].outcome for seed in range(RUNS)]
    assert outcomes.count(Outcome.SUPPORTED) <= RUNS // 20


EFFECTS: dict[str, dict[str, Any]] = {
    "ql-cas-erase": {"aware": 0.2, "mean": 0.1},
    "ql-cas-update": {"aware": 0.2, "mean": 0.1},
    "ql-cas-locality": {"spares": 0.5},
    "ql-edit-generalizes-less": {"gap": 0.4},
    "ql-union-costs": {"union": 0.45},
}


@pytest.mark.parametrize("claim", EFFECTS)
def test_a_planted_effect_is_mostly_supported(claim: str) -> None:
    outcomes = [judged(claim, planted(seed, **EFFECTS[claim]))[1].outcome for seed in range(8)]
    assert outcomes.count(Outcome.SUPPORTED) >= 7, outcomes


def test_what_averaging_does_is_not_put_down_to_consistency() -> None:
    """Ahead of one wording, and ten points behind the plain mean: refuted."""
    finding, verdict = judged("ql-cas-erase", planted(1, aware=0.15, mean=0.3))
    assert verdict.outcome is Outcome.REFUTED and "plain mean" in verdict.reason
    parts = finding.measurement.parts
    assert parts["one wording, equal count"].interval[0] > 0  # type: ignore[index]
    assert judged("ql-cas-erase", planted(1, aware=-0.2))[1].outcome is Outcome.REFUTED


def test_a_weaker_edit_is_not_a_better_one() -> None:
    """Consistent neurons at half the strength: less success, less cost, on one and the same curve."""
    found = planted(2)
    order = [ARMS.index((AWARE, times)) for times in TIMES]
    one = [ARMS.index((ONE, times)) for times in TIMES]
    for values in (found.first, found.held, found.kept, found.cost, found.text):
        values[:, order[1:]] = values[:, one[:2]]
        values[:, order[0]] = values[:, one[0]] / 2
    assert judged("ql-cas-locality", found)[1].outcome is not Outcome.SUPPORTED
    parts = judged("ql-cas-erase", found)[0].measurement.parts
    assert (parts["one wording, equal count"].estimate or 0) < -0.1
    assert parts["one wording, equal locality"].estimate == pytest.approx(0, abs=0.05)


def test_what_is_printed_stands_beside_the_gain() -> None:
    finding, verdict = judged("ql-cas-average-gain", planted(3, aware=0.3))
    assert set(PAPER.claim("ql-cas-average-gain").numbers[0].printed) == {"8"}
    assert {"over-one-query", "over-all-queries"} <= set(
        finding.measurement.parts
    ) and finding.published is None
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason


def test_floors_are_told() -> None:
    nothing = planted(1)
    nothing.held[:] = 0.0
    for claim in CLAIMS:
        _, verdict = judged(claim, nothing)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reason.startswith("floor effect: of the wordings held out, 0% to 0% are")
    everything = planted(1)
    everything.held[:] = 1.0
    assert judged("ql-cas-update", everything)[1].reason.startswith(
        "ceiling effect: of the wordings held out, 100%"
    )
    assert "fewer than the 16" in judged("ql-cas-erase", planted(1, facts=10))[1].reason
    for claim in ("ql-cas-locality", "ql-union-costs"):
        _, verdict = judged(claim, planted(1, text=False))
        assert verdict.outcome is Outcome.NOT_RUN and "no general text" in verdict.reason
    same = planted(1)
    same.first[:] = 0.0
    assert "0% of answers are erased" in judged("ql-edit-generalizes-less", same)[1].reason


def test_curves_are_read_at_equal_cost() -> None:
    """Two arms whose curves are known: at cost 0.2 one reaches .5, the other, which costs half, .7."""
    found = planted(1, facts=40)
    for arm, spent in ((ONE, 1.0), (AWARE, 0.5)):
        for times, success, cost in zip(TIMES, (0.3, 0.5, 0.7), (0.1, 0.2, 0.4), strict=True):
            at = ARMS.index((arm, times))
            found.held[:, at], found.cost[:, at] = success, cost * spent
    effect = found.more_at_equal(found.general, found.cost, AWARE, ONE, seed=0)
    assert effect.estimate == pytest.approx(0.2) and effect.interval.low == pytest.approx(0.2)
    halfway = found.more_at_equal(found.general, found.cost, ONE, AWARE, seed=0)
    assert halfway.estimate == pytest.approx(0.3 - 0.5), "at the cost of the other arm's own k"
    same = found.more_at_equal(found.general, found.cost, ONE, ONE, seed=0)
    assert same.estimate == 0 and isinstance(same, stats.Effect) and same.p > 0.9
