"""Fidelity on planted sets: each verdict where it must come out, whatever method located the sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from caploc import statistics as stats
from caploc.experiments import fidelity
from caploc.experiments.fact_circuits import EnteredShare
from caploc.experiments.facts import FactSet, Fewer, FirstFacts, ForTracing, Known, NamingSubject, facts_of
from caploc.experiments.locating_facts import FactLocations, LocatedFacts, LocatedSets
from caploc.experiments.specs import NotRunError
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Finding, Number, Outcome, Verdict
from caploc.locators import LOCATORS, Locator
from caploc.locators.traced_layers import TOP_K
from caploc.neurons import NeuronMask
from caploc.tests.experiments.planted_edits import MOSTLY, SELDOM, shares
from caploc.tests.experiments.planted_facts import (
    PAPER,
    PLACES,
    aside,
    ends,
    estimate,
    fact_set,
    located_study,
    locations_of,
    own_cores,
    planted_study,
    run,
    sets_of,
    small_model,
    with_core,
)

FACTS, WORDINGS, SIZE, GPTJ_LAYERS = 40, 5, 20, 28
FEWER = 30
TRACES = ForTracing.on_cpu
"""Facts of the methods that take fewer."""
KN, ROME = (fidelity.overlap.with_options(method=method) for method in ("kn", "rome"))
ALL = facts_of("counterfact")
TRACED, PRUNED = Known(NamingSubject(Fewer(ALL))), Known(Fewer(ALL))
COMPARED = Known(NamingSubject(ForTracing(ALL)))


def sharing(core: int, owners: int = FEWER, size: int = SIZE) -> LocatedSets:
    """The sets of ``FEWER`` facts in all wordings: ``core`` of ``size`` places are their owner's."""
    owner = np.repeat(np.arange(FEWER), WORDINGS) % owners
    return with_core(own_cores(owners, core), owner, size, core)


# ------------------------------------------------------------------------------------------ any method, as KN's neurons


def kn_overlap(facts: FactSet, sets: LocatedSets, model: str = "tiny-llama") -> tuple[Finding, Verdict]:
    return run(KN, located_study(facts, sets), "fidelity-kn-overlap", model)


def of_core(facts: FactSet, core: int, model: str = "tiny-llama") -> tuple[Finding, Verdict]:
    return kn_overlap(facts, with_core(own_cores(len(facts), core), facts.fact, SIZE, 0), model)


@pytest.mark.parametrize(
    ("core", "outcome"), [(3, Outcome.SUPPORTED), (19, Outcome.REFUTED), (0, Outcome.INCONCLUSIVE)]
)
def test_wordings_that_share_little_much_or_nothing(core: int, outcome: Outcome) -> None:
    """20 neurons a wording, ``core`` of them the fact's own; without any, unrelated facts overlap as much."""
    finding, verdict = of_core(fact_set(FACTS, WORDINGS), core)
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    mean, (low, high) = estimate(found.value), ends(found.value)
    assert mean == pytest.approx(core / SIZE, abs=0.05) and found.n == FACTS
    assert low <= mean <= high
    assert found.controls["unrelated facts"] == pytest.approx(SIZE / 600, abs=0.02)
    assert found.chance == pytest.approx(SIZE / 600, abs=0.01)
    assert aside(found, "permutation of facts") == (0.001 if core else pytest.approx(0.5, abs=0.5))


def test_an_overlap_that_unrelated_facts_share_is_no_fact() -> None:
    facts = fact_set(FACTS, WORDINGS)
    finding, verdict = kn_overlap(
        facts, with_core(own_cores(1, 6), np.zeros(len(facts.prompts), int), SIZE, 1)
    )
    assert estimate(finding.measurement.value) < 0.4 and verdict.outcome is Outcome.INCONCLUSIVE
    assert "what was located is not shown to belong to the item" in verdict.reason


def test_an_overlap_around_the_line_decides_nothing() -> None:
    facts = fact_set(FACTS, WORDINGS)
    cores = [core[: 12 + number % 9] for number, core in enumerate(own_cores(FACTS, SIZE))]
    finding, verdict = kn_overlap(facts, with_core(cores, facts.fact, SIZE, 2))
    low, high = ends(finding.measurement.parts["corrected overlap"])
    assert low < 0.8 < high and verdict.outcome is Outcome.INCONCLUSIVE


