"""Completeness of eq. (2): paths of single neurons against hooks, and what the steps add up to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.attribution.integrate import one_neuron_scores
from caploc.examples import Example, tokenize
from caploc.experiments import completeness, premises
from caploc.experiments.completeness import NeuronPathModel, ig_completeness
from caploc.experiments.facts import FactPrompts, facts_of
from caploc.experiments.study import Study
from caploc.findings import Outcome
from caploc.rows.clean import run_clean
from caploc.store import Store
from caploc.tests.experiments.planted_facts import aside, estimate, run, settings_of
from caploc.tests.experiments.test_facts import own_file
from caploc.tests.tiny import tiny_lm

ALPHAS = np.array([0.0, 0.3, 1.0])


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt"])
def test_paths_of_single_neurons(family: str) -> None:
    """Against one run a token under a hook that scales one neuron at the last position, and its derivative."""
    lm = tiny_lm(family, torch.float64)
    exactly = 1e-5 if family == "gptj" else 1e-9  # its attention is float32 whatever the model is
    prompt = tokenize(lm, Example("1", "what is 2?", "4x"))
    clean = run_clean(lm.model, lm.architecture, prompt.input_ids, prompt.answer_start)
    neurons = torch.tensor([2, 11])
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    for layer in (0, 1):
        with NeuronPathModel(lm.model, lm.architecture) as paths:
            found, slopes = paths.path(layer, clean, neurons, ALPHAS)
            unscaled = paths.run_unscaled(clean)
            alone = one_neuron_scores(paths, clean, unscaled, 4096).mean(1)[layer, neurons]
        assert found.shape == slopes.shape == (2, 3)
        np.testing.assert_allclose(found[:, 2] - found[:, 0], alone.numpy(), atol=exactly)
        for row, neuron in enumerate(neurons.tolist()):
            for column, alpha in enumerate(ALPHAS):
                value, slope = _under_a_hook(lm, prompt, layer, neuron, float(alpha))
                assert (found[row, column], slopes[row, column]) == pytest.approx((value, slope), abs=exactly)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())


def _under_a_hook(lm, prompt, layer: int, neuron: int, alpha: float) -> tuple[float, float]:
    """Mean over the answer's tokens of P(y_m | z_m) with the neuron scaled at the last token of z_m, and its slope."""
    scale = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)

    def hook(module, args):
        here = torch.zeros_like(args[0], dtype=torch.bool)
        here[(-1, neuron) if here.dim() == 2 else (0, -1, neuron)] = True
        return (torch.where(here, args[0] * scale, args[0]), *args[1:])

    projection = lm.architecture.mlp_out_of(lm.layers[layer])
    total = 0.0
    for stop in range(prompt.answer_start, len(prompt.input_ids)):
        with projection.register_forward_pre_hook(hook):
            logits = lm.model(input_ids=prompt.input_ids[None, :stop]).logits[0, -1]
        total = total + logits.softmax(-1)[prompt.input_ids[stop]] / prompt.num_answer_tokens
    (slope,) = torch.autograd.grad(total, scale)
    return float(total.detach()), float(slope)


def tiny_study(folder: Path, dtype: torch.dtype = torch.float32, store: str = "store") -> Study:
    """The study's facts are called known whatever the random model says of them."""
    settings = settings_of(
        files={"mine": own_file(folder, 40, 1)},
        samples=16,
        store=Store(folder / store),
        neuron_path_samples=16,
    )
    study = Study("tiny", settings, tiny_lm("llama", dtype))
    facts = replace(study.result(FactPrompts("mine", 1)), rank=np.ones(16, int))
    return Study("tiny", settings, study.lm, {facts_of("mine", wordings=1): facts})


def test_completeness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study(tmp_path)
    finding, verdict = run(ig_completeness, study, "bg-ig-completeness", dataset="mine")
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason
    found = finding.measurement
    assert found.n == 100 and estimate(found.value) < estimate(found.parts["coarse"])
    assert aside(found, "trapezoid, 300 steps, largest") < 1e-3
    assert found.plots[0].kind == "completeness"
    again, _ = run(ig_completeness, study, "bg-ig-completeness", dataset="mine")
    assert again.to_json() == finding.to_json()
    # a rule whose error does not shrink with the steps refutes
    right = completeness.fixed_rule
    monkeypatch.setattr(
        completeness, "fixed_rule", lambda rule, steps: (right(rule, 20)[0], 2 * right(rule, 20)[1])
    )
    fresh = tiny_study(tmp_path, store="other")
    assert run(ig_completeness, fresh, "bg-ig-completeness", dataset="mine")[1].outcome is Outcome.REFUTED


def test_half_precision_cannot_tell_neurons_apart(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, torch.bfloat16)
    for experiment, claim in (
        (ig_completeness, "bg-ig-completeness"),
        (premises.attribution_measures_contribution, "bg-attr-measures-contribution"),
    ):
        _, verdict = run(experiment, study, claim, dataset="mine")
        assert verdict.outcome is Outcome.NOT_RUN and verdict.reason.endswith("give --dtype float32")
