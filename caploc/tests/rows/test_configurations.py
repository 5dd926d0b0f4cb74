"""Whatever a configuration makes of positions and masks: a model is refused, or all that is measured is what its own
forward pass gives, of each text alone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig

from caploc.architectures import ARCHITECTURES
from caploc.errors import ModelError
from caploc.evaluation import evaluate, prepare, text_loss
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.model.loading import LanguageModel, wrap
from caploc.rows.model import RowModel
from caploc.tests.attribution.families import CONFIGS, in_float64, make_model
from caploc.tests.attribution.test_exactness import random_example, relative_error
from caploc.tests.evaluation.cases import sets
from caploc.tests.oracles.evaluation import evaluate_slowly, without
from caploc.tests.rows.test_descriptions import METHODS, direct_runs
from caploc.tests.tiny import tokenizer

HEAD = 8  # size of a head, families.py
BOUND = 1e-12
Draw = st.DrawFn


def rope(draw: Draw, angles: int, context: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Parameters of one of ``kinds`` for ``angles`` angles."""
    kind = draw(st.sampled_from(kinds))
    scaled = {"factor": draw(st.sampled_from([1.0, 2.0, 4.0]))}
    original = {"original_max_position_embeddings": draw(st.integers(4, context))}
    factors = st.lists(st.floats(1, 6), min_size=angles, max_size=angles)
    more: dict[str, dict[str, Any]] = {
        "default": {},
        "linear": scaled,
        "dynamic": scaled,
        "yarn": scaled | original,
        "longrope": {"short_factor": draw(factors), "long_factor": draw(factors)} | scaled | original,
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | scaled | original,
    }
    return {"rope_type": kind, "rope_theta": draw(st.sampled_from([100.0, 10000.0])), **more[kind]}


KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
FLAGS: dict[str, tuple[str, ...]] = {
    "llama": ("attention_bias", "mlp_bias"),
    "qwen3": ("attention_bias",),
    "gemma2": ("attention_bias", "use_bidirectional_attention"),
    "gemma3_text": ("attention_bias", "use_bidirectional_attention"),
    "olmo2": ("attention_bias",),
    "phi": ("qk_layernorm",),
    "gpt2": ("scale_attn_by_inverse_layer_idx", "scale_attn_weights"),
    "gpt_neox": ("use_parallel_residual", "attention_bias"),
    "opt": ("do_layer_norm_before", "_remove_final_layer_norm", "enable_bias", "layer_norm_elementwise_affine"),
}  # fmt: skip