def test_facts_with_one_answer_are_no_unrelated_ones() -> None:
    """What goes with the answer, and not with the fact, shows in the control of the same answer."""
    answers = [f" {number % 4}" for number in range(FACTS)]
    facts = fact_set(FACTS, WORDINGS, answers=answers)
    found = kn_overlap(facts, with_core(own_cores(4, 12), facts.fact % 4, SIZE, 3))[0].measurement
    same = found.controls["same answer, another subject"]
    assert same == pytest.approx(estimate(found.value), abs=0.02) and found.controls["unrelated facts"] < 0.1
    low, high = ends(found.asides["same answer gap"])
    assert low < 0.02 and high > -0.02


def test_wordings_that_change_the_answer_and_unknown_facts_are_left_out() -> None:
    rank = np.ones((FACTS, WORDINGS), int)
    rank[:, 3:] = 7  # two wordings are not understood
    rank[:10, 0] = 2  # ten facts are not known
    facts = fact_set(FACTS, WORDINGS, rank=rank.ravel())
    good = with_core(own_cores(FACTS, 19), facts.fact, SIZE, 4)
    bad = with_core(own_cores(FACTS, 0), facts.fact, SIZE, 5)
    rows = np.where(
        facts.kept, np.arange(len(facts.prompts)), len(facts.prompts) + np.arange(len(facts.prompts))
    )
    members = sparse.vstack([good.members, bad.members]).tocsr()[rows]
    finding, verdict = kn_overlap(facts, LocatedSets(members, good.strata))
    found = finding.measurement
    assert verdict.outcome is Outcome.REFUTED and found.n == FACTS - 10
    of_all_wordings = aside(found, "all wordings of known facts")
    assert of_all_wordings < estimate(found.value) - 0.3
    assert aside(found, "all facts, known or not") < of_all_wordings
    assert "10 of 40 facts left out: the model does not know them" in finding.notes
    assert "60 further wordings of known facts left out: they change the model's answer" in finding.notes


def test_facts_that_the_model_does_not_know_say_nothing() -> None:
    rank = np.full((FACTS, WORDINGS), 9)
    rank[:15] = 1
    finding, verdict = of_core(fact_set(FACTS, WORDINGS, rank=rank.ravel()), 10)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == finding.measurement.floor == "the model does not know the facts (15 of 40)"


def test_empty_sets_are_left_out_and_counted() -> None:
    """Both empty: no pair; one empty: an overlap of 0."""
    facts = fact_set(FACTS, WORDINGS)
    full = with_core(own_cores(FACTS, 20), facts.fact, SIZE, 6)
    places = [
        np.zeros(0, int) if prompt % 5 in (3, 4) else row.indices for prompt, row in enumerate(full.members)
    ]
    found = kn_overlap(facts, sets_of(places))[0].measurement
    assert aside(found, "pairs of two empty sets, left out") == FACTS
    assert aside(found, "empty sets") == 2 * FACTS
    assert estimate(found.value) == pytest.approx(3 / 9)  # of ten pairs three overlap wholly, six not at all
    nothing, verdict = kn_overlap(facts, sets_of([np.zeros(0, int)] * 200))
    assert nothing.measurement.floor and verdict.outcome is Outcome.INCONCLUSIVE


def test_numbers_are_compared_where_the_paper_prints_them() -> None:
    facts, claim = fact_set(FACTS, WORDINGS), PAPER.claim("fidelity-kn-overlap")
    for model, printed in (("gptj-6b", "37.3"), ("tiny-gptj", None)):
        finding, _ = of_core(facts, 7, model)
        (plot,) = finding.measurement.plots
        assert isinstance(finding.measurement.parts["overlap"], Number)
        assert finding.published == printed
        assert (claim.printed_number(finding.cell, "overlap") is not None) == (printed is not None)
        assert plot.data.get("published") == ({"same fact": 0.373} if printed else None)


@pytest.mark.parametrize(
    ("size", "model", "outcome"),
    [
        (15, "gptj-6b", Outcome.SUPPORTED),
        (70, "gptj-6b", Outcome.REFUTED),
        (25, "gptj-6b", Outcome.INCONCLUSIVE),
        (15, "tiny-llama", Outcome.MEASURED),
    ],
)
def test_mean_located(size: int, model: str, outcome: Outcome) -> None:
    facts = fact_set(FACTS, WORDINGS)
    study = located_study(facts, with_core(own_cores(FACTS, 1), facts.fact, size, 7))
    finding, verdict = run(fidelity.kn_mean_located, study, "fidelity-kn-mean-located", model)
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert found.value is not None and found.value.unit == "count"
    assert estimate(found.value) == size and found.n == FACTS * WORDINGS
    assert ("prints no number for this model" in verdict.reason) == (model != "gptj-6b")


