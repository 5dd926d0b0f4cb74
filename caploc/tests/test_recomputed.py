"""The audit's calling-card numbers are those that independent code computes (``caploc.tests.recomputed``): the same
data, the same places, the same numbers; and where draws are random, other draws within the intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from caploc.experiments import fidelity
from caploc.experiments.commonality_halves import Halves
from caploc.experiments.edited_facts import STORED, Editable, EditsByLayer, Prefixes, ridge_of
from caploc.experiments.facts import FactSet, FirstFacts, facts_of
from caploc.experiments.locating import Scores, ShardSums, masks
from caploc.experiments.locating_facts import Agreements, LocatedFacts, LocatedSets
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell
from caploc.locators.causal_tracing.trace import draw_noise
from caploc.neurons import ScoreSums
from caploc.statistics.splits import draw_halves
from caploc.store import Store
from caploc.tests.experiments.planted import PAPER
from caploc.tests.recomputed import circuits, edits, locating, reading

SAMPLES = 16
LONG = 4
"""Samples with answers of many tokens."""
FACTS = facts_of("pararel")
FEW, PRUNED, EDITED = 5, 2, 1
"""Facts."""
TRACED = 8
"""Prompts traced with the audit's own noise."""


@dataclass(frozen=True)
class Both:
    """A model twice."""

    study: Study
    model: reading.Model

    def asked(self, facts: FactSet) -> list[reading.Asked]:
        """The prompts of ``facts``, tokenized anew."""
        return [reading.asked(self.model, one.prompt, one.answer) for one in facts.examples]

    def kept(self, facts: FactSet) -> np.ndarray:
        """The prompts that count, by anew asked answers."""
        right = np.array([reading.log_probs(self.model, one)[1] for one in self.asked(facts)])
        return right & right[facts.first][facts.fact]


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-gptj"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    name: str = request.param
    margins = {**PAPER.margins, "fewest-facts": 3}
    settings = StudySettings(samples=SAMPLES, margins=margins, store=Store(tmp_path_factory.mktemp("store")))
    facts = Study(name, settings).result(FACTS)
    study = Study(name, settings, results={FACTS: facts.head(FEW)})
    yield Both(study, reading.load(name))
    study.release()


def places(sets: LocatedSets) -> list[set[int]]:
    return [set(sets.members[row].indices.tolist()) for row in range(len(sets))]


def by_fact(facts: FactSet, found: list[set[int]], kept: np.ndarray) -> list[list[set[int]]]:
    return [[found[at] for at in np.flatnonzero(kept & (facts.fact == fact))] for fact in range(len(facts))]


def test_data_are_read_and_chosen_alike(both: Both) -> None:
    facts, anew = both.study.result(FACTS), reading.pararel()
    assert [fact.id for fact in facts.facts] == [fact.id for fact in anew[:FEW]]
    for one, other in zip(facts.facts, anew, strict=False):
        assert [wording.prompt for wording in one.wordings] == list(other.prompts)
        assert all(wording.answer == other.answer for wording in one.wordings)
        assert one.wordings[0].subject == other.subject
    for tokens, again in zip(facts.prompts, both.asked(facts), strict=True):
        assert tokens.content == [again.start, *again.ids.tolist()]
    assert facts.kept.tolist() == both.kept(facts).tolist()
    for dataset in (*both.study.settings.datasets, "zsre"):
        located = both.study.located(dataset).tokenized
        chosen = [reading.asked(both.model, *text) for text in reading.samples(both.model, dataset, SAMPLES)]
        assert [one.content for one in located] == [[one.start, *one.ids.tolist()] for one in chosen]


def test_knowledge_neurons_overlap_as_much(both: Both) -> None:
    measured = fidelity.overlap.with_options(method="kn")(
        both.study, Cell(both.study.model, "pararel"), PAPER.claim("fidelity-kn-overlap")
    )
    facts = both.study.result(FACTS)
    found = [locating.knowledge_neurons(locating.attribution(both.model, one)) for one in both.asked(facts)]
    assert found == places(both.study.result(LocatedFacts("kn", FACTS)).sets)
    kept = both.kept(facts)
    anew = locating.of_wordings(by_fact(facts, found, kept))
    assert measured.value.estimate == pytest.approx(np.nanmean(anew), abs=1e-6)
    across: dict[tuple[int, int], list[float]] = {}
    for a, b in itertools.permutations(np.flatnonzero(kept), 2):
        first, second = (facts.facts[facts.fact[one]] for one in (a, b))
        if first.cluster != second.cluster and first.answer != second.answer:
            pair = (facts.fact[a], facts.fact[b])
            across.setdefault(pair, []).append(locating.overlap(found[a], found[b]))
    unrelated = np.mean([np.nanmean(values) for values in across.values()])
    assert measured.controls["unrelated facts"] == pytest.approx(unrelated, abs=1e-6)


