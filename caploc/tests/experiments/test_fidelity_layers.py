"""Causal tracing over wordings: traces against the locator's own, and verdicts on planted layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.examples import Example, tokenize
from caploc.experiments import fidelity
from caploc.experiments.facts import Fact, FactSet
from caploc.experiments.fidelity.layers import UNTRAINED_FACTS, TracedLayers, traced
from caploc.experiments.fidelity.prompts import CPU_FACTS, fewer, with_subjects
from caploc.experiments.study import NotRunError, Study, StudySettings
from caploc.findings import Cell, Outcome
from caploc.locators.causal_tracing import locate
from caploc.model.loading import LanguageModel, wrap
from caploc.store import Store
from caploc.tests.attribution.families import CONFIGS, make_model
from caploc.tests.experiments.planted_facts import PlantedFacts, fact_set, run
from caploc.tests.tiny import tokenizer

FACTS, WORDINGS, GPTJ_LAYERS = 30, 5, 28


def small_model(family: str, layers: int = 5) -> LanguageModel:
    return wrap(
        f"small-{family}", make_model(CONFIGS[family](layers, 4, 2, 5), torch.float32, 0), tokenizer()
    )


def real_facts(
    lm: LanguageModel, count: int, texts: tuple[str, ...] = ("{} is in", "where is {}?")
) -> FactSet:
    """Facts that are tokenized for ``lm`` and counted as known."""
    facts = []
    for number in range(count):
        subject = f"rome{number}"
        examples = [
            Example(f"{number}-{place}", text.format(subject), " it", str(number), subject)
            for place, text in enumerate(texts)
        ]
        facts.append(Fact(str(number), tuple(examples)))
    prompts = [tokenize(lm, example) for fact in facts for example in fact.wordings]
    index = np.repeat(np.arange(count), len(texts))
    return FactSet("counterfact", facts, prompts, index, np.ones(len(index), int), np.full(len(index), -1.0))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_traces_are_the_locators_and_are_kept(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small_model(family)
    facts = real_facts(lm, 2)
    settings = StudySettings(store=Store(tmp_path), seed=3)
    found = traced(Study(lm.name, settings, lm), facts)
    examples = [example for fact in facts.facts for example in fact.wordings]
    traces = locate.trace(lm, examples, locate.Tracing(seed=3), progress=False)
    for number, trace in enumerate(traces):
        assert found.restored[number] == pytest.approx(trace.by_layer().numpy(), abs=1e-12)
        assert found.clean[number] == trace.clean
        assert found.corrupted[number] == pytest.approx(float(trace.corrupted.mean()))
        chosen = set(found.best(3)[np.array([number])].members.indices.tolist())
        assert chosen == set(locate.best_layers([trace], 3).layers)

    def fail(*_: object) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr("caploc.experiments.fidelity.layers.Tracer", fail)
    again = traced(Study(lm.name, settings, lm), facts)
    assert np.array_equal(again.restored, found.restored)
    with pytest.raises(AssertionError, match="traced again"):
        traced(Study(lm.name, replace(settings, seed=4), lm), facts)


def test_three_layers_are_chosen_of_more() -> None:
    lm = small_model("llama", 3)
    with pytest.raises(NotRunError, match="3 layers, and 3 are to be chosen of more"):
        traced(Study(lm.name, StudySettings(), lm), real_facts(lm, 1))


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
    study = Study(lm.name, StudySettings(), lm)
    found = with_subjects(study, replace(facts, facts=changed))
    assert [fact.id for fact in found.facts] == [str(number) for number in (2, *range(4, 20))]
    assert [prompt.id for prompt in found.prompts[:4]] == ["2-0", "2-2", "4-0", "4-1"]
    assert found.fact.tolist() == [0, 0, *np.repeat(np.arange(1, 17), 3)]
    assert (
        len(found.rank) == len(found.prompts) == len(found.log_prob) and "10 of 60 prompts" in found.notes[0]
    )
    assert with_subjects(study, facts) is facts
    with pytest.raises(NotRunError, match="of 13 of 16 facts"):
        with_subjects(study, replace(facts.head(16), facts=[*changed[:4][:3], changed[0], *changed[4:16]]))


def test_a_cpu_takes_fewer_facts_unless_told() -> None:
    facts = fact_set(FACTS, 2)
    assert len(fewer(Study("any", StudySettings()), facts)) == CPU_FACTS
    assert fewer(Study("any", StudySettings(samples=FACTS)), facts) is facts
    assert fewer(Study("any", StudySettings(device="cuda")), facts) is facts


def scores_of(best: np.ndarray, layers: int) -> TracedLayers:
    """Traces whose best three layers are ``best [P, 3]``."""
    restored = np.zeros((len(best), layers))
    np.put_along_axis(restored, best, np.array([3.0, 2.0, 1.0]), axis=1)
    return TracedLayers(restored, np.full(len(best), 0.9), np.full(len(best), 0.1))


def planted(shared: int, layers: int = GPTJ_LAYERS, owners: int = FACTS) -> TracedLayers:
    """``shared`` of every wording's three layers are its owner's, the others random."""
    generator = np.random.default_rng(0)
    cores = [generator.permutation(layers)[:shared] for _ in range(owners)]
    rows = []
    for number in np.repeat(np.arange(FACTS), WORDINGS):
        core = cores[number % owners]
        others = np.setdiff1d(np.arange(layers), core)
        rows.append(np.concatenate([core, generator.choice(others, 3 - shared, replace=False)]))
    return scores_of(np.array(rows), layers)


def overlap(traces: TracedLayers, model: str = "tiny-llama"):
    facts = fact_set(FACTS, WORDINGS)
    few = facts.head(UNTRAINED_FACTS)
    made = {
        ("traced facts", "counterfact"): facts,
        ("traced", facts.data_fingerprint, ""): traces,
        ("traced", few.data_fingerprint, "untrained"): scores_of(
            np.tile([0, 1, 2], (len(few.prompts), 1)), traces.num_layers
        ),
    }
    return run(fidelity.rome_overlap, PlantedFacts(made), "fidelity-rome-overlap", model=model)


@pytest.mark.parametrize(
    ("shared", "outcome"), [(1, Outcome.SUPPORTED), (3, Outcome.REFUTED), (0, Outcome.INCONCLUSIVE)]
)
def test_wordings_that_share_one_all_or_no_layer(shared: int, outcome: Outcome) -> None:
    finding, verdict = overlap(planted(shared), model="gptj-6b")
    assert verdict.outcome is outcome, verdict.reason
    assert finding.chance == pytest.approx(3 / 28) and finding.published == "32.7"
    rest = (3 - shared) ** 2 / (28 - shared)
    assert finding.estimate == pytest.approx((shared + rest) / 3, abs=0.05)
    assert finding.controls["untrained twin"] == 1 and finding.quantities["top 1, chance"] == 1 / 28
    assert finding.floor is None


def test_layers_that_all_facts_share_are_no_fact() -> None:
    _, verdict = overlap(planted(1, owners=1))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "unrelated items" in verdict.reason


def test_three_of_six_layers_say_nothing() -> None:
    """Whatever was located: two random sets overlap 50 %, above the line."""
    for shared in (0, 3):
        finding, verdict = overlap(planted(shared, layers=6))
        assert verdict.outcome is Outcome.INCONCLUSIVE and finding.chance == 0.5
        assert verdict.reason == finding.floor
        assert finding.floor.startswith("floor effect: two random sets of 3 of 6 layers overlap 50.0%")


def test_granularity_counts_three_layers() -> None:
    lm = small_model("llama")
    mlp = sum(p.numel() for layer in lm.layers[:3] for p in layer.mlp.parameters())
    finding, verdict = run(
        fidelity.rome_granularity, Study(lm.name, StudySettings(), lm), "fidelity-rome-granularity"
    )
    assert finding.estimate == mlp / lm.num_parameters and finding.interval == (finding.estimate,) * 2
    assert finding.quantities["three whole layers"] > finding.estimate
    assert verdict.outcome is Outcome.SUPPORTED
    two = small_model("llama", 2)
    study = Study(two.name, StudySettings(), two)
    refused = fidelity.rome_granularity(study, Cell("tiny-llama"), "fidelity-rome-granularity")
    assert refused.not_run == "small-llama has 2 layers, fewer than 3"