def test_the_same_seed_gives_the_same_finding() -> None:
    facts = fact_set(FACTS, WORDINGS)
    first, again = (of_core(facts, 7)[0].to_json() for _ in range(2))
    assert first == again


# ------------------------------------------------------------------------------------------------------- ROME's layers


def layers_of(best: np.ndarray, layers: int, gain: np.ndarray | None = None) -> FactLocations:
    """What is located where the best three layers are ``best [P, 3]``; their states restore well unless ``gain`` is
    given."""
    found = {
        f"top {count}": LocatedSets.of_places(best[:, :count], layers, np.zeros(layers, int))
        for count in (TOP_K, 1, 2)
    }
    numbers = {
        "clean": np.full(len(best), 0.9),
        "corrupted": np.full(len(best), 0.1),
        "gain": np.full(len(best), 0.4) if gain is None else gain,
    }
    return FactLocations(
        found.pop("top 3"), "top 3", found, np.full(len(best), 0.3), numbers, {"top_k": TOP_K}
    )


def traced(shared: int, layers: int = GPTJ_LAYERS, owners: int = TRACES, seed: int = 0) -> FactLocations:
    """``shared`` of every wording's three layers are its owner's, the others random."""
    generator = np.random.default_rng(seed)
    cores = [generator.permutation(layers)[:shared] for _ in range(owners)]
    rows = []
    for number in np.repeat(np.arange(TRACES), WORDINGS):
        core = cores[number % owners]
        others = np.setdiff1d(np.arange(layers), core)
        rows.append(np.concatenate([core, generator.choice(others, 3 - shared, replace=False)]))
    return layers_of(np.array(rows), layers)


def rome_overlap(found: FactLocations, model: str = "tiny-llama") -> tuple[Finding, Verdict]:
    facts = fact_set(TRACES, WORDINGS)
    twin = FirstFacts(COMPARED, fidelity.METHODS["rome"].twin)
    few = facts.head(twin.count)
    results = {
        COMPARED: facts,
        LocatedFacts("rome", COMPARED): found,
        LocatedFacts("rome", twin, "untrained"): layers_of(
            np.tile([0, 1, 2], (len(few.prompts), 1)), found.sets.places
        ),
    }
    return run(ROME, planted_study(results), "fidelity-rome-overlap", model)


@pytest.mark.parametrize(
    ("shared", "outcome"), [(1, Outcome.SUPPORTED), (3, Outcome.REFUTED), (0, Outcome.INCONCLUSIVE)]
)
def test_wordings_that_share_one_all_or_no_layer(shared: int, outcome: Outcome) -> None:
    finding, verdict = rome_overlap(traced(shared), "gptj-6b")
    found = finding.measurement
    assert verdict.outcome is outcome, verdict.reason
    assert found.chance == pytest.approx(3 / 28) and finding.published == "32.7"
    rest = (3 - shared) ** 2 / (28 - shared)
    assert estimate(found.value) == pytest.approx((shared + rest) / 3, abs=0.05)
    assert found.controls["untrained twin"] == 1 and aside(found, "top 1, chance") == 1 / 28
    assert found.floor is None


def test_layers_that_all_facts_share_are_no_fact() -> None:
    _, verdict = rome_overlap(traced(1, owners=1))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "unrelated items" in verdict.reason


@pytest.mark.parametrize("layers", [6, 8])
def test_three_of_few_layers_are_judged_above_their_chance(layers: int) -> None:
    for shared, outcome in ((2, Outcome.SUPPORTED), (3, Outcome.REFUTED)):
        finding, verdict = rome_overlap(traced(shared, layers))
        found, chance = finding.measurement, 3 / layers
        assert verdict.outcome is outcome and found.chance == pytest.approx(chance) and found.floor is None
        corrected = (estimate(found.value) - chance) / (1 - chance)  # unrelated facts share what chance gives
        assert estimate(found.parts["corrected overlap"]) == pytest.approx(corrected, abs=0.02)


@pytest.mark.parametrize("shared", [1, 3])
def test_tracing_that_restores_no_more_than_its_noise_locates_nothing(shared: int) -> None:
    """However the wordings agree."""
    best = traced(shared)
    gain = np.random.default_rng(0).normal(0, 0.05, TRACES * WORDINGS)
    finding, verdict = rome_overlap(replace(best, numbers={**best.numbers, "gain": gain}))
    assert verdict.outcome is Outcome.INCONCLUSIVE and verdict.reason == finding.measurement.floor
    assert verdict.reason.startswith(
        "tracing restores no more than its noise: the best layer's clean state adds "
    )


