"""``caploc.attribute`` from examples to scores, its errors and their order, and the public names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import caploc
from caploc import Example
from caploc.attribution import engine
from caploc.attribution.quadrature import fixed_rule
from caploc.attribution.reference import reference_scores
from caploc.errors import ExampleError, ModelError, OptionError, TooLongError
from caploc.examples import TokenizedExample
from caploc.locators import LOCATORS
from caploc.models import LanguageModel
from caploc.tests.attribution.families import CONTEXT
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


# ------------------------------------------------------------------------------------------------ the result


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


# ------------------------------------------------------------------------------------------------ errors


@pytest.fixture
def untouchable(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A model that must not be run, nor be made ready to run."""

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the model was touched")

    lm = tiny_lm()
    monkeypatch.setattr(engine.Attributor, "__init__", touched)
    monkeypatch.setattr(engine, "run_clean", touched)
    monkeypatch.setattr(lm.model, "forward", touched)
    return lm


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (Example("q7", "how many?", ""), ExampleError, "the answer is empty"),
        (Example("q7", " ", " 12"), ExampleError, "the prompt is empty"),
        (Example("q7", "ab " * CONTEXT, " 12"), TooLongError, f"the context of tiny-llama holds {CONTEXT}"),
    ],
)
def test_a_bad_example_is_named_before_the_model_is_touched(
    untouchable: LanguageModel, place: int, bad: Example, kind: type[Exception], reason: str
) -> None:
    examples = [*EXAMPLES[:place], bad, *EXAMPLES[place:]]
    with pytest.raises(kind) as caught:
        attribute(untouchable, examples)
    assert str(caught.value).startswith("example 'q7': ") and reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"quadrature": "simpson"}, "unknown quadrature 'simpson'; choose one of paper, "),
        ({"answer_tokens": 0}, "answer_tokens must be at least 1, got 0"),
        ({"chunk_tokens": 0}, "chunk_tokens must be at least 1, got 0"),
    ],
)
def test_a_bad_option_is_named_before_the_model_is_touched(
    untouchable: LanguageModel, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError) as caught:
        attribute(untouchable, **options)
    assert str(caught.value).startswith(reason)


def test_no_examples(untouchable: LanguageModel) -> None:
    with pytest.raises(OptionError, match=r"^no examples to attribute; pass at least one$"):
        attribute(untouchable, [])


def test_a_model_that_gives_nan_gives_no_scores() -> None:
    lm = tiny_lm()
    lm.model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(
        ModelError, match=r"^example 'eggs': the model gives probabilities that are not numbers"
    ):
        attribute(lm)


def test_a_gradient_of_nan_gives_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.integrate_fixed

    def spoiled(*args: Any) -> Any:
        integral = original(*args)
        integral.gradients[0, 0, 0] = float("nan")
        return integral

    monkeypatch.setattr(engine, "integrate_fixed", spoiled)
    with pytest.raises(
        ModelError, match=r"^example 'eggs': scores of tiny-llama are not finite; try dtype float32$"
    ):
        attribute(tiny_lm())


def state(lm: LanguageModel) -> dict[str, Any]:
    return {
        "weights": {name: weight.clone() for name, weight in lm.model.state_dict().items()},
        "flags": [parameter.requires_grad for parameter in lm.model.parameters()],
        "gradients": [parameter.grad for parameter in lm.model.parameters()],
        "training": [module.training for module in lm.model.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
            for module in lm.model.modules()
        ],
        "head": id(lm.model.get_output_embeddings()),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(
    dtype: torch.dtype, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(dtype=dtype)
    lm.model.train()
    lm.model.model.layers[0].eval()
    lm.model.model.embed_tokens.weight.requires_grad_(False)
    before, random = state(lm), torch.get_rng_state()
    if fails:
        monkeypatch.setattr(engine, "integrate_fixed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attribute(lm)
    else:
        attribute(lm)
    after = state(lm)
    for name, weight in before.pop("weights").items():
        assert torch.equal(after["weights"][name], weight)
    del after["weights"]
    assert after == before
    assert torch.equal(torch.get_rng_state(), random)


# ------------------------------------------------------------------------------------------------ memory


def failing(original: Callable[..., Any], times: int, chunks: list[int]) -> Callable[..., Any]:
    """``original``, which runs out of memory the first ``times`` times; notes the chunk it was given."""

    def run(*args: Any) -> Any:
        chunks.append(args[-1])
        if len(chunks) <= times:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return original(*args)

    return run


@pytest.mark.parametrize(
    ("rule", "function"), [("paper", "integrate_fixed"), ("adaptive", "integrate_adaptive")]
)
def test_out_of_memory_halves_the_chunk_and_goes_on(
    rule: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(dtype=torch.float64)
    chunks: list[int] = []
    expected = attribute(lm, quadrature=rule).values
    monkeypatch.setattr(engine, function, failing(getattr(engine, function), 1, chunks))
    values = attribute(lm, quadrature=rule, chunk_tokens=64).values
    assert chunks == [64, 32, 32, 32]  # the smaller chunk is kept for the examples that follow
    assert (values - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_out_of_memory_even_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[int] = []
    monkeypatch.setattr(engine, "integrate_fixed", failing(engine.integrate_fixed, 100, chunks))
    with pytest.raises(
        ModelError, match=r"^example 'eggs' does not fit into the GPU's memory even row by row; use a"
    ):
        attribute(tiny_lm(), chunk_tokens=10)
    assert chunks == [10, 5, 2, 1]


# ------------------------------------------------------------------------------------------------ the public names


def test_importing_caploc_imports_nothing_heavy() -> None:
    code = "import caploc, sys; dir(caploc); print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_names_resolve() -> None:
    assert caploc.__all__ == sorted(caploc.__all__, key=lambda name: (not name.isupper(), name))
    for name in caploc.__all__:
        assert getattr(caploc, name) is not None and name in dir(caploc)
    assert set(caploc.__all__) == set(caploc._HOMES)
    with pytest.raises(AttributeError, match="module 'caploc' has no attribute 'nonsense'"):
        caploc.nonsense  # noqa: B018
