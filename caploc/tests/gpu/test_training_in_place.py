"""Training all others on a GPU without room for it beside the model: the same numbers, in the bytes reckoned with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig, PreTrainedConfig

from caploc.architectures import ARCHITECTURES
from caploc.errors import ModelError
from caploc.interventions.enhancement import Enhancement, Recipe, in_place
from caploc.interventions.enhancement.in_place import RowsInPlace, TrainingBytes, needs_to_be_in_place
from caploc.interventions.enhancement.training import Trainer, enhance
from caploc.model.loading import LanguageModel, wrap
from caploc.model.registry import REGISTRY
from caploc.neurons import NeuronMask
from caploc.rows.sizing import Budget
from caploc.tests.attribution.families import config_of, in_float64, make_model
from caploc.tests.gpu.simulated import SimulatedGpus
from caploc.tests.interventions.enhancing import random_examples, recipe_of
from caploc.tests.tiny import tokenizer

EXAMPLES, HELD_OUT = random_examples(1, 7), random_examples(2, 3)
RECIPE = recipe_of(lr=1e-2, epochs=2, keep=(1, 2))


def lm_of(family: str, dtype: torch.dtype) -> LanguageModel:
    return wrap(family, make_model(config_of(family, 3, 4, 2, 5), dtype, 0), tokenizer())


def sets(lm: LanguageModel, *shares: float) -> tuple[NeuronMask, NeuronMask]:
    """All but the located neurons, of which layers have these shares, and the located ones."""
    located = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    for layer, share in enumerate(shares):
        located[layer, : round(share * lm.num_neurons)] = True
    return NeuronMask(~located), NeuronMask(located)


@contextmanager
def gpus_without_room(lm: LanguageModel, devices: int = 1) -> Iterator[SimulatedGpus]:
    """So small that a training beside the model would not fit, though all else does; pieces of a row or two."""
    with SimulatedGpus(devices) as gpus, pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_place, "PASSES_SHARE", 1.0)
        patch.setattr(in_place, "PIECE_BYTES", 300)
        lm.move("cuda" if devices == 1 else "cuda:0,1")
        yield gpus


def trained(lm: LanguageModel, *shares: float) -> Enhancement:
    others, located = sets(lm, *shares)
    return enhance(lm, others, EXAMPLES, RECIPE, held_out=HELD_OUT, zeroed=located)


def numbers(found: Enhancement) -> list[np.ndarray]:
    kept = [found.at[epoch].layers for epoch in RECIPE.keep]
    changes = [rows.changes[path] for layers in kept for rows in layers.values() for path in rows.changes]
    return [found.losses, np.array(list(found.held_out.values())), *[one.double().numpy() for one in changes]]


def bits(lm: LanguageModel) -> list[bytes]:
    return [one.detach().cpu().view(torch.uint8).numpy().tobytes() for one in lm.model.parameters()]


# gated; biases; one matrix for gate and up; batch and tokens as one dimension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gptj", "phi3", "opt"])
def test_in_place_is_beside_the_model_to_the_bit(family: str, dtype: torch.dtype) -> None:
    lm = lm_of(family, dtype)
    expected = trained(lm, 0.2, 0.0, 0.5)
    own, known = bits(lm), lm.fingerprint
    for devices in (1, 2):
        with gpus_without_room(lm, devices):
            assert needs_to_be_in_place(lm, sets(lm, 0.2)[0], RECIPE, None)
            found = trained(lm, 0.2, 0.0, 0.5)
            assert lm.__dict__["fingerprint"] == known
            lm.move("cpu")
        assert all(map(np.array_equal, numbers(found), numbers(expected)))
        assert float(np.abs(numbers(found)[2]).max()) > 1e-2
        assert found.at[2].zeroed is not None and found.at[2].fingerprint == expected.at[2].fingerprint
        assert bits(lm) == own and not any(one.requires_grad for one in lm.model.parameters() if one.grad)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_few_neurons_and_transposed_matrices_agree_but_for_rounding(family: str) -> None:
    """To 1e-10, of steps of 1e-2."""
    with in_float64():
        lm = lm_of(family, torch.float64)
        expected = trained(lm, 0.9, 0.1, 0.8)
        with gpus_without_room(lm):
            found = trained(lm, 0.9, 0.1, 0.8)
    for one, other in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def test_a_batch_without_room_is_taken_in_parts_and_an_exception_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halved, halve = [], Budget._halve
    monkeypatch.setattr(Budget, "_halve", lambda budget: (halved.append(1), halve(budget)))
    with in_float64():
        lm = lm_of("gptj", torch.float64)
        own = bits(lm)
        expected = trained(lm, 0.2)
        with gpus_without_room(lm) as gpus:
            before = gpus.begin()[lm.device]
            trained(lm, 0.2)
            whole = gpus.peak[lm.device] - before
            assert not halved
            gpus.limit = before + int(0.75 * whole)
            found = trained(lm, 0.2)
            assert halved
            gpus.limit = before + int(0.1 * whole)
            with pytest.raises(ModelError, match=r"fit into the GPU's memory.*asked for"):
                trained(lm, 0.2)
            gpus.limit = None
            assert gpus.live() == before
            lm.move("cpu")
    assert bits(lm) == own
    for one, other in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_an_update_without_room_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of("llama", torch.bfloat16)
    own, updates, update = bits(lm), [], RowsInPlace._update

    def fail(rows: RowsInPlace, part: Any, piece: Any) -> None:
        updates.append(1)
        if len(updates) == 40:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        update(rows, part, piece)

    monkeypatch.setattr(RowsInPlace, "_update", fail)
    with gpus_without_room(lm):
        with pytest.raises(ModelError, match="the state of the optimizer does not fit"):
            trained(lm, 0.2, 0.2, 0.2)
        lm.move("cpu")
    assert bits(lm) == own


WIDE: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4
    ),
    "gptj": GPTJConfig(
        vocab_size=64, n_embd=256, n_inner=1024, n_layer=4, n_head=4, n_positions=64, rotary_dim=16
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", WIDE)
def test_both_ways_take_what_is_reckoned_with(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a twentieth, with examples so short that activations do not count."""
    monkeypatch.setattr(in_place, "PIECE_BYTES", 64 << 10)
    lm = wrap(name, make_model(WIDE[name], dtype, 0), tokenizer())
    others, located = sets(lm, 0.1, 0.1, 0.1, 0.1)
    recipe = recipe_of(epochs=1, keep=(1,), batch_size=1)
    reckoned = TrainingBytes.of(lm, others, recipe, located)
    taken = {}
    with SimulatedGpus() as gpus:
        lm.move("cuda")
        for way, share in (("beside", 0.0), ("in place", 1.0)):
            monkeypatch.setattr(in_place, "PASSES_SHARE", share)
            before = gpus.begin()[lm.device]
            enhance(lm, others, EXAMPLES[:3], recipe, zeroed=located)
            taken[way] = gpus.peak[lm.device] - before
    assert taken["beside"] == pytest.approx(reckoned.beside, rel=0.05)
    assert taken["in place"] == pytest.approx(reckoned.in_place, rel=0.05)