def simulated(shared: int, layers: int) -> Mapping[str, float]:
    """Verdicts on overlaps at so many draws of what is located."""
    with_fewer = partial(traced, shared, layers, TRACES)
    return shares(lambda number: rome_overlap(with_fewer(number))[1])


@pytest.mark.parametrize("layers", [6, 8])
def test_random_layers_are_seldom_judged(layers: int) -> None:
    found = simulated(0, layers)
    assert found[Outcome.SUPPORTED] + found[Outcome.REFUTED] <= SELDOM, found


def test_two_layers_in_common_are_seldom_highly_similar_and_three_always() -> None:
    found, same = simulated(2, 6), simulated(3, 6)
    assert found[Outcome.SUPPORTED] >= MOSTLY and not found[Outcome.REFUTED], found
    assert same[Outcome.REFUTED] >= MOSTLY and not same[Outcome.SUPPORTED], same


def test_granularity_counts_three_layers() -> None:
    lm = small_model("llama")
    mlp = sum(p.numel() for layer in lm.layers[:3] for p in layer.mlp.parameters())
    finding, verdict = run(
        fidelity.rome_granularity, Study(lm.name, StudySettings(), lm), "fidelity-rome-granularity"
    )
    found = finding.measurement
    share = estimate(found.value)
    assert share == mlp / lm.num_parameters and ends(found.value) == (share, share)
    assert aside(found, "three whole layers") > share
    assert verdict.outcome is Outcome.SUPPORTED
    two = small_model("llama", 2)
    study = Study(two.name, StudySettings(), two)
    refused = fidelity.rome_granularity(study, Cell("tiny-llama"), PAPER.claim("fidelity-rome-granularity"))
    assert refused.not_run == "small-llama has 2 layers, fewer than 3"


# ---------------------------------------------------------------------------------------------------------- KC's edges


def circuits(
    sets: LocatedSets, share: float | np.ndarray = 0.016, neurons: LocatedSets | None = None
) -> Study:
    """A study whose circuits are ``sets`` and hold ``share`` of the parameters, of which a neuron has 1 in 10000."""
    facts = fact_set(FEWER, WORDINGS)
    own, twin = LocatedFacts("kc", PRUNED), FirstFacts(PRUNED, fidelity.METHODS["kc"].twin)
    first = np.arange(len(facts.head(twin.count).prompts))
    shares = np.broadcast_to(share, len(sets))
    results = {
        PRUNED: facts,
        own: locations_of(sets, ("as planted", "another"), shares, {"faithfulness": np.full(len(sets), 0.8)}),
        LocatedFacts("kc", twin, "untrained"): locations_of(sets[first], ("as planted",)),
        EnteredShare(own): shares / 2,
    }
    if neurons is not None:
        results[LocatedFacts("kn", PRUNED)] = locations_of(neurons)
    return planted_study(results)


def alike(equal: int) -> LocatedSets:
    """As many facts as ``equal`` have one and the same circuit in all wordings, the others share little."""
    owner = np.repeat(np.arange(FEWER), WORDINGS)
    same, little = (with_core(own_cores(FEWER, core), owner, SIZE, core).members for core in (SIZE, 2))
    rows = np.where(owner < equal, np.arange(len(owner)), len(owner) + np.arange(len(owner)))
    members = sparse.vstack([same, little]).tocsr()[rows]
    return LocatedSets(members, sets_of([np.arange(1)]).strata)


