"""The rivals' scores equal their formulas, written out with hooks and autograd, one position at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

import caploc
from caploc.errors import OptionError
from caploc.examples import Example, tokenize
from caploc.locators import LOCATORS, compared
from caploc.locators.magnitude import magnitude
from caploc.model.loading import LanguageModel
from caploc.neurons import located
from caploc.tests.tiny import tiny_lm

EXAMPLES = [
    Example("one", "what is two and two", " 4."),
    Example("two", "name a colour:", " red"),
    Example("three", "say it again", " 4."),
]
OTHERS = [Example("other", "the sea is", " blue"), Example("another", "one, two,", " three")]
CLOSE = {"rtol": 1e-5, "atol": 1e-9}  # GPT-J computes attention scores in float32 whatever its dtype
RIVALS = ("gradient-activation", "attribution-patching", "mathneuro", "activation-contrast", "random")


@cache
def model(family: str) -> LanguageModel:
    return tiny_lm(family, torch.float64)


def positions(lm: LanguageModel, example: Example) -> list[tuple[Tensor, Tensor]]:
    """For each answer token a ``[layers, neurons]`` and dP(y_m | z_m)/da, a at the last position of z_m alone."""
    tokens = tokenize(lm, example)
    found = []
    for end in range(tokens.answer_start, len(tokens.input_ids)):
        seen: list[Tensor] = []
        added = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.float64, requires_grad=True)

        def add(
            module: torch.nn.Module,
            inputs: tuple[Tensor, ...],
            seen: list[Tensor] = seen,
            added: Tensor = added,
        ) -> tuple[Tensor]:
            own = inputs[0][0, -1] + added[len(seen)]
            seen.append(own.detach())
            return (torch.cat([inputs[0][:, :-1], own[None, None]], 1),)

        handles = [lm.architecture.mlp_out_of(layer).register_forward_pre_hook(add) for layer in lm.layers]
        logits = lm.model(input_ids=tokens.input_ids[None, :end]).logits[0, -1]
        probability = logits.softmax(-1)[tokens.input_ids[end]]
        (gradient,) = torch.autograd.grad(probability, added)
        for handle in handles:
            handle.remove()
        found.append((torch.stack(seen), gradient))
    return found


def mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).mean(0)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_gradient_times_activation(family: str) -> None:
    lm = model(family)
    expected = mean([mean([a * g for a, g in positions(lm, one)]) for one in EXAMPLES])
    found = LOCATORS["gradient-activation"](lm, EXAMPLES, sigma=1.5)
    torch.testing.assert_close(found.scores, expected, **CLOSE)
    assert found.count and torch.equal(found.values, located(expected, 1.5))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_attribution_patching(family: str) -> None:
    lm = model(family)
    one, two, three = (positions(lm, example) for example in EXAMPLES)
    pairs = (
        (one, two),
        (two, three),
        (three, two),
    )  # the third has the first's answer, so the second is its partner
    expected = mean([mean([(b - a) * g for (a, g), (b, _) in zip(*pair, strict=False)]) for pair in pairs])
    found = LOCATORS["attribution-patching"](lm, EXAMPLES, sigma=1.5)
    torch.testing.assert_close(found.scores, expected, **CLOSE)
    with pytest.raises(OptionError, match="all examples have one answer"):
        LOCATORS["attribution-patching"](lm, EXAMPLES[::2])


def test_mathneuro_leaves_out_what_is_large_elsewhere() -> None:
    lm = model("llama")
    own, other = (magnitude(lm, [tokenize(lm, one) for one in part]).values for part in (EXAMPLES, OTHERS))
    found = LOCATORS["mathneuro"](lm, EXAMPLES, others=OTHERS, top_k=5)
    for layer in range(lm.num_layers):
        top, barred = (set(one[layer].topk(5).indices.tolist()) for one in (own, other))
        assert set(found.values[layer].nonzero().ravel().tolist()) == top - barred
        assert all(found.scores[layer, one] == (0 if one in barred else own[layer, one]) for one in range(20))
    assert 0 < found.count < 5 * lm.num_layers
    assert LOCATORS["mathneuro"](lm, EXAMPLES, others=EXAMPLES).count == 0


def test_activation_contrast() -> None:
    lm = model("llama")
    means = [mean([mean([a for a, _ in positions(lm, one)]) for one in part]) for part in (EXAMPLES, OTHERS)]
    norms = torch.stack([layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in lm.layers])
    found = LOCATORS["activation-contrast"](lm, EXAMPLES, others=OTHERS, sigma=1.5)
    torch.testing.assert_close(found.scores, (means[0] - means[1]) * norms, **CLOSE)


def test_random_is_the_same_twice_and_by_seed() -> None:
    lm = model("llama")
    one, again, other = (LOCATORS["random"](lm, EXAMPLES, top_k=7, seed=seed) for seed in (0, 0, 1))
    assert (
        one.count == 7 and torch.equal(one.values, again.values) and not torch.equal(one.values, other.values)
    )
    assert one.scores[one.values].min() > one.scores[~one.values].max()


def test_bad_options_are_told() -> None:
    lm = model("llama")
    for key in ("mathneuro", "activation-contrast"):
        with pytest.raises(OptionError, match=f"{key} contrasts the examples with those of other tasks"):
            LOCATORS[key](lm, EXAMPLES)
    for key in RIVALS[:-1]:
        with pytest.raises(OptionError, match="no examples"):
            LOCATORS[key](lm, [], **({"others": OTHERS} if "t" in key[-2:] or key == "mathneuro" else {}))
    with pytest.raises(OptionError, match="share must be a fraction"):
        LOCATORS["mathneuro"](lm, EXAMPLES, others=OTHERS, share=0)
    with pytest.raises(OptionError, match="top_k must be a number from 1 to a layer's 20 neurons, got 21"):
        LOCATORS["mathneuro"](lm, EXAMPLES, others=OTHERS, top_k=21)
    with pytest.raises(OptionError, match="top_k must be a number of neurons from 1"):
        LOCATORS["random"](lm, EXAMPLES, top_k=0)


def test_the_audit_compares_with_none_of_them() -> None:
    assert not set(RIVALS) & set(compared()) and set(RIVALS) <= set(LOCATORS)
    assert compared() == ("cnl", "kn", "rome", "kc", "magnitude")


def test_masks_carry_what_they_were_cut_from() -> None:
    lm = model("llama")
    scores = caploc.attribute(lm, EXAMPLES, steps=3, progress=False)
    assert torch.equal(scores.mask(2.0).scores, scores.values)
    mask = LOCATORS["kn"](lm, EXAMPLES, steps=3, progress=False)
    torch.testing.assert_close(mask.scores, scores.values.clamp_min(0), rtol=1e-5, atol=1e-9)
    assert LOCATORS["magnitude"](lm, EXAMPLES).scores is not None
