"""What methods locate for facts: against the locators' own results, kept in the store, and which facts are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.circuits.decomposed import DecomposedModel
from caploc.circuits.faithful import faithful
from caploc.examples import Example
from caploc.experiments import locating_facts
from caploc.experiments.fact_circuits import EnteredShare
from caploc.experiments.facts import (
    CPU_FEWER_FACTS,
    Fact,
    FactSet,
    Fewer,
    NamingSubject,
    facts_of,
)
from caploc.experiments.locating_facts import HALVES, LocatedFacts, LocatedHalves
from caploc.experiments.specs import Need, NotRunError, Plan
from caploc.experiments.study import Study
from caploc.locators import LOCATORS, Locator, knowledge_circuit
from caploc.locators.causal_tracing import locate
from caploc.locators.knowledge_neurons import Cut, example_scores
from caploc.locators.layers import LayerSet
from caploc.metrics import overlap
from caploc.model.loading import LanguageModel
from caploc.statistics import random_sides
from caploc.store import Store
from caploc.tests.experiments.planted_facts import (
    fact_set,
    planted_study,
    real_facts,
    settings_of,
    small_model,
)

FACTS = facts_of("counterfact")
MANY = 30


def study_of(lm: LanguageModel, facts: FactSet, **settings: object) -> Study:
    return Study(lm.name, settings_of(**settings), lm, {FACTS: facts})


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_traces_are_the_locators_and_are_kept(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small_model(family)
    facts, spec = real_facts(lm, 2), LocatedFacts("rome", FACTS)
    study = study_of(lm, facts, store=Store(tmp_path), seed=3)
    found = study.result(spec)
    kept = study.settings.store.compute_all(list(spec.tasks(study)))
    traces = locate.trace(lm, facts.examples, locate.Tracing(seed=3), progress=False)
    assert found.cut == "top 3" and list(found.variants) == ["top 1", "top 2"]
    for number, (trace, entry) in enumerate(zip(traces, kept, strict=True)):
        assert entry.arrays["restored"] == pytest.approx(trace.by_layer().numpy(), abs=1e-12)
        assert found.numbers["clean"][number] == trace.clean
        assert found.numbers["corrupted"][number] == pytest.approx(float(trace.corrupted.mean()))
        for count, sets in ((3, found.sets), (1, found.variants["top 1"]), (2, found.variants["top 2"])):
            chosen = set(sets[np.array([number])].members.indices.tolist())
            assert chosen == set(locate.best_layers([trace], count).layers)

    def fail(*_: object) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr("caploc.locators.traced_layers.Tracer", fail)
    again = study_of(lm, facts, store=Store(tmp_path), seed=3).result(spec)
    assert np.array_equal(again.sets.members.toarray(), found.sets.members.toarray())
    with pytest.raises(AssertionError, match="traced again"):
        study_of(lm, facts, store=Store(tmp_path), seed=4).result(spec)


def test_three_layers_are_chosen_of_more() -> None:
    lm = small_model("llama", 3)
    with pytest.raises(NotRunError, match="3 layers, and 3 are to be chosen of more"):
        study_of(lm, real_facts(lm, 1)).result(LocatedFacts("rome", FACTS))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_circuits_are_the_locators_and_are_kept(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small_model(family, 2)
    facts, spec = real_facts(lm, 2), LocatedFacts("kc", FACTS)
    study = study_of(lm, facts, store=Store(tmp_path))
    found, entered = study.result(spec), study.result(EnteredShare(spec))
    model = DecomposedModel(lm)
    for number, prompt in enumerate(facts.prompts):
        circuit = faithful(model, [model.prompt(prompt)]).circuit
        one = found.sets[np.array([number])]
        assert sorted(one.members.indices) == circuit.values.numpy().nonzero()[0].tolist()
        assert found.share[number] == circuit.parameter_share(lm)
        assert entered[number] == circuit.parameter_share(lm, "entered")
    assert found.sets.places == model.graph.edges == len(found.sets.strata)
    assert np.bincount(found.sets.strata)[-1] == model.graph.senders  # into the output
    assert found.cut == "80% of log P" and list(found.variants) == ["50% of log P"]
    less = found.variants["50% of log P"]
    assert (less.common(found.sets).diagonal() == less.counts).all()  # pruned further
    # small models that learned nothing may make an answer likelier than the empty circuit does or not
    held = found.numbers["faithfulness"]
    assert ((held >= 0.8) | np.isnan(held)).all()

    def fail(*_: object) -> None:
        raise AssertionError("pruned again")

    monkeypatch.setattr(knowledge_circuit, "faithful", fail)
    again = study_of(lm, facts, store=Store(tmp_path)).result(spec)
    assert np.array_equal(again.sets.members.toarray(), found.sets.members.toarray())
    with pytest.raises(AssertionError, match="pruned again"):
        study_of(lm, facts, store=Store(tmp_path / "new")).result(spec)


def test_a_model_in_half_precision_is_not_run() -> None:
    lm = small_model("llama", 1)
    lm.model.to(torch.bfloat16)
    with pytest.raises(NotRunError, match="float32 or float64, not bfloat16"):
        study_of(lm, fact_set(1, 2)).result(LocatedFacts("kc", FACTS))


def test_knowledge_neurons_and_their_averaged_halves(tmp_path: Path) -> None:
    """Against the locator's scores, cut and averaged in a plain loop; the halves are of known original wordings."""
    lm = small_model("llama", 2)
    facts = real_facts(lm, 6)
    rank = facts.rank.copy()
    rank[2] = 5  # the second fact is not known
    facts = replace(facts, rank=rank)
    study, spec = study_of(lm, facts, store=Store(tmp_path)), LocatedFacts("kn", FACTS)
    plan = Plan([Need(study, LocatedHalves(spec))])
    assert plan.compute() == 2  # the locations, and the halves that rest on them
    entries = study.settings.store.describe().entries
    assert entries == len(facts.prompts), "each prompt once, for all that rests on it"
    found, halves = study.result(spec), study.result(LocatedHalves(spec))
    scores = [one.values for one in example_scores(lm, facts.prompts, progress=False)]
    for number, values in enumerate(scores):
        for name, cut in {found.cut: Cut(), "top 15": Cut(top_k=15), "threshold 0.3": Cut(0.3)}.items():
            sets = {found.cut: found.sets, **found.variants}[name]
            chosen = sets[np.array([number])].members.indices
            assert sorted(chosen) == cut.locate(values).values.flatten().nonzero()[:, 0].tolist()
        assert found.share[number] == Cut().locate(values).parameter_share(lm)
    original = [scores[number].double() for number in (0, 4, 6, 8, 10)]
    sides = random_sides(5, HALVES, 0)
    assert halves.facts == 2 and len(halves.overlap) == HALVES
    for side, measured in zip(sides, halves.overlap, strict=True):
        parts = [sum(one for one, at in zip(original, side, strict=True) if at == half) for half in (0, 1)]
        expected = overlap(*(Cut().locate(torch.as_tensor(part)) for part in parts))
        assert measured == pytest.approx(expected, nan_ok=True)


