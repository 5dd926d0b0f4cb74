"""``caploc.attribute``: errors and their order, out of memory, and a model that is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from caploc import Example
from caploc.attribution import engine
from caploc.errors import ExampleError, ModelError, OptionError, TooLongError, against_nan
from caploc.model.loading import LanguageModel
from caploc.rows.model import RowModel
from caploc.tests.attribution.families import CONTEXT
from caploc.tests.attribution.test_attribute import EXAMPLES, attribute
from caploc.tests.tiny import tiny_lm


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
    with RowModel(lm.model, lm.architecture):
        pass  # the model was sound, its self-check passed
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
        ModelError, match=r"^example 'eggs': scores of tiny-llama are not finite; check the model's weights$"
    ):
        attribute(tiny_lm())
    assert against_nan(torch.bfloat16) == "try dtype float32"  # float32 may have been the dtype already


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
