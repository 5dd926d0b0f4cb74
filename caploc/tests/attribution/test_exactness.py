"""The packed engine equals the slow oracle, for every family, and captum, for two of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.architectures import ARCHITECTURES, architecture_of
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.integrate import MOST_COLUMNS
from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel, wrap
from caploc.rows.model import RowModel
from caploc.tests.attribution.families import (
    CONFIGS,
    FURTHER,
    VOCABULARY,
    config_of,
    gpt_neo_config,
    in_float64,
    make_model,
)
from caploc.tests.oracles.attribution import captum_scores, reference_scores

FLOAT32 = {"minicpm3": 1e-5}
"""Its embeddings and its norms of few latent dimensions steepen what float32 rounds; float64 shows that this is all."""


def small_model(
    family: str, dtype: torch.dtype, shape: tuple[int, int, int, int] = (3, 4, 2, 5)
) -> LanguageModel:
    return wrap(family, make_model(config_of(family, *shape), dtype), tokenizer=None)  # type: ignore[arg-type]


def random_example(prompt: int, answer: int, seed: int = 0) -> TokenizedExample:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (prompt + answer,), generator=generator)
    return TokenizedExample(ids, prompt, "random")


def packed(lm: LanguageModel, example: TokenizedExample, method: Method) -> torch.Tensor:
    with Attributor(lm, method) as attributor:
        return torch.from_numpy(attributor.sums([example]).total)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_every_family_of_the_table_is_tested() -> None:
    assert {*CONFIGS, *FURTHER} == set(ARCHITECTURES) and not {*CONFIGS} & {*FURTHER}


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_equals_the_oracle(family: str, dtype: torch.dtype) -> None:
    """The answer is longer than the sliding window, key heads are grouped, chunks cut layers in two."""
    lm, example, method = small_model(family, dtype), random_example(11, 9), Method(steps=5, chunk_tokens=30)
    with in_float64():
        error = relative_error(packed(lm, example, method), reference_scores(lm, example, method))
    assert error <= (FLOAT32.get(family, 2e-6) if dtype == torch.float32 else 1e-12)


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(sorted(ARCHITECTURES)),
    layers=st.integers(1, 4),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4)]),
    window=st.integers(2, 12),
    prompt=st.integers(1, 14),
    answer=st.integers(1, 8),
    steps=st.integers(1, 6),
    quadrature=st.sampled_from(["paper", "trapezoid", "gauss-legendre"]),
    chunk=st.integers(1, 200),
)
def test_equals_the_oracle_whatever_the_shape(
    family: str, layers: int, heads: tuple[int, int], window: int, prompt: int, answer: int, steps: int,
    quadrature: str, chunk: int,
) -> None:  # fmt: skip
    lm = small_model(family, torch.float64, (layers, *heads, window))
    example, method = (
        random_example(prompt, answer, seed=prompt),
        Method(steps, quadrature, chunk_tokens=chunk),
    )
    with in_float64():
        error = relative_error(packed(lm, example, method), reference_scores(lm, example, method))
    assert error <= 1e-12


@pytest.mark.parametrize(
    "fields",
    [
        {"new_decoder_architecture": False},
        {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": False, "num_kv_heads": 4},
        {"num_ln_in_parallel_attn": 1},
    ],
    ids=["7b", "1b", "11b"],
)
def test_every_falcon(fields: dict[str, Any]) -> None:
    """Its layers come in three kinds, of which the table's test has the 40B's."""
    config = config_of("falcon", 3, 4, 2, 5)
    config.update(fields)
    lm = wrap("falcon", make_model(config, torch.float64), tokenizer=None)  # type: ignore[arg-type]
    example, method = random_example(11, 9), Method(steps=5, chunk_tokens=30)
    assert relative_error(packed(lm, example, method), reference_scores(lm, example, method)) <= 1e-12


def test_positions_by_alibi_are_refused() -> None:
    config = config_of("falcon", 2, 4, 2, 5)
    config.alibi = True
    lm = wrap("falcon", make_model(config, torch.float64), tokenizer=None)  # type: ignore[arg-type]
    with pytest.raises(
        ModelError, match=r"^this falcon model's positions are by ALiBi \(alibi in config.json\)"
    ):
        packed(lm, random_example(5, 3), Method(steps=2))


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
def test_does_not_depend_on_the_chunk_size(family: str) -> None:
    lm, example = small_model(family, torch.float64), random_example(7, 6)
    whole = packed(lm, example, Method(chunk_tokens=100_000))
    for chunk in (1, 6, 7, 40):
        assert relative_error(packed(lm, example, Method(chunk_tokens=chunk)), whole) <= 1e-13


def test_an_answer_wider_than_a_pass() -> None:
    """Answers longer than MOST_COLUMNS are attributed block by block."""
    lm, example, method = (
        small_model("qwen3", torch.float64),
        random_example(9, MOST_COLUMNS + 7),
        Method(steps=2),
    )
    assert relative_error(packed(lm, example, method), reference_scores(lm, example, method)) <= 1e-12


@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_equals_captum(family: str, value: str) -> None:
    """captum's right Riemann sum with n = 19 has the points 1/19..1; the term at 0 is added by hand (eq. 7)."""
    pytest.importorskip("captum", reason="captum is not installed (extra: test)")
    lm, example = small_model(family, torch.float64), random_example(6, 3)
    layers, total = lm.layers, None
    for m in range(example.num_answer_tokens):
        sequence = example.input_ids[: example.answer_start + m]
        target = int(example.input_ids[example.answer_start + m])
        rows = []
        for layer in layers:
            architecture = lm.architecture
            module = (architecture.mlp_out_of if value == "post" else architecture.activation_of)(layer)
            rows.append(captum_scores(lm, module, sequence, target))
        total = torch.stack(rows) if total is None else total + torch.stack(rows)
    assert total is not None
    assert (
        relative_error(packed(lm, example, Method(value=value)), total / example.num_answer_tokens) <= 1e-12
    )


