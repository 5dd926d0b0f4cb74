"""Located and random neurons of every fact, doubled and zeroed: against plain runs under hooks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.experiments.facts import facts_of
from caploc.experiments.scaled_facts import (
    ARMS,
    DOUBLED,
    LARGEST,
    LAYER,
    LOCATED,
    MAGNITUDE,
    RANDOM_ARMS,
    RANDOM_SETS,
    UNIFORM,
    ZEROED,
    ScaledFacts,
    _sets,
)
from caploc.experiments.study import Study
from caploc.interventions.activations import scaled
from caploc.locators.knowledge_neurons import Cut, example_scores
from caploc.locators.magnitude import magnitude
from caploc.neurons import NeuronMask
from caploc.store import Store
from caploc.tests.experiments.planted_facts import scaled_of, settings_of
from caploc.tests.experiments.test_facts import own_file
from caploc.tests.tiny import tiny_lm


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
def test_changes_equal_runs_under_hooks(family: str, tmp_path: Path) -> None:
    exactly = 1e-6 if family == "gptj" else 1e-9  # GPT-J's attention is float32 whatever the model is
    settings = settings_of(files={"mine": own_file(tmp_path, 40, 1)}, samples=16, store=Store(tmp_path))
    lm = tiny_lm(family, torch.float64)
    study, spec = Study("tiny", settings, lm), facts_of("mine", wordings=1)
    facts, found = study.result(spec), study.result(ScaledFacts(spec))
    sizes = magnitude(lm, facts.prompts)
    scores = list(example_scores(lm, facts.prompts, progress=False))
    kept = [index for index, one in enumerate(scores) if Cut().locate(one.values).count]
    assert len(found) == len(kept) > 10
    for row, index in list(enumerate(kept))[:3]:
        prompt, located = facts.prompts[index], Cut().locate(scores[index].values)
        sets, is_there = _sets(located, sizes, 0, index)
        assert torch.equal(sets[0], located.values) and found.count[row] == located.count
        plain = _log_prob(lm, prompt)
        assert found.clean[row] == pytest.approx(plain)
        for done, factor in ((DOUBLED, 2.0), (ZEROED, 0.0)):
            for place in (0, 1, 12, 21, 31):
                with scaled(lm, NeuronMask(sets[place]), factor, at=prompt.answer_start - 1):
                    expected = _log_prob(lm, prompt) - plain
                if is_there[place]:
                    assert found.change[row, done, place] == pytest.approx(expected, abs=exactly)
                else:
                    assert np.isnan(found.change[row, done, place])
        for place in range(len(sets)):
            own = scores[index].values[sets[place]].sum()
            assert found.attribution[row, place] == pytest.approx(float(own), abs=1e-6)


def _log_prob(lm, prompt) -> float:
    with torch.no_grad():
        logits = lm.model(input_ids=prompt.input_ids[None, :-1]).logits[0].double()
    places = torch.arange(prompt.answer_start, len(prompt.input_ids))
    return float(logits.log_softmax(-1)[places - 1, prompt.input_ids[places]].sum())


def test_half_precision_runs_without_a_store(tmp_path: Path) -> None:
    """The model is made ready to be attributed first, and only then to be scaled; rounding sets what a tie is."""
    settings = settings_of(
        files={"mine": own_file(tmp_path, 40, 1)}, samples=16, dtype="bfloat16", store=Store(tmp_path)
    )
    study = Study("tiny", settings, tiny_lm("llama", torch.bfloat16))
    found = study.result(ScaledFacts(facts_of("mine", wordings=1)))
    assert np.isfinite(found.change[:, :, ARMS[LOCATED]]).all() and (found.resolution >= 1e-6).all()


def test_arms_have_the_located_count() -> None:
    """In every layer, but for the uniform sets; sets differ from fact to fact and are drawn again by the seed."""
    generator = torch.Generator().manual_seed(0)
    values = torch.zeros(3, 50, dtype=torch.bool)
    values[0, torch.randperm(50, generator=generator)[:7]] = True
    values[2, 4] = True
    from caploc.locators.magnitude import Magnitude

    sizes = Magnitude(torch.rand(3, 50, generator=generator))
    sets, is_there = _sets(NeuronMask(values), sizes, 0, 3)
    assert is_there.all() and len(sets) == ARMS[LARGEST].stop == 2 + 3 * RANDOM_SETS
    for arm in (LOCATED, LAYER, MAGNITUDE, LARGEST):
        assert (sets[ARMS[arm]].sum(2) == values.sum(1)).all(), arm
    assert (sets[ARMS[UNIFORM]].sum((1, 2)) == 8).all()
    for arm in RANDOM_ARMS:
        assert not (sets[ARMS[arm]] & values).any(), f"{arm}: what was located is no random neuron"
    assert torch.equal(sets, _sets(NeuronMask(values), sizes, 0, 3)[0])
    for other in (_sets(NeuronMask(values), sizes, 0, 4)[0], _sets(NeuronMask(values), sizes, 1, 3)[0]):
        assert not torch.equal(sets[ARMS[UNIFORM]], other[ARMS[UNIFORM]])
    crowded = values.clone()
    crowded[1, :40] = True
    there = _sets(NeuronMask(crowded), sizes, 0, 3)[1]
    assert not there[ARMS[MAGNITUDE]].any() and not there[ARMS[LAYER]].any() and there[ARMS[UNIFORM]].all()


def test_small_changes_are_ties() -> None:
    located = np.array([2e-6, 5e-7, -5e-7, -2e-6]), np.array([1.0, -1.0, 0.0, np.nan])
    random = np.zeros((4, 31)), np.full((4, 31), np.nan)
    found = scaled_of(located, random)
    assert found.moved(DOUBLED, LOCATED, 1)[:, 0].tolist() == [1, 0, 0, 0]
    assert found.as_predicted(DOUBLED, LOCATED)[:, 0].tolist() == [1, 0, 0, 0]
    assert found.as_predicted(ZEROED, LOCATED)[:3, 0].tolist() == [0, 1, 0]
    assert np.isnan(found.moved(ZEROED, LOCATED, 1)[3, 0]) and not found.has(LAYER)
    assert len(found.only(np.array([True, False, True, False]))) == 2