@pytest.mark.parametrize(
    ("sets", "identical", "outcome"),
    [
        (sharing(3), 0.0, Outcome.SUPPORTED),
        (sharing(14), 0.0, Outcome.SUPPORTED),
        (sharing(19), 0.0, Outcome.REFUTED),  # highly similar, though never the same
        (sharing(SIZE), 1.0, Outcome.REFUTED),
        (alike(24), 0.8, Outcome.REFUTED),
        (alike(15), 0.5, Outcome.INCONCLUSIVE),
        (alike(6), 0.2, Outcome.SUPPORTED),
        (sharing(0), 0.0, Outcome.INCONCLUSIVE),  # random sets
        (sharing(16, 1), 0.0, Outcome.INCONCLUSIVE),  # all facts alike
    ],
)
def test_circuits_that_are_identical_similar_or_neither(
    sets: LocatedSets, identical: float, outcome: Outcome
) -> None:
    finding, verdict = run(fidelity.circuits_identical, circuits(sets), "fidelity-kc-overlap")
    found = finding.measurement
    assert verdict.outcome is outcome, verdict.reason
    assert estimate(found.value) == pytest.approx(identical) and found.n == FEWER
    low, high = ends(found.value)
    assert low <= identical <= high and high - low > 0.1  # 0 and 1 are no points
    assert aside(found, "equal sets, share of pairs") == estimate(found.value)
    assert aside(found, "share of log P restored, mean") == pytest.approx(0.8)
    assert any("edges are pruned in blocks" in note for note in finding.notes)
    one = {
        name: estimate(found.parts[name]) for name in ("overlap-poster", "corrected overlap", "baseline gap")
    }
    unrelated = one["overlap-poster"] - one["baseline gap"]
    assert one["corrected overlap"] == pytest.approx(one["baseline gap"] / (1 - unrelated))


def test_identity_is_seldom_called_rare_or_common_by_accident() -> None:
    """20 facts, at the line of 50 %: whether the wordings of a fact are all alike or each pair by itself."""
    generator = np.random.default_rng(0)
    shares = np.concatenate(
        [generator.integers(0, 2, (2000, 20)), generator.binomial(10, 0.5, (2000, 20)) / 10]
    )
    intervals = [stats.share_interval(one, 20) for one in shares.mean(1)]
    assert np.mean([one.high < 0.5 for one in intervals[:2000]]) <= 0.05
    assert np.mean([one.low > 0.5 for one in intervals[:2000]]) <= 0.05
    assert not any(one.high < 0.5 or one.low > 0.5 for one in intervals[2000:])
    rare = (generator.random((2000, 20)) < 0.072).mean(1)
    assert np.mean([stats.share_interval(one, 20).high < 0.5 for one in rare]) >= 0.99


@pytest.mark.parametrize(
    ("share", "model", "outcome"),
    [
        (0.016, "gptj-6b", Outcome.SUPPORTED),
        (0.1, "gptj-6b", Outcome.REFUTED),
        (0.016, "tiny-gptj", Outcome.MEASURED),
    ],
)
def test_parameter_share(share: float, model: str, outcome: Outcome) -> None:
    spread = share * (1 + np.linspace(-0.1, 0.1, FEWER * WORDINGS))
    finding, verdict = run(
        fidelity.kc_param_share, circuits(sharing(3), spread), "fidelity-kc-param-share", model
    )
    found = finding.measurement
    assert verdict.outcome is outcome, verdict.reason
    low, high = ends(found.value)
    assert estimate(found.value) == pytest.approx(share) and low < share < high
    assert aside(found, "in the matrices that edges enter") == pytest.approx(share / 2)
    assert aside(found, "share of the edges") == pytest.approx(SIZE / PLACES)
    assert ("prints no number for this model" in verdict.reason) == (model != "gptj-6b")


@pytest.mark.parametrize(
    ("share", "outcome"),
    [(0.04, Outcome.SUPPORTED), (0.001, Outcome.REFUTED), (0.01, Outcome.INCONCLUSIVE)],
)
def test_granularity_against_knowledge_neurons(share: float, outcome: Outcome) -> None:
    """KN's 20 neurons hold 0.2 % of the parameters."""
    study = circuits(sharing(3), share, sharing(3))
    finding, verdict = run(fidelity.kc_granularity, study, "fidelity-kc-granularity")
    assert verdict.outcome is outcome, verdict.reason
    assert estimate(finding.measurement.value) == pytest.approx(share / 0.002)
    assert aside(finding.measurement, "parameter share of KN's neurons") == pytest.approx(0.002)


