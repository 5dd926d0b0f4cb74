"""``caploc.attribute`` from examples to scores, against the slow oracle and plain runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import caploc
from caploc import Example
from caploc.attribution.method import fixed_rule
from caploc.attribution.reference import reference_scores
from caploc.examples import TokenizedExample
from caploc.locators import LOCATORS
from caploc.models import LanguageModel
from caploc.tests.tiny import NEURONS, SHAPE, WIDTH, tiny_lm

EXAMPLES = [
    Example("eggs", "how many eggs?", " 12"),
    Example("sum", "7+5", "=12\n#"),
    Example("name", "a", " long answer, and more"),
]


def attribute(lm: LanguageModel, examples: list[Example] = EXAMPLES, **options: Any) -> caploc.NeuronScores:
    return caploc.attribute(lm, examples, progress=False, **options)


def tokens(lm: LanguageModel, answer_tokens: int | None = None) -> list[TokenizedExample]:
    return [caploc.tokenize(lm, example, answer_tokens) for example in EXAMPLES]


def oracle(lm: LanguageModel, example: TokenizedExample, rule: str = "paper", steps: int = 19) -> Tensor:
    return reference_scores(
        lm.model, lm.architecture, example.input_ids, example.answer_start, *fixed_rule(rule, steps)
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("rule", "steps"), [("paper", 19), ("trapezoid", 4), ("gauss-legendre", 3)])
def test_scores_are_the_mean_of_the_oracles(family: str, rule: str, steps: int) -> None:
    lm = tiny_lm(family, torch.float64)
    scores = attribute(lm, steps=steps, quadrature=rule)
    expected = torch.stack([oracle(lm, example, rule, steps) for example in tokens(lm)]).mean(0)
    assert scores.values.shape == (SHAPE[0], NEURONS) and scores.values.dtype == torch.float64
    assert (scores.values - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert scores.count == 3 and (scores.points == steps + 1).all()
    assert scores.settings == {"quadrature": rule, "steps": steps, "answer_tokens": None}


def test_the_defaults_are_the_papers() -> None:
    lm = tiny_lm()
    assert torch.equal(attribute(lm).values, attribute(lm, steps=19, quadrature="paper").values)


def test_answer_tokens_takes_the_first_ones() -> None:
    lm = tiny_lm(dtype=torch.float64)
    expected = torch.stack([oracle(lm, example) for example in tokens(lm, answer_tokens=2)]).mean(0)
    scores = attribute(lm, answer_tokens=2)
    assert (scores.values - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert scores.settings["answer_tokens"] == 2
    assert not torch.allclose(scores.values, attribute(lm).values)
    assert torch.equal(attribute(lm, answer_tokens=1000).values, attribute(lm).values)


def probability(lm: LanguageModel, ids: Tensor, target: int, layer: int, alpha: float) -> float:
    """P(target) after ``ids`` with the neurons of ``layer`` scaled at the last position, by a plain run."""

    def scale(_: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        states = args[0].clone()
        states[:, -1] *= alpha
        return (states,)

    handle = lm.architecture.mlp_out_of(lm.layers[layer]).register_forward_pre_hook(scale)
    try:
        with torch.no_grad():
            return float(lm.model(ids[None]).logits[0, -1].softmax(-1)[target])
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_completeness_is_that_of_an_independent_computation(family: str) -> None:
    """|sum of the attributions - (P(1) - P(0))|, mean over positions, then over examples."""
    lm, errors, gaps = tiny_lm(family, torch.float64), [], []
    for example in tokens(lm):
        for m in range(example.num_answer_tokens):
            cut = example.answer_start + m
            target = int(example.input_ids[cut])
            one = TokenizedExample(example.input_ids[: cut + 1], cut)
            attributed = oracle(lm, one).sum(1)
            ends = [
                [probability(lm, example.input_ids[:cut], target, layer, alpha) for alpha in (0.0, 1.0)]
                for layer in range(lm.num_layers)
            ]
            change = torch.tensor(ends, dtype=torch.float64).diff(dim=1)[:, 0]
            share = 1 / (len(EXAMPLES) * example.num_answer_tokens)
            errors.append(share * (attributed - change).abs())
            gaps.append(share * change.abs())
    scores = attribute(lm)
    assert torch.allclose(scores.completeness, sum(errors), rtol=1e-5, atol=1e-9)
    assert torch.allclose(scores.gap, sum(gaps), rtol=1e-5, atol=1e-9)
    assert (scores.completeness > 1e-6).all()


def test_the_order_of_the_examples_does_not_matter() -> None:
    lm = tiny_lm(dtype=torch.float64)
    backwards = attribute(lm, EXAMPLES[::-1]).values
    assert torch.allclose(backwards, attribute(lm).values, rtol=1e-12, atol=1e-18)


def test_tokens_that_the_model_holds_for_impossible_score_nothing() -> None:
    """Their probability is zero in float32, its logarithm is not: no reason to distrust the model."""
    lm = tiny_lm()
    lm.model.lm_head.weight.data *= 300
    assert attribute(lm).values.abs().max() < 1e-12


def test_the_locator_is_attribution_and_threshold() -> None:
    lm, scores = tiny_lm(), attribute(tiny_lm(), steps=5)
    for sigma, dispersion in ((2.0, "std"), (1.0, "variance")):
        mask = LOCATORS["cnl"].locate(
            lm, EXAMPLES, sigma=sigma, dispersion=dispersion, steps=5, progress=False
        )
        assert isinstance(mask, caploc.NeuronMask) and mask.count > 0
        assert torch.equal(mask.values, scores.mask(sigma, dispersion).values)
        assert torch.equal(LOCATORS["cnl"](lm, EXAMPLES, sigma, dispersion, steps=5).values, mask.values)
    assert mask.parameter_share(lm) == mask.count * 3 * WIDTH / lm.num_parameters
    assert LOCATORS["cnl"].key == "cnl" and "section 5.1" in LOCATORS["cnl"].source
