"""Scaled attention equals explicit attention weights, multiplied one by one after the softmax, in every family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface
from transformers.models.gptj.modeling_gptj import GPTJAttention

from caploc.errors import CaplocError, ModelError, OptionError
from caploc.examples import TokenizedExample
from caploc.interventions.attention import Attended, AttentionScaling, Queries, Way
from caploc.locators.magnitude import Magnitude
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.model import RowModel
from caploc.tests.attribution.families import CONFIGS, in_float64
from caploc.tests.attribution.test_exactness import random_example, relative_error, small_model
from caploc.tests.tiny import NEURONS

HEADS, KEY_HEADS, LAYERS, WINDOW, PROMPT, ANSWER = 4, 2, 3, 5, 8, 3
BOUND = 1e-12
UNGROUPED = {"gpt2", "gptj", "gpt_neox", "opt", "falcon"}


def key_heads_of(family: str, key_heads: int = KEY_HEADS, heads: int = HEADS) -> int:
    return heads if family in UNGROUPED else key_heads


class Explicit:
    """Attention whose weights can be seen, multiplied by ``scale [layers, heads, queries, columns]``."""

    def __init__(self, scale: Tensor, way: Way) -> None:
        self.scale, self.way, self.seen = scale, way, dict[int, Tensor]()

    def weigh(self, layer: int, scores: Tensor) -> Tensor:
        weights = scores.softmax(-1) * self.scale[layer]
        self.seen[layer] = weights[0]
        return weights / weights.sum(-1, keepdim=True) if self.way == "renormalized" else weights

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None,
        softcap: float | None = None, sliding_window: int | None = None, **rest: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
        apart = torch.arange(scores.shape[2])[:, None] - torch.arange(scores.shape[3])
        hidden = (apart < 0) | (apart >= (sliding_window or len(apart) + 1))
        weights = self.weigh(module.layer_idx, scores.masked_fill(hidden, -torch.inf))
        return (weights @ value).transpose(1, 2).contiguous(), weights

    def of_gptj(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any = None
    ) -> tuple[Tensor, Tensor]:
        scores = query.double() @ key.double().transpose(2, 3) / query.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        weights = self.weigh(module.layer_idx, scores.masked_fill(hidden, -torch.inf)).to(value.dtype)
        return weights @ value, weights

    def of_falcon(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, dropout_p: float, is_causal: bool
    ) -> Tensor:
        """In place of torch's own function, which is told no layer: they come in order."""
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        weights: Tensor = self.weigh(len(self.seen), scores.masked_fill(hidden, -torch.inf))
        return weights @ value


@contextmanager
def explicit(lm: LanguageModel, scale: Tensor, way: Way) -> Iterator[Explicit]:
    attention, own = Explicit(scale, way), GPTJAttention._attn
    before, plain = lm.model.config._attn_implementation, torch.nn.functional.scaled_dot_product_attention
    if lm.architecture.family == "gptj":

        def attend(module: GPTJAttention, *args: Any) -> tuple[Tensor, Tensor]:
            return attention.of_gptj(module, *args)

        GPTJAttention._attn = attend  # type: ignore[method-assign]
    elif lm.architecture.family == "falcon":
        torch.nn.functional.scaled_dot_product_attention = attention.of_falcon
    else:
        AttentionInterface.register("explicit", attention)
        lm.model.set_attn_implementation("explicit")
    try:
        yield attention
    finally:
        GPTJAttention._attn = own  # type: ignore[method-assign]
        torch.nn.functional.scaled_dot_product_attention = plain
        lm.model.set_attn_implementation(before)