def test_the_host_holds_what_is_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of("llama", torch.bfloat16)
    others, located = sets(lm, 0.2, 0.2, 0.2)
    with gpus_without_room(lm):
        with Trainer(lm, others, RECIPE, located) as trainer:
            assert isinstance(trainer.rows, RowsInPlace)
            pieces = [piece for part in trainer.rows._all() for piece in part.pieces]
            held = sum(one.nbytes for piece in pieces for one in (piece.own, *piece.state))
            kept = sum(
                change.nbytes
                for rows in trainer.rows.difference("", None).layers.values()
                for change in rows.changes.values()
            )
        needed = TrainingBytes.of(lm, others, RECIPE, located)
        assert held + kept * len(RECIPE.keep) == needed.host
        monkeypatch.setattr(in_place, "_host_bytes", lambda: needed.host - 1)
        with pytest.raises(
            ModelError, match=r"^training 48 neurons takes .* GB of the host's memory, which has"
        ):
            enhance(lm, others, EXAMPLES, RECIPE, zeroed=located)


def test_a_training_that_fits_beside_the_model_is_done_so() -> None:
    lm = lm_of("llama", torch.float32)
    others, located = sets(lm, 0.2, 0.2, 0.2)
    needed = TrainingBytes.of(lm, others, RECIPE, located).beside
    weights = lm.num_parameters * 4
    assert not needs_to_be_in_place(lm, others, RECIPE, located)  # on a CPU, whatever it takes
    for memory, expected in ((weights + needed * 8 // 7 + 8, False), (weights + needed * 8 // 7 - 8, True)):
        with SimulatedGpus() as gpus:
            lm.move("cuda")
            gpus.memory = memory
            assert needs_to_be_in_place(lm, others, RECIPE, located) is expected
            lm.move("cpu")


def on_meta(name: str) -> LanguageModel:
    """A model of the paper's by its shapes alone."""
    entry = REGISTRY[name]
    width = {"llama2-7b": 4096, "llama2-13b": 5120, "gptj-6b": 4096}[name]
    if entry.family == "gptj":
        config: PreTrainedConfig = GPTJConfig()  # its defaults are those of the model
    else:
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=entry.neurons,
            num_hidden_layers=entry.layers,
            num_attention_heads=width // 128,
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return LanguageModel(name, model, tokenizer(), ARCHITECTURES[entry.family])


@pytest.mark.parametrize(
    ("name", "beside", "in_place"),
    [("llama2-7b", 79, 18), ("llama2-13b", 154, 35), ("gptj-6b", 69, 16)],
)
def test_the_papers_models_fit_a_gpu_of_80_gb(name: str, beside: int, in_place: int) -> None:
    """All but a located neuron a layer; what a plan asks for is what training in place is reckoned to take."""
    lm, entry = on_meta(name), REGISTRY[name]
    located = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    located[:, 0] = True
    needed = TrainingBytes.of(lm, NeuronMask(~located), Recipe(), NeuronMask(located))
    assert math.ceil(needed.beside / 1e9) == beside and math.ceil(needed.in_place / 1e9) == in_place
    trained = entry.min_gb("training")
    assert trained == pytest.approx(entry.min_gb("attribution") + needed.in_place / 1e9, abs=1.2)
    assert trained <= 80 < beside + 2 * entry.params_b


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if not entry.embedded])
def test_the_registry_knows_how_many_rows_a_neuron_has(name: str) -> None:
    """Of gate and up, or one; biases are next to nothing."""
    entry = REGISTRY[name]
    lm = lm_of(entry.family, torch.float32)
    width = lm.model.get_input_embeddings().weight.shape[1]
    assert entry.shape is not None
    assert lm.parameters_per_neuron // width == (3 if entry.shape.gated else 2)
    assert (lm.config._attn_implementation != "sdpa") == entry.shape.in_steps