def test_refuses_a_model_it_cannot_reproduce(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-Neo is not in the table; forced through, the self-checks must catch it and not return numbers: the one on
    entering, and were it blind, that of every example."""
    with pytest.raises(ModelError, match=r"gpt_neo.*refused"):
        architecture_of("gpt_neo")
    with pytest.raises(ModelError, match=r"'bloom' is not supported.*architectures\.py"):
        architecture_of("bloom")
    model = make_model(gpt_neo_config(), torch.float64)
    neo = type(architecture_of("gpt2"))(
        "gpt_neo", "transformer.h", ("mlp.c_fc",), "mlp.act", "mlp.c_proj", "attn.attention.out_proj"
    )
    lm = wrap("neo", model, None, neo)  # type: ignore[arg-type]
    for example in ("probe", "random"):
        with pytest.raises(ModelError, match=f"does not reproduce this model: at example '{example}'"):
            packed(lm, random_example(12, 6), Method(steps=2))
        monkeypatch.setattr(RowModel, "_show", lambda self: None)


@pytest.mark.parametrize("family", ["llama", "opt", "gptj"])
def test_leaves_the_model_as_it_was(family: str) -> None:
    lm = small_model(family, torch.float32)
    lm.model.train()
    flags = {name: index % 3 == 0 for index, (name, _) in enumerate(lm.model.named_parameters())}
    for name, parameter in lm.model.named_parameters():
        parameter.requires_grad_(flags[name])
    weights = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    forwards = [layer.forward for layer in lm.layers]

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("stopped halfway")

    with pytest.raises(RuntimeError, match="halfway"), Attributor(lm, Method()) as attributor:
        attributor.sums([random_example(5, 3)])
        lm.model.get_output_embeddings().register_forward_pre_hook(broken)
        attributor.sums([random_example(5, 3)])
    assert lm.model.training and all(module.training for module in lm.model.modules())
    assert {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()} == flags
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, weights[name]) and parameter.grad is None
    assert [layer.forward for layer in lm.layers] == forwards
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in lm.layers)
    assert not any(lm.architecture.mlp_out_of(layer)._forward_hooks for layer in lm.layers)


def test_bfloat16_is_close_to_float32() -> None:
    """The GPU's dtype, with its float32 head, on the CPU: rounding only."""
    example = random_example(11, 6)
    wide = packed(small_model("llama", torch.float32), example, Method())
    lm = small_model("llama", torch.bfloat16)
    head = lm.model.get_output_embeddings()
    narrow = packed(lm, example, Method())
    assert lm.model.get_output_embeddings() is head
    assert relative_error(narrow, wide) < 0.1
    assert torch.corrcoef(torch.stack([narrow.ravel(), wide.ravel()]))[0, 1] > 0.995


def test_works_where_gradients_are_switched_off() -> None:
    lm, example = small_model("llama", torch.float64), random_example(5, 3)
    with torch.no_grad():
        off = packed(lm, example, Method(steps=3))
    assert torch.equal(off, packed(lm, example, Method(steps=3)))


def test_a_layer_that_was_wrapped_before_stays_wrapped() -> None:
    """accelerate and others put a forward of their own on a layer."""
    lm, example = small_model("llama", torch.float64), random_example(5, 3)
    plain = packed(lm, example, Method(steps=3))
    layer = lm.layers[1]
    inner, calls = layer.forward, []

    def wrapped(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return inner(*args, **kwargs)

    layer.forward = wrapped
    assert torch.equal(packed(lm, example, Method(steps=3)), plain) and calls
    assert layer.forward is wrapped