@pytest.mark.parametrize("dataset", ["gsm8k", "emotion"])
def test_commonality_neurons_are_the_same(both: Both, dataset: str) -> None:
    study, count = both.study, SAMPLES if dataset == "emotion" else LONG
    entries = study.settings.store.compute_all(study.tasks(Scores(dataset))[:count])
    sums = [ScoreSums.from_arrays(entry.arrays) for entry in entries]
    shards = ShardSums.of(sums, [[number] for number in range(count)])
    chosen = reading.samples(both.model, dataset, count)
    scores = np.stack([locating.attribution(both.model, reading.asked(both.model, *text)) for text in chosen])
    audited = shards.totals.reshape(scores.shape)
    assert np.abs(audited - scores).max() < 1e-4 * np.abs(scores).max()
    generator = np.random.default_rng(7)
    orders = [generator.permutation(count) for _ in range(study.settings.draws)]
    for sigma in (3.0, 6.0):
        located = locating.outside(scores.sum(0), sigma)
        whole = masks(shards, [np.arange(count)], study.settings.threshold(sigma))[0]
        assert located == set(np.flatnonzero(whole).tolist()) != set()
        if count < SAMPLES:
            continue
        audit = study.result(Halves(dataset, sigma))
        splits = zip(*draw_halves(count, study.settings.draws, study.settings.seed), strict=True)
        same = [locating.halves(scores, first, second, sigma) for first, second in splits]
        overlaps, shares = zip(*same, strict=True)
        assert audit.all.overlap == pytest.approx(overlaps, abs=1e-6, nan_ok=True)
        assert audit.all.iou == pytest.approx(shares, abs=1e-6, nan_ok=True)
        other = [locating.halves(scores, order[::2], order[1::2], sigma)[0] for order in orders]
        interval = audit.mean().interval()
        assert interval.low < np.nanmean(other) < interval.high


def test_traced_layers_are_the_same(both: Both) -> None:
    spec = fidelity.compared_traces("pararel")
    measured = fidelity.overlap.with_options(method="rome")(
        both.study, Cell(both.study.model, "pararel"), PAPER.claim("fidelity-rome-overlap")
    )
    facts, located = both.study.result(spec), places(both.study.result(LocatedFacts("rome", spec)).sets)
    entries = both.study.settings.store.compute_all(both.study.tasks(LocatedFacts("rome", spec)))
    generator = torch.Generator().manual_seed(7)
    other = []
    for number, (example, one, entry) in enumerate(
        zip(facts.examples, both.asked(facts), entries, strict=True)
    ):
        subject = reading.subject_tokens(both.model, example.prompt, example.subject or "")
        shape = (10, len(subject), both.model.embedding.embedding_dim)
        if number < TRACED:
            noise = draw_noise(both.study.settings.seed, example.id, *shape)
            restored, corrupted = locating.traced(both.model, one, subject, noise)
            assert entry.arrays["restored"] == pytest.approx(restored, abs=1e-6)
            assert float(entry.arrays["corrupted"]) == pytest.approx(corrupted, abs=1e-6)
            assert locating.best_layers(restored) == located[number]
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        other.append(locating.best_layers(locating.traced(both.model, one, subject, drawn)[0]))
    kept = both.kept(facts)
    same, anew = (np.nanmean(locating.of_wordings(by_fact(facts, found, kept))) for found in (located, other))
    assert measured.value.estimate == pytest.approx(same, abs=1e-6)
    assert measured.value.interval is not None
    assert measured.value.interval[0] < anew < measured.value.interval[1]


def test_circuits_are_the_same(both: Both) -> None:
    spec = FirstFacts(FACTS, PRUNED)
    facts, located = both.study.result(spec), both.study.result(LocatedFacts("kc", spec))
    pruned = circuits.Circuits(both.model)
    found = [pruned.locate(one) for one in both.asked(facts)]
    assert found == places(located.sets)
    sets = by_fact(facts, found, both.kept(facts))
    anew = float(np.nanmean(locating.of_wordings(sets)))
    audit = Agreements(facts, located.sets, facts.kept)
    assert audit.mean == pytest.approx(anew, abs=1e-6)
    identical = [
        np.mean([a == b for number, a in enumerate(one) for b in one[number + 1 :]])
        for one in sets
        if len(one) > 1
    ]
    assert audit.equal_share() == pytest.approx(np.mean(identical))


def test_edits_take_alike_at_every_layer(both: Both) -> None:
    study, spec = both.study, EditsByLayer("zsre")
    editable = study.result(Editable("zsre"))
    entries = study.settings.store.compute_all(study.tasks(spec)[:EDITED])
    anew = {edit.fact.id: edit for edit in reading.zsre()}
    texts = ["".join(one) for one in reading.samples(both.model, "zsre", SAMPLES)]
    for dataset in study.settings.datasets:
        texts += ["".join(one) for one in reading.samples(both.model, dataset, SAMPLES)]
    moments = edits.second_moments(both.model, texts, ridge_of(study.lm))
    prefixes = study.result(Prefixes())
    for number, entry in zip(editable.edited[:EDITED], entries, strict=True):
        edit = anew[editable.requests[number].id]
        assert edit.new == editable.requests[number].target_new
        for token, layers in (("last-subject", (0, 3, 7)), ("last-prompt", (2,))):
            for layer in layers:
                moment, at_subject = moments[layer], token == "last-subject"
                found = edits.edited(both.model, edit, layer, moment, prefixes, at_subject)
                row = dict(zip(STORED, entry.arrays[token][1 + layer], strict=True))
                assert found == pytest.approx((row["new"], row["true"]), abs=5e-3), (token, layer)
                assert float(found.new > found.true) == row["efficacy"]
