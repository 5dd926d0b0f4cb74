"""Query localization on planted sets: what goes with the fact, its last token or its wording is told apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from caploc.errors import DatasetError
from caploc.experiments import query_consistency, query_mapping, query_overlap
from caploc.experiments.facts import facts_of, load_facts
from caploc.experiments.locating_facts import LocatedFacts, LocatedSets
from caploc.experiments.query_mapping import (
    ARMS,
    FAR,
    NEAR,
    SETS,
    STARTS,
    Mapped,
    MappedQueries,
    neighbours_of,
)
from caploc.experiments.query_overlap import CONTRASTS, contrast, predicted_recall
from caploc.experiments.scaled_facts import odds_of
from caploc.experiments.specs import FloorError, NotRunError
from caploc.experiments.study import Study
from caploc.experiments.wordings import InWordings, Queries, last_tokens, query_facts, templates
from caploc.findings import Cell, Measurement, Outcome
from caploc.interventions.activations import scaled
from caploc.locators.knowledge_neurons import DEFAULT_CUT, Cut, example_scores
from caploc.neurons import NeuronMask
from caploc.statistics import crossed_weights
from caploc.store import Store
from caploc.tests.experiments.planted_facts import locations_of, real_facts
from caploc.tests.experiments.planted_queries import (
    CELL,
    PAPER,
    PLACES,
    World,
    judged,
    run,
    settings_of,
    study_of,
)
from caploc.tests.tiny import tiny_lm

S, R, U = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE
BY_LAST_TOKEN = World(last=0.8)
BY_WORDING = World(last=0.8, wording=1.0)
RUNS = 200


def outcomes(world: World, kinds: tuple[str, str], runs: int = RUNS) -> Counter[Outcome]:
    """The verdicts on ``ql-storage-query-dependent`` in so many worlds."""
    found: Counter[Outcome] = Counter()
    for seed in range(runs):
        queries = world.queries(seed)
        weights = crossed_weights(queries.subject, queries.template, queries.relation, seed, draws=299)
        value = contrast(queries, kinds, weights)
        found[
            judged("ql-storage-query-dependent", Measurement("gap", value, {"effect": value}))[1].outcome
        ] += 1
    return found


def test_where_location_depends_on_the_last_token_alone_it_is_not_taken_for_the_wording() -> None:
    found = outcomes(BY_LAST_TOKEN, CONTRASTS["wording, equal last tokens"])
    assert found[S] <= 0.05 * RUNS, found
    assert found[R] >= 0.5 * RUNS, found  # at a third of the audit's facts, and half of its wordings
    # the control is what does it: over all pairs the last token passes for the wording
    assert outcomes(BY_LAST_TOKEN, CONTRASTS["wording, whatever the last tokens"], 20)[S] >= 18


def test_where_location_depends_on_the_wording_it_is_found() -> None:
    found = outcomes(BY_WORDING, CONTRASTS["wording, equal last tokens"])
    assert found[S] >= 0.9 * RUNS, found
    assert found[R] <= 0.05 * RUNS, found


def test_the_experiment_shows_every_contrast() -> None:
    finding, verdict = run(
        query_overlap.wording_effect, "ql-storage-query-dependent", study_of(BY_WORDING.queries())
    )
    assert verdict.outcome is S
    asides = finding.measurement.asides
    assert {f"effect of the {name}" for name in CONTRASTS} <= asides.keys()
    queries = BY_WORDING.queries()
    same, fact = (
        np.equal.outer(queries.template, queries.template),
        np.equal.outer(queries.fact, queries.fact),
    )
    other = (
        np.equal.outer(queries.relation, queries.relation)
        & ~np.equal.outer(queries.answer, queries.answer)
        & ~np.equal.outer(queries.subject, queries.subject)
    )
    alike = np.equal.outer(queries.last, queries.last)
    assert not (other & fact).any()
    by_hand = queries.overlap[other & same].mean() - queries.overlap[other & ~same & alike].mean()
    assert finding.measurement.value.estimate == pytest.approx(by_hand)
    finding, verdict = run(query_overlap.last_token, "ql-last-token", study_of(BY_LAST_TOKEN.queries()))
    assert verdict.outcome is S
    assert run(query_overlap.last_token, "ql-last-token", study_of(World().queries()))[1].outcome is R


# --------------------------------------------------------------------------------------------------------- prediction


def recalls(world: World, seed: int = 0) -> dict[str, float]:
    queries = world.queries(seed)
    scores = np.maximum(world.scores(queries.facts, seed), 0)
    found = predicted_recall(queries, sparse.csr_matrix(scores))
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def test_sets_are_predicted_by_what_they_depend_on() -> None:
    by_wording, by_token, by_fact = recalls(BY_WORDING), recalls(BY_LAST_TOKEN), recalls(World())
    assert (
        by_wording["fact and wording"] > by_wording["fact and last token"] + 0.03 > by_wording["fact"] + 0.03
    )
    assert by_token["fact and last token"] > by_token["fact"] + 0.03
    assert abs(by_token["fact and last token"] - by_token["fact and wording"]) < 0.05
    assert by_fact["fact"] > by_fact["fact and wording"] and by_fact["fact"] > by_fact["wording"] + 0.1


def test_a_prediction_never_sees_the_set_that_it_predicts() -> None:
    """Scores and sets of one prompt are exchanged for others: what is predicted for it stays."""
    world = World(wording=1.0, relations=1, subjects=9)
    queries, scores = world.queries(), world.scores(world.facts(), 0)
    before = predicted_recall(queries, sparse.csr_matrix(np.maximum(scores, 0)))
    changed = scores.copy()
    changed[5] = np.random.default_rng(0).standard_normal(PLACES)
    after = predicted_recall(queries, sparse.csr_matrix(np.maximum(changed, 0)))
    for name, values in before.items():
        assert values[5] == after[name][5], name
        assert not np.array_equal(values, after[name], equal_nan=True), "others' predictions rest on it"


# -------------------------------------------------------------------------------------------------------- consistency


def test_consistency_by_hand() -> None:
    facts = replace(World(relations=1, subjects=4, tokens=1, forms=3, each=3).facts())
    sets = [[0, 1, 2], [0, 1, 3], [0, 4, 5], [7, 8], [7, 8], [7, 8], [], [], [], [1], [2], [3]]
    queries = Queries.of(facts, LocatedSets.of_places(sets, PLACES))
    every, several = queries.consistency()
    np.testing.assert_allclose(every, [1 / 6, 1, np.nan, 0])
    np.testing.assert_allclose(several, [2 / 6, 1, np.nan, 0])
    two = np.tile([True, True, False], 4)
    every, several = queries.consistency(two)
    np.testing.assert_allclose(every, several)  # of two wordings both are one number
    np.testing.assert_allclose(every, [0.5, 1, np.nan, 0])
    np.testing.assert_allclose(queries.by_fact("same fact"), [(2 / 3 + 1 / 3 + 1 / 3) / 3, 1, 0, 0])


def test_cs_falls_and_cs2_rises_with_wordings_while_the_overlap_stays() -> None:
    world = World(forms=8, each=4)
    finding, _ = run(
        query_consistency.inconsistent_exists, "ql-inconsistent-exists", study_of(world.queries())
    )
    asides = finding.measurement.asides
    cs, cs2 = ([asides[f"{name}, {count} wordings"] for count in range(2, 9)] for name in ("CS", "CS2"))
    assert cs[0] == cs2[0] and cs == sorted(cs, reverse=True) and cs2 == sorted(cs2)


@pytest.mark.parametrize(
    ("world", "expected", "cause"),
    [
        (World(fact=2.0, noise=0.4, subjects=24), R, ""),
        (
            World(fact=2.0, noise=0.4, last=3.0, subjects=24),
            R,
            "",
        ),  # the last token moves the sets, and is no failure
        (World(fact=0.9, noise=0.9), S, "inconsistent"),
        (World(fact=0.0, noise=0.3, last=2.0), S, "unspecific"),
    ],
)
def test_facts_fail_for_either_reason(world: World, expected: Outcome, cause: str) -> None:
    study = study_of(world.queries())
    finding, verdict = run(query_consistency.inconsistent_exists, "ql-inconsistent-exists", study)
    assert verdict.outcome is expected, verdict
    asides = finding.measurement.asides
    found = {name: asides[f"{name}, equal last token"].estimate for name in ("inconsistent", "unspecific")}
    if cause:
        other = next(name for name in found if name != cause)
        assert found[cause] > 0.5 > found[other]


def test_pseudo_facts_are_of_the_relation_and_of_nothing_in_common() -> None:
    queries = World(answers=5).queries()
    for kind in ("same fact", "same fact, equal last token"):
        made = queries.pseudo_facts(kind, 0, draws=20)
        assert sum(map(len, made)) > 15 * len(made)
        for fact, each in enumerate(made):
            own = np.flatnonzero(queries.fact == fact)
            pairs = queries.pairs[kind][np.ix_(own, own)]
            for one in each:
                assert (queries.template[one] == queries.template[own]).all()
                for marks in (queries.subject, queries.answer):
                    assert not (np.equal.outer(marks[one], marks[one]) & pairs).any()
    first, again = (World(answers=5).queries().pseudo_facts("same fact", 0, draws=20) for _ in range(2))
    assert [[one.tolist() for one in each] for each in first] == [
        [one.tolist() for one in each] for each in again
    ]


def test_a_split_by_itself_is_significant_whatever_is_split() -> None:
    study = study_of(World(noise=1.0).queries())
    finding, verdict = run(query_consistency.classes_differ, "ql-classes-differ", study)
    p = {name: one.p for name, one in finding.measurement.asides.items()}
    assert finding.measurement.value.p < 1e-6 and p["Welch's t, a Gaussian"] < 1e-6
    assert verdict.outcome is Outcome.MEASURED
    finding, verdict = run(query_consistency.inconsistent_otsu, "ql-inconsistent-otsu", study)
    assert verdict.outcome is not S
    assert finding.measurement.asides["below Otsu's threshold, a Gaussian"] == 0.5


def test_relations_that_differ_are_told_from_those_that_do_not() -> None:
    world = World(relations=6, subjects=20)
    assert (
        run(query_consistency.relation_spread, "ql-relation-spread", study_of(world.queries()))[1].outcome
        is R
    )
    queries = world.queries()
    steady = np.isin(queries.relation, np.unique(queries.relation)[:3])
    rows = queries.sets.members.toarray().astype(bool)
    alike = [
        np.flatnonzero(rows[queries.facts.first[fact]] if steady[place] else rows[place])
        for place, fact in enumerate(queries.fact)
    ]
    apart = queries.with_sets(LocatedSets.of_places(alike, PLACES))
    assert run(query_consistency.relation_spread, "ql-relation-spread", study_of(apart))[1].outcome is S


def test_three_locators_count_what_fails_under_all() -> None:
    size = {"each": 3, "subjects": 20}
    one, other = (World(fact=a, noise=b, **size).queries() for a, b in ((2.0, 0.4), (0.3, 1.5)))

    def verdict(*worlds: Queries) -> tuple[float, Outcome]:
        facts = query_consistency.EndingAlike(query_facts("pararel"))
        study = study_of(one)
        chosen = facts.choose(study, one.facts)
        ids = {example.id for example in chosen.examples}
        rows = np.array([example.id in ids for example in one.facts.examples])
        specs = [query_consistency.LocatedBy("kn", facts, how=how) for how in query_consistency.HOW]
        located = {spec: locations_of(world.sets[rows]) for spec, world in zip(specs, worlds, strict=True)}
        finding, found = run(
            query_consistency.three_locators,
            "ql-inconsistent-three-locators",
            study_of(one, {facts: chosen, **located}),
        )
        return finding.measurement.value.estimate, found.outcome

    assert verdict(other, other, other) == (1.0, S)
    assert verdict(other, one, other)[1] is R


# ------------------------------------------------------------------------------------------------------------ mapping


def mapped_study(own: np.ndarray, near: float, far: float, noise: float, seed: int = 0) -> Study:
    """Falls of the log odds: ``own [F]`` of the own neurons, and shares of it of neighbours'."""
    generator = np.random.default_rng(seed)
    world = World(relations=4, subjects=20, forms=5, each=4)
    queries, count = world.queries(seed), len(own)
    change = np.full((count, 2, SETS), np.nan)
    for arm, start in STARTS.items():
        size = ARMS[arm]
        share = np.repeat([near, far], size // 2) if size == query_mapping.NEIGHBOURS else np.ones(size)
        values = own[:, None] * share + noise * generator.standard_normal((count, size))
        change[:, 0, start : start + size] = -values
        change[:, 1, start : start + size] = values / 4
    spec = query_mapping._mapped_spec(CELL)
    facts = queries.facts
    query = [
        neighbours_of(np.flatnonzero(facts.fact == fact), last_tokens(facts))[0] for fact in range(count)
    ]
    mapped = Mapped(change, np.array(query), np.full(count, -0.1), np.full((count, SETS), 15))
    located = LocatedFacts("kn", spec.facts)
    return study_of(queries, {spec.facts: facts, spec: mapped, located: locations_of(queries.sets)})


def mapping(near: float, far: float = 0.3, own: float = 4.0, noise: float = 0.4, seed: int = 0) -> Outcome:
    falls = np.random.default_rng([seed, 3]).gamma(4, own / 4, 80)
    study = mapped_study(falls, near, far, noise, seed)
    return run(query_mapping.query_kn_mapping, "ql-query-kn-mapping", study)[1].outcome


def test_neighbours_that_act_as_the_own_neurons_do_are_told_from_others() -> None:
    # ... whatever those do that end in another token
    assert [mapping(near) for near in (0.4, 1.0)] == [S, R]
    assert mapping(1.0, far=0.1) is R and mapping(0.4, far=1.0) is S
    assert mapping(0.82) is U and mapping(0.4, own=0.6) is U


def test_errors_of_the_mapping_rule_are_rare() -> None:
    """Where neighbours lose nothing at equal last tokens, and where they keep exactly what the rule asks of them."""
    runs, study = 100, mapped_study(np.full(80, 4.0), 1.0, 0.3, 0.0)
    found = query_mapping._mapped(study, CELL, PAPER.claim("ql-query-kn-mapping"))

    def outcomes(near: float) -> Counter[Outcome]:
        verdicts: Counter[Outcome] = Counter()
        for seed in range(runs):
            generator = np.random.default_rng(seed)
            own = generator.gamma(4, 1, 80)
            change = found.mapped.change.copy()
            change[:, 0, STARTS["own, 15"]] = -own
            noise = 1.5 * generator.standard_normal((80, query_mapping.MOST))
            change[:, 0, STARTS["neighbour, 15"] :][:, NEAR] = -(near * own[:, None] + noise)
            value = replace(found, mapped=replace(found.mapped, change=change)).kept(NEAR)
            verdicts[judged("ql-query-kn-mapping", Measurement("kept", value))[1].outcome] += 1
        return verdicts

    by_token, at_the_edge, by_wording = outcomes(0.97), outcomes(0.75), outcomes(0.5)
    assert by_token[S] == 0 and at_the_edge[S] <= 0.05 * runs, (by_token, at_the_edge)
    assert by_wording[S] >= 0.9 * runs and by_wording[R] == 0, by_wording


def test_neurons_of_a_neighbour_alone() -> None:
    study = mapped_study(np.random.default_rng(0).gamma(4, 1, 80), 0.5, 0.3, 0.1)
    finding, verdict = run(query_mapping.exclusive_neurons, "ql-exclusive-neighbor-neurons", study)
    assert verdict.outcome is S  # those as large do as much here
    assert finding.measurement.value.unit == "nats"
    start = STARTS["matched to neighbour alone"]
    mapped = study.result(query_mapping._mapped_spec(CELL))
    mapped.change[:, :, start : start + query_mapping.NEIGHBOURS] = 0.0
    assert run(query_mapping.exclusive_neurons, "ql-exclusive-neighbor-neurons", study)[1].outcome is R


def test_queries_have_neighbours_of_both_kinds() -> None:
    last = np.array([5, 6, 6, 5, 7, 6, 6, 9])
    assert neighbours_of(np.arange(8), last) == (1, [2, 5, 6, 0, 3, 4])
    assert neighbours_of(np.array([0, 1]), last) == (0, [None, None, None, 1, None, None])


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_scaled_sets_equal_runs_under_hooks(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family, torch.float64)
    exactly = 1e-5 if family == "gptj" else 1e-8  # GPT-J's attention is float32 whatever the model is
    texts = ("{} is in", "{} lies in", "where is {}?", "so {} is in", "and is {}?")
    facts, spec = real_facts(lm, 4, texts), facts_of("planted")
    study = Study("tiny", settings_of(store=Store(tmp_path)), lm, results={spec: facts})
    found = study.result(MappedQueries(spec))
    scores = [one.values for one in example_scores(lm, facts.prompts, progress=False)]
    for fact in range(2):
        query, neighbours = neighbours_of(np.flatnonzero(facts.fact == fact), last_tokens(facts))
        assert found.query[fact] == query and neighbours[:2] == [query + 1, query + 3]
        prompt, own = facts.prompts[query], DEFAULT_CUT.locate(scores[query]).values
        near = DEFAULT_CUT.locate(scores[query + 1]).values
        expected = {
            "own": own,
            "own, 15": Cut(top_k=15).locate(scores[query]).values,
            "neighbour": near,
            "neighbour alone": near & ~own,
        }
        for arm, members in expected.items():
            start = STARTS[arm]
            assert found.count[fact, start] == members.sum()
            for done, factor in enumerate((0.0, 2.0)):
                with scaled(lm, NeuronMask(members), factor, at=prompt.answer_start - 1):
                    log_p = _log_prob(lm, prompt)
                change = odds_of(np.array(log_p)) - odds_of(np.array(_log_prob(lm, prompt)))
                if members.any():
                    assert found.change[fact, done, start] == pytest.approx(float(change), abs=exactly)
        start = STARTS["matched in magnitude, 15"]
        assert (found.count[fact, start : start + 3] == expected["own, 15"].sum()).all()
        assert np.isnan(found.change[fact, :, STARTS["neighbour"] + 2]).all(), (
            "there is no third such neighbour"
        )
    assert np.isfinite(found.fall("own, 15")).all() and found.fall("neighbour, 15", NEAR).shape == (4,)
    assert np.isfinite(found.fall("neighbour, 15", FAR)).all()


def _log_prob(lm, prompt) -> float:
    with torch.no_grad():
        logits = lm.model(input_ids=prompt.input_ids[None, :-1]).logits[0].double()
    places = torch.arange(prompt.answer_start, len(prompt.input_ids))
    return float(logits.log_softmax(-1)[places - 1, prompt.input_ids[places]].sum())


# ------------------------------------------------------------------------------------------- facts, and what is amiss


def test_wordings_are_chosen_to_end_in_two_tokens() -> None:
    facts = World(tokens=3, forms=4, each=4).facts()
    study = study_of(World().queries())
    chosen = InWordings(query_facts("pararel"), 7, 1000).choose(study, facts)
    last = last_tokens(chosen)
    for fact in range(len(chosen)):
        assert sorted(Counter(last[chosen.fact == fact].tolist()).values()) == [3, 4]
    known = replace(facts, rank=np.where(last_tokens(facts) == 0, 5, 1))
    chosen = InWordings(query_facts("pararel"), 7, 30).choose(study, known)
    assert len(chosen) == 30 and 0 not in last_tokens(chosen) and (chosen.rank == 1).all()
    more = InWordings(query_facts("pararel"), 7, 30).choose(study_of(World().queries(), samples=40), known)
    assert len(more) == 42, "--samples, not the CPU's number, says how many"


def test_templates_and_relations_follow_from_prompts() -> None:
    world = World(relations=3)
    template, relation = templates(world.facts())
    assert len(np.unique(relation)) == 3 and len(np.unique(template)) == 3 * 2 * 4


def test_a_model_that_knows_too_few_facts_is_a_floor() -> None:
    facts = World(tokens=2, each=4).facts()
    study = study_of(World().queries())
    few = replace(facts, rank=np.where(facts.fact < 9, 1, 3))
    with pytest.raises(
        FloorError, match=r"^the model answers 9 of 42 facts rightly in 7 wordings or more, fewer than"
    ):
        InWordings(query_facts("pararel"), 7, 120).choose(study, few)


def test_facts_in_one_wording_are_refused() -> None:
    study = study_of(World().queries())
    with pytest.raises(
        NotRunError, match=r"^pararel asks 0 of 42 facts in 7 wordings or more, .*give facts in more"
    ):
        InWordings(query_facts("pararel"), 7, 120).choose(study, World(tokens=1, each=1).facts())


def test_a_relation_of_one_subject_or_wordings_that_end_otherwise_are_refused() -> None:
    single = World(relations=20, subjects=1).queries()
    for experiment, claim in (
        (query_overlap.wording_effect, "ql-storage-query-dependent"),
        (query_overlap.kl_is_simplification, "ql-kl-is-simplification"),
        (query_consistency.inconsistent_exists, "ql-inconsistent-exists"),
    ):
        scores = np.maximum(World(relations=20, subjects=1).scores(single.facts, 0), 0)
        spec = query_overlap.RelativeScores(LocatedFacts("kn", query_facts("pararel")))
        finding, verdict = run(experiment, claim, study_of(single, {spec: sparse.csr_matrix(scores)}))
        assert verdict.outcome is Outcome.NOT_RUN and "\n" not in verdict.reason, claim
        assert "give" in (finding.measurement.not_run or ""), claim
    apart = World(tokens=4, each=1).queries()
    for experiment, claim in (
        (query_overlap.last_token, "ql-last-token"),
        (query_consistency.inconsistent_exists, "ql-inconsistent-exists"),
    ):
        finding, verdict = run(experiment, claim, study_of(apart))
        assert verdict.outcome is Outcome.NOT_RUN and "equal last token" in verdict.reason, verdict


def test_wordings_that_share_no_answer_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = ['{"prompt": "A is in", "answer": " X", "group": "a", "subject": "A"}',
            '{"prompt": "Where is A?", "answer": " Y", "group": "a", "subject": "A"}']  # fmt: skip
    file.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(
        DatasetError, match=r"group 'a' has the answers ' X', ' Y': the wordings of one fact have one"
    ):
        load_facts("mine", str(file), 0, None)


def test_models_of_one_size_do_not_decide_the_claim_on_size() -> None:
    study = [Study(name, settings_of()) for name in ("tiny-llama", "tiny-gptj")]
    entry = Cell("tiny-gptj+tiny-llama")
    assert query_consistency.inconsistent_size.needs(study, entry, None) == []
    found = query_consistency.inconsistent_size(study, entry, PAPER.claim("ql-inconsistent-size"))
    assert found.not_run and found.not_run.endswith("name such models with --model")