def direct(
    lm: LanguageModel, example: TokenizedExample, cells: Tensor, factor: float, way: Way, queries: Queries
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """``[Y]`` log P of the answer's tokens, ``[layers, neurons]`` at the prompt's last token, and the weights: one run
    of the whole sequence with explicit attention, the oracle."""
    tokens, first = len(example.input_ids) - 1, example.answer_start - 1 if queries == "answer" else 0
    scale = torch.ones(lm.num_layers, HEADS, tokens, tokens, dtype=torch.float64)
    chosen = torch.where(cells, torch.tensor(factor, dtype=torch.float64), 1.0)
    grouped = chosen.repeat_interleave(HEADS // cells.shape[1], 1)
    scale[:, :, first:, : example.answer_start] = grouped[:, :, None]
    activations: list[Tensor] = []
    hooks = [
        lm.architecture.mlp_out_of(layer).register_forward_pre_hook(
            lambda _, args: activations.append(args[0].reshape(tokens, -1)[example.answer_start - 1])
        )
        for layer in lm.layers
    ]
    with explicit(lm, scale, way) as attention, torch.no_grad():
        logits = lm.model(input_ids=example.input_ids[None, :-1], use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    logs = logits[example.answer_start - 1 :].double().log_softmax(-1)
    return logs.gather(1, example.answer_ids[:, None])[:, 0], torch.stack(activations), attention.seen


def scaled(
    lm: LanguageModel, example: TokenizedExample, *args: Any, chunk: int | None = None, **more: Any
) -> Attended:
    with AttentionScaling(lm, chunk) as attention:
        return attention.log_probs(example, *args, **more)


def random_cells(sets: int, layers: int, key_heads: int, columns: int = PROMPT, seed: int = 0) -> Tensor:
    """The last column is in none: once renormalized, a query must be left something to see."""
    cells = torch.rand(sets, layers, key_heads, columns, generator=torch.Generator().manual_seed(seed)) < 0.4
    cells[..., -1] = False
    return cells


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize(
    ("way", "queries"), list(product(["post-softmax", "renormalized"], ["answer", "all"]))
)
def test_equals_explicit_weights(family: str, way: Way, queries: Queries) -> None:
    """The prompt is longer than the sliding window, key heads are grouped, the answer has three tokens."""
    lm, example = (
        small_model(family, torch.float64, (LAYERS, HEADS, KEY_HEADS, WINDOW)),
        random_example(PROMPT, ANSWER),
    )
    cells = random_cells(4, LAYERS, key_heads_of(family))
    if queries == "all" and way == "renormalized":
        cells[..., 0] = False  # the first token sees nothing else
        cells &= torch.arange(PROMPT) % 2 == 1  # nor may a window be emptied
    factors = [0.0, 0.3, 2.0, 5.0]
    with in_float64():
        found = scaled(lm, example, cells, factors, way, queries)
        rows = [direct(lm, example, cells[row], one, way, queries) for row, one in enumerate(factors)]
        nothing, untouched, _ = direct(lm, example, torch.zeros_like(cells[0]), 1.0, way, queries)
    for row, (logs, activations, _) in enumerate(rows):
        assert (found.log_probs[row] - logs).abs().max() <= BOUND
        assert relative_error(found.activations[row], activations) <= BOUND
    assert (found.clean - nothing).abs().max() <= BOUND and found.rounding <= BOUND
    assert relative_error(found.clean_activations, untouched) <= BOUND
    assert (found.log_probs - found.clean).abs().amax(1).min() > 1e-4, "every set does something"


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_weights_and_lengths_are_those_of_explicit_attention(family: str) -> None:
    lm = small_model(family, torch.float64, (LAYERS, HEADS, KEY_HEADS, WINDOW))
    example = random_example(
        2 * PROMPT, 2
    )  # more tokens than a head has dimensions: several rows of unit vectors
    key_heads = key_heads_of(family)
    nowhere = torch.zeros(LAYERS, key_heads, 2 * PROMPT, dtype=torch.bool)
    with in_float64(), AttentionScaling(lm) as attention:
        found = attention.look(example)
        _, _, seen = direct(lm, example, nowhere, 1.0, "post-softmax", "answer")
    for layer in range(LAYERS):
        expected = seen[layer][:, : 2 * PROMPT, : 2 * PROMPT]
        assert (found.weights[layer] - expected).abs().max() <= BOUND
    assert (found.weights.sum(-1) - 1).abs().max() <= BOUND
    assert (
        found.of_key_heads(found.weights[:, :, -1]).shape
        == found.lengths.shape
        == (LAYERS, key_heads, 2 * PROMPT)
    )
    # cutting one cell of the lowest layer changes what the attention adds there by the cell's length
    added: list[Tensor] = []
    lowest = lm.layers[0].get_submodule(lm.architecture.attention_out)
    hook = lowest.register_forward_hook(lambda _, args, output: added.append(output[0, 2 * PROMPT - 1]))
    for cut in ([], [(0, 1, 12)]):
        cells = torch.zeros(LAYERS, key_heads, 2 * PROMPT, dtype=torch.bool)
        for cell in cut:
            cells[cell] = True
        with in_float64():
            direct(lm, example, cells, 0.0, "post-softmax", "answer")
    hook.remove()
    assert abs((added[1] - added[0]).norm() - found.lengths[0, 1, 12]) <= BOUND
    assert found.lengths[0, 1, 12] > (
        0.001 if family not in {"mistral", "phi3"} else -1
    )  # all their layers slide


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    layers=st.integers(1, 3),
    key_heads=st.sampled_from([1, 2, 4]),
    window=st.integers(2, 12),
    prompt=st.integers(2, 12),
    answer=st.integers(1, 4),
    factor=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    way=st.sampled_from(["post-softmax", "renormalized"]),
    queries=st.sampled_from(["answer", "all"]),
    chunk=st.integers(1, 200),
)
def test_equals_explicit_weights_whatever_the_shape(
    family: str, layers: int, key_heads: int, window: int, prompt: int, answer: int, factor: float, way: Way,
    queries: Queries, chunk: int,
) -> None:  # fmt: skip
    lm = small_model(family, torch.float64, (layers, HEADS, key_heads, window))
    example = random_example(prompt, answer, seed=prompt)
    cells = random_cells(3, layers, key_heads_of(family, key_heads), prompt, seed=layers)
    if way == "renormalized":
        cells &= torch.arange(prompt) % 2 == 1
    with in_float64():
        found = scaled(lm, example, cells, factor, way, queries, chunk=chunk)
        rows = [direct(lm, example, cells[row], factor, way, queries)[0] for row in range(3)]
    assert (found.log_probs - torch.stack(rows)).abs().max() <= BOUND


@pytest.mark.parametrize("family", ["llama", "opt", "gptj"])
def test_held_neurons_keep_their_clean_activations(family: str) -> None:
    lm, example = small_model(family, torch.float64), random_example(PROMPT, ANSWER)
    cells = random_cells(2, LAYERS, key_heads_of(family))
    held = torch.rand(2, LAYERS, NEURONS, generator=torch.Generator().manual_seed(1)) < 0.5
    free, kept = scaled(lm, example, cells, 0.0), scaled(lm, example, cells, 0.0, held=held)
    of_clean = kept.clean_activations.expand_as(kept.activations)
    assert torch.equal(kept.activations[held], of_clean[held])
    assert (kept.activations - of_clean)[~held].abs().max() > 1e-3
    assert (free.log_probs - kept.log_probs).abs().max() > 1e-4
    one = scaled(lm, example, cells, 0.0, held=held[:1])
    assert torch.equal(one.log_probs[0], kept.log_probs[0]) and not torch.equal(
        one.log_probs[1], kept.log_probs[1]
    )
    # all neurons of all layers held, and attention of the last layer alone scaled: only that attention acts
    everything = torch.ones(1, LAYERS, NEURONS, dtype=torch.bool)
    assert not torch.equal(scaled(lm, example, cells, 0.0, held=everything).log_probs, kept.log_probs)


def test_the_two_ways_are_two_interventions_and_one_at_factor_1() -> None:
    lm, example = (
        small_model("llama", torch.float64, (1, HEADS, KEY_HEADS, WINDOW)),
        random_example(PROMPT, 1),
    )
    for factor, differ in ((4.0, True), (0.0, True), (1.0, False)):
        post, added = (
            scaled(lm, example, [[(0, 1, 3)]], factor, way).log_probs
            for way in ("post-softmax", "renormalized")
        )
        assert (post - added).abs().max() > 1e-3 if differ else torch.equal(post, added)
    cut = scaled(lm, example, [[(0, 1, 3)]], 0.0).log_probs
    nearly = scaled(lm, example, [[(0, 1, 3)]], 1e-14, "renormalized").log_probs
    assert (scaled(lm, example, [[(0, 1, 3)]], 0.0, "renormalized").log_probs - nearly).abs().max() < 1e-12
    assert (cut - nearly).abs().max() > 1e-3


def test_an_empty_set_and_float32_change_nothing() -> None:
    lm, example = small_model("llama", torch.float32), random_example(PROMPT, ANSWER)
    found = scaled(lm, example, [[], [(0, 0, 1)]], 0.0)
    assert (
        (found.log_probs[0] - found.clean).abs().max() < 1e-5 < (found.log_probs[1] - found.clean).abs().max()
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cells": [[(3, 0, 0)]]}, "cell (3, 0, 0) lies outside llama: layer 3 is not among the 3 from 0 to 2"),
    ({"cells": [[(0, 2, 0)]]}, "key head 2 is not among the 2 from 0 to 1"),
    ({"cells": [[(0, 0, 8)]]}, "column 8 is not among the 8 from 0 to 7"),
    ({"cells": [[(0, 0, -1)]]}, "column -1 is not among the 8"),
    ({"cells": [[(0, 0.5, 1)]]}, "a cell must be three whole numbers (layer, key head, column), got (0, 0.5, 1)"),
    ({"cells": [[(0, True, 1)]]}, "three whole numbers"),
    ({"cells": [[(0, 1)]]}, "three whole numbers"),
    ({"cells": []}, "no sets of cells"),
    ({"cells": torch.ones(1, 3, 2, 8)}, "must be bool of shape (sets, 3, 2, 8)"),
    ({"cells": torch.ones(1, 3, 4, 8, dtype=torch.bool)}, "to fit llama; got bool of (1, 3, 4, 8)"),
    ({"factor": -0.5}, "factor must be a number of at least 0, got -0.5"),
    ({"factor": float("nan")}, "got nan"),
    ({"factor": float("inf")}, "got inf"),
    ({"factor": "2"}, "got '2'"),
    ({"factor": True}, "got True"),
    ({"factor": [1.0, 2.0, None]}, "got None"),
    ({"factor": [1.0, 2.0]}, "1 sets of cells need one factor or 1, got 2"),
    ({"way": "softmax"}, "unknown way 'softmax'; choose one of post-softmax, renormalized"),
    ({"queries": "last"}, "unknown queries 'last'; choose one of answer, all"),
    ({"held": torch.ones(3, 3, NEURONS, dtype=torch.bool)}, "3 masks are held for 1 sets of cells; give one or 1"),
    ({"held": torch.ones(1, 2, NEURONS, dtype=torch.bool)}, "a mask must be bool of shape (3, 20)"),
    (
        {"cells": torch.ones(1, 3, 2, 8, dtype=torch.bool), "factor": 0.0, "way": "renormalized"},
        "factor 0 on every token that key head 0 of layer 0 sees leaves nothing to attend to",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), REFUSED)
def test_bad_input_is_told_in_one_line_and_leaves_the_model(bad: dict[str, Any], message: str) -> None:
    lm, example = small_model("llama", torch.float64), random_example(PROMPT, 1)
    forwards = [layer.forward for layer in lm.layers]
    with pytest.raises(OptionError) as caught:
        scaled(lm, example, **{"cells": [[(0, 0, 1)]], "factor": 0.0, **bad})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert [layer.forward for layer in lm.layers] == forwards
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in lm.layers)


def test_a_model_that_rows_do_not_reproduce_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, example = small_model("llama", torch.float64), random_example(PROMPT, 1)
    own = RowModel._head
    monkeypatch.setattr(RowModel, "_head", lambda self, *args: own(self, *args) * (1.5 if self._rows else 1))
    with pytest.raises(CaplocError, match="does not reproduce this model") as caught:
        scaled(lm, example, [[(0, 0, 1)]], 0.0)
    assert isinstance(caught.value, ModelError)


def test_cells_are_matched_by_length_as_neurons_are_by_magnitude() -> None:
    """`Magnitude.random_like` on lengths: as many in every layer, none of the set's own, near in length."""
    lm, example = small_model("llama", torch.float64), random_example(PROMPT, 1)
    with AttentionScaling(lm) as attention:
        lengths = attention.look(example).lengths
    chosen = torch.zeros_like(lengths, dtype=torch.bool)
    chosen[1, 0, 2] = chosen[2, 1, :2] = True
    drawn = (
        Magnitude(lengths.flatten(1))
        .random_like(NeuronMask(chosen.flatten(1)), 9, seed=3)
        .view(9, *lengths.shape)
    )
    assert torch.equal(drawn.sum((2, 3)), chosen.sum((1, 2)).expand(9, -1)) and not (drawn & chosen).any()