def test_granularity_needs_knowledge_neurons() -> None:
    none = LocatedSets.of_places([np.zeros(0, int)] * (FEWER * WORDINGS), PLACES)
    finding, verdict = run(
        fidelity.kc_granularity, circuits(sharing(3), 0.1, none), "fidelity-kc-granularity"
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert str(finding.measurement.floor).startswith("floor effect: KN locates nothing")


# --------------------------------------------------------------------------------------------- methods against others


def ordering(
    kn: LocatedSets,
    rome: FactLocations,
    kc: LocatedSets,
    model: str = "tiny-llama",
    **others: FactLocations | NotRunError,
) -> tuple[Finding, Verdict]:
    located = {"kn": locations_of(kn), "rome": rome, "kc": locations_of(kc, ("as planted",)), **others}
    results = {LocatedFacts(method, TRACED): found for method, found in located.items()}
    study = planted_study({TRACED: fact_set(FEWER, WORDINGS), **results})
    return run(fidelity.ordering, study, "fidelity-ordering", model)


@pytest.mark.parametrize(
    ("kn", "kc", "outcome"),
    [(14, 1, Outcome.SUPPORTED), (1, 14, Outcome.REFUTED), (14, 14, Outcome.REFUTED)],
)
def test_the_printed_order_holds_or_not(kn: int, kc: int, outcome: Outcome) -> None:
    """ROME's layers overlap about 36 %: one of three is shared."""
    finding, verdict = ordering(sharing(kn), traced(1), sharing(kc))
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    first, second = estimate(found.parts["KN minus ROME"]), estimate(found.parts["ROME minus KC"])
    assert estimate(found.value) == min(first, second)
    assert first == pytest.approx(estimate(found.parts["kn"]) - estimate(found.parts["rome"]))
    assert second == pytest.approx(aside(found, "section 1's order, rome minus kc"))
    assert aside(found, "section 1's order, kc minus kn") == pytest.approx(-first - second)
    assert found.controls["rome, chance"] == pytest.approx(3 / 28)
    assert [name for name, one in found.parts.items() if one.p is not None] == [
        "KN minus ROME",
        "ROME minus KC",
    ]
    assert found.n == FEWER


def test_overlaps_are_those_of_section_3_1_on_gptj() -> None:
    finding, _ = ordering(sharing(14), traced(1), sharing(1), "gptj-6b")
    assert estimate(finding.measurement.parts["kn"]) == pytest.approx(0.7, abs=0.03)
    assert PAPER.claim("fidelity-ordering").printed_number(finding.cell, "kn") is not None
    assert finding.published == "37.3"


def test_facts_that_a_method_locates_nothing_for_are_left_out() -> None:
    """Of the first 10 facts KN finds nothing; of 15, too few are left."""
    full, rome, kc = sharing(14), traced(1), sharing(1)

    def without(count: int) -> LocatedSets:
        places = [
            row.indices if number >= count * WORDINGS else [] for number, row in enumerate(full.members)
        ]
        return LocatedSets.of_places(places, PLACES, full.strata)

    found = ordering(without(10), rome, kc)[0].measurement
    assert found.n == 20 and estimate(found.parts["kn"]) == pytest.approx(0.7, abs=0.03)
    finding, verdict = ordering(without(15), rome, kc)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.measurement.floor == "only 15 of 30 facts have two wordings that all three methods locate"


def test_a_registered_locator_of_facts_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its overlap stands beside the order that the paper prints, and can be measured by itself."""

    def locate(*_: object) -> NeuronMask:
        raise AssertionError("measured from results alone")

    located = locations_of(sharing(10), ("own",))
    plain, _ = ordering(sharing(14), traced(1), sharing(1))
    own = Locator("own", "a method of one's own", "here", NeuronMask, "fact", locate)
    monkeypatch.setattr(fidelity, "LOCATORS", {**LOCATORS, "own": own})
    found = ordering(sharing(14), traced(1), sharing(1), own=located)[0].measurement
    assert found.parts == plain.measurement.parts
    inapplicable = NotRunError("not for models of this family")
    without, _ = ordering(sharing(14), traced(1), sharing(1), own=inapplicable)
    assert without.to_json() == plain.to_json()
    assert aside(found, "own") == pytest.approx(0.5, abs=0.03)
    assert found.controls["own, unrelated facts"] < 0.1
    needs = fidelity.ordering.needs(
        planted_study({}), Cell("any", "counterfact"), PAPER.claim("fidelity-ordering")
    )
    assert LocatedFacts("own", TRACED) in [need.spec for need in needs]
    twin = FirstFacts(PRUNED, fidelity.ANY_METHOD.twin)
    first = np.arange(twin.count * WORDINGS)
    study = planted_study(
        {
            PRUNED: fact_set(FEWER, WORDINGS),
            LocatedFacts("own", PRUNED): located,
            LocatedFacts("own", twin, "untrained"): locations_of(located.sets[first], ("own",)),
        }
    )
    finding, verdict = run(fidelity.overlap.with_options(method="own"), study, "fidelity-kn-overlap")
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.measurement.quantity == "overlap of the neurons of two wordings of a fact"