@st.composite
def configurations(draw: Draw) -> tuple[str, PreTrainedConfig]:
    """Of any family: every field that changes what a position or a mask means, as real and odd files set it."""
    family = draw(st.sampled_from(sorted(CONFIGS)))
    layers, (heads, keys) = draw(st.integers(1, 3)), draw(st.sampled_from([(1, 1), (4, 2)]))
    base = CONFIGS[family](layers, heads, keys, draw(st.integers(1, 12))).to_dict()
    context = draw(st.integers(8, 40))
    more: dict[str, Any] = {flag: draw(st.booleans()) for flag in FLAGS.get(family, ())}
    more["n_positions" if family in ("gptj", "gpt2") else "max_position_embeddings"] = context
    more["is_causal"] = draw(st.integers(0, 5)) > 0
    more |= {"tie_word_embeddings": draw(st.booleans()), "use_cache": draw(st.booleans())}
    if family in ("phi", "gpt_neox"):
        part = draw(st.sampled_from([0.5, 1.0]))
        parameters = rope(draw, int(HEAD * part) // 2, context, KINDS[:4])
        more["rope_parameters"] = parameters | {"partial_rotary_factor": part}
    elif family == "phi3":
        more["rope_parameters"] = rope(draw, HEAD // 2, context, ("default", "longrope"))
        more["original_max_position_embeddings"] = draw(st.integers(4, context))
    elif family == "gemma3_text":
        kinds = {kind: rope(draw, HEAD // 2, context, KINDS[:3]) for kind in set(base["layer_types"])}
        more["rope_parameters"] = {"full_attention": {}, "sliding_attention": {}} | kinds
    elif family not in ("gptj", "gpt2", "opt"):
        more["rope_parameters"] = rope(draw, HEAD // 2, context, KINDS)
    if family in ("mistral", "phi3") and draw(st.booleans()):
        more["sliding_window"] = None
    if family in ("gemma2", "gemma3_text"):
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            more[cap] = draw(st.sampled_from([None, 2.0]))
    if "layer_types" in base:
        kind = st.sampled_from(["sliding_attention", "full_attention"])
        if family != "gemma3_text":  # whose angles are by kind of layer
            more["layer_types"] = draw(st.lists(kind, min_size=layers, max_size=layers))
    if family == "gptj":
        more["rotary_dim"] = draw(st.sampled_from([2, 4, HEAD]))
    if family == "opt":
        more["word_embed_proj_dim"] = draw(st.sampled_from([HEAD * heads, 12]))
    config = type(CONFIGS[family](1, 1, 1, 2)).from_dict({**base, **more})
    kinds_of_attention = ["eager"] if family in ("gemma2", "gptj") else ["eager", "sdpa"]
    config._attn_implementation = draw(st.sampled_from(kinds_of_attention))
    return family, config


def looks_ahead(config: PreTrainedConfig) -> bool:
    """Gemma 2 keeps its causal masks whatever its own field says."""
    bidirectional = config.model_type == "gemma3_text" and config.use_bidirectional_attention
    return bidirectional or not config.is_causal


def made(drawn: tuple[str, PreTrainedConfig], seed: int) -> LanguageModel | None:
    """A random model, or None if it is refused, as it must be if it looks ahead."""
    family, config = drawn
    model = make_model(config, torch.float64, seed)
    try:
        with RowModel(model, ARCHITECTURES[family]):
            pass
    except ModelError as error:
        assert looks_ahead(config), error
        assert "is_causal, use_bidirectional_attention, rope" in str(error) and "\n" not in str(error)
        return None
    return wrap(family, model, tokenizer())


def alone(lm: LanguageModel, ids: torch.Tensor, model: Any = None) -> torch.Tensor:
    """``[T, vocabulary]`` log-probabilities behind every beginning of ``ids``, each run by itself."""
    runs = [
        (model or lm.model)(input_ids=ids[None, :stop], use_cache=False) for stop in range(1, len(ids) + 1)
    ]
    return torch.stack([run.logits[0, -1] for run in runs]).log_softmax(-1)


@settings(max_examples=50, deadline=None)
@given(
    configurations(),
    st.sampled_from(sorted(METHODS)),
    st.integers(2, 16),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_rows_are_the_model_alone(
    drawn: tuple[str, PreTrainedConfig], method: str, prompt: int, answer: int, seed: int
) -> None:
    with in_float64(), torch.no_grad():
        lm = made(drawn, seed)
        if lm is None:
            return
        answer = min(answer, lm.max_length - 2)
        example = random_example(min(prompt, lm.max_length - answer), answer, seed)
        fed = example.input_ids[:-1]
        direct = direct_runs(lm, fed)
        assert relative_error(direct({}), alone(lm, fed)) <= BOUND
        found, expected = METHODS[method](lm, example, torch.Generator().manual_seed(seed), direct)
    assert relative_error(found, expected) <= BOUND


@pytest.mark.parametrize(("from_length", "refused"), [(40, True), (97, False)])
def test_angles_that_change_with_the_length(from_length: int, refused: bool) -> None:
    """However a family has them change: a text as long as the context, 96 tokens, must not change what is in front."""
    model: Any = make_model(CONFIGS["llama"](2, 4, 2, 5), torch.float64)
    inner = model.model.rotary_emb.forward

    def changing(states: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return inner(states, position_ids * (2 if position_ids.max() >= from_length - 1 else 1))

    model.model.rotary_emb.forward = changing
    with (
        pytest.raises(ModelError, match="does not reproduce") if refused else nullcontext(),
        RowModel(model, ARCHITECTURES["llama"]),
    ):
        pass


def nll(lm: LanguageModel, tokens: TokenizedExample, model: Any) -> float:
    """Nats a token of the answer, each behind a run of what stands before it alone."""
    logs = alone(lm, tokens.input_ids[:-1], model)[tokens.answer_start - 1 :]
    return -float(logs.gather(1, tokens.answer_ids[:, None]).mean())


@settings(max_examples=20, deadline=None)
@given(configurations(), st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(0, 99))
def test_an_item_does_not_depend_on_its_batch(
    drawn: tuple[str, PreTrainedConfig], lengths: list[int], seed: int
) -> None:
    """Texts of any length side by side, with neurons erased, are what each is alone; longer ones are left out."""
    with in_float64(), torch.no_grad():
        lm = made(drawn, seed)
        if lm is None:
            return
        items = [Example(f"e{n}", "abcdefghijkl"[:length], "12") for n, length in enumerate(lengths)]
        items = [Example("short", "a", " 1"), *items, Example("long", "a" * 40, " 1")]
        prepared = prepare(lm, "mine", items, scoring="tokens")
        fitting = [item for item in items if len(item.prompt) + len(item.answer) < lm.max_length]
        assert prepared.ids == [item.id for item in fitting]
        members = sets(lm, seed)[:2]
        found = evaluate(lm, prepared, members).nll
        for one, row in zip(members, found, strict=True):
            model = without(lm, one)
            expected = [nll(lm, tokenize(lm, item), model) for item in fitting]
            np.testing.assert_allclose(row, expected, rtol=BOUND, atol=BOUND)
        lm.model.generation_config.use_cache = False  # type: ignore[union-attr]  # it is wrong at a window of one token
        prepared = prepare(lm, "mine", fitting, scoring="chrf", max_new_tokens=6)
        written, slow = (
            evaluate(lm, prepared, members[:1]).of_set(0),
            evaluate_slowly(lm, prepared, fitting, members[0]),
        )
        for name in ("score", "ended"):
            np.testing.assert_array_equal(getattr(written, name), slow[name], err_msg=name)
        texts = [item.prompt for item in fitting]
        np.testing.assert_allclose(
            text_loss(lm, texts), [text_loss(lm, [text])[0] for text in texts], rtol=BOUND
        )