def test_any_registered_locator_of_facts_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has nothing but ``locate``: its locations are kept, and it is asked again for none of them."""
    asked: list[str] = []

    def locate(lm: LanguageModel, examples: list[Example], first: int) -> LayerSet:
        asked.extend(example.id for example in examples)
        return LayerSet((first, len(asked) % 2 + 2), lm.num_layers)

    own = Locator("own", "my own", "here", LayerSet, "fact", locate, options={"first": 1})
    monkeypatch.setattr(locating_facts, "LOCATORS", {**LOCATORS, "own": own})
    lm = small_model("llama")
    facts, spec = real_facts(lm, 2), LocatedFacts("own", FACTS)
    found = study_of(lm, facts, store=Store(tmp_path)).result(spec)
    assert asked == [prompt.id for prompt in facts.prompts]
    assert [row.indices.tolist() for row in found.sets.members] == [[1, 3], [1, 2], [1, 3], [1, 2]]
    assert (found.cut, found.settings) == ("own", {"first": 1}) and not found.variants
    again = study_of(lm, facts, store=Store(tmp_path)).result(spec)
    assert np.array_equal(again.sets.members.toarray(), found.sets.members.toarray()) and len(asked) == 4


def test_wordings_without_their_subject_are_left_out() -> None:
    """Of facts 0 and 1 the original does not name it, of fact 2 one of three wordings, of fact 3 all but one."""
    lm = small_model("llama", 1)
    facts = real_facts(lm, 20, ("{} is in", "where is {}?", "{} lies in"))
    changed = list(facts.facts)
    for number, places in ((0, [0]), (1, [0]), (2, [1]), (3, [1, 2])):
        examples = [
            replace(example, prompt="what?") if place in places else example
            for place, example in enumerate(changed[number].wordings)
        ]
        changed[number] = Fact(str(number), tuple(examples))

    def named(facts: FactSet) -> FactSet:
        return study_of(lm, facts).result(NamingSubject(FACTS))

    found = named(replace(facts, facts=changed))
    assert [fact.id for fact in found.facts] == [str(number) for number in (2, *range(4, 20))]
    assert [prompt.id for prompt in found.prompts[:4]] == ["2-0", "2-2", "4-0", "4-1"]
    assert [example.id for example in found.examples] == [prompt.id for prompt in found.prompts]
    assert found.fact.tolist() == [0, 0, *np.repeat(np.arange(1, 17), 3)]
    assert len(found.rank) == len(found.prompts) == len(found.log_prob)
    assert "10 of 60 prompts" in found.left_out[0]
    assert named(facts) is facts
    few = facts.head(16)
    for place, number in ((0, 0), (1, 1), (2, 0)):
        few = replace(few, facts=[*few.facts[:place], changed[number], *few.facts[place + 1 :]])
    with pytest.raises(NotRunError, match="of 13 of 16 facts"):
        named(few)


def test_a_cpu_takes_fewer_facts_unless_told() -> None:
    facts = fact_set(MANY, 2)

    def fewer(**settings: object) -> FactSet:
        return planted_study({FACTS: facts}, **settings).result(Fewer(FACTS))

    assert len(fewer()) == CPU_FEWER_FACTS
    assert fewer(samples=MANY) is facts
    assert fewer(device="cuda") is facts
