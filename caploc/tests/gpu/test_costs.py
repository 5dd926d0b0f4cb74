"""What `caploc.costs` reckons, against what simulated GPUs count: within 20 %, on the embedded models and wider."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from caploc import costs
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.packed import PackedModel
from caploc.benchmarks.measuring import executed
from caploc.evaluation import evaluate, prepare
from caploc.examples import Example, TokenizedExample
from caploc.interventions.enhancement import Recipe
from caploc.interventions.enhancement.batches import Batches
from caploc.interventions.enhancement.training import Trainer
from caploc.locators.magnitude import random_sets
from caploc.model.loading import LanguageModel, load_model
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import wide_head
from caploc.rows.clean import run_clean
from caploc.rows.sizing import shape_of
from caploc.tests.gpu.paths import small_lm
from caploc.tests.gpu.simulated import SimulatedGpus
from caploc.tests.gpu.test_memory import wide_lm

WITHIN = 0.2
MODELS: Mapping[str, Callable[[], LanguageModel]] = {
    "tiny-llama": partial(load_model, "tiny-llama"),
    "tiny-gptj": partial(load_model, "tiny-gptj"),
    "wide-llama": partial(wide_lm, "llama"),
    "wide-gptj": partial(wide_lm, "gptj"),
}
DTYPES = [torch.float32, torch.bfloat16]


def close(reckoned: float, counted: float) -> bool:
    return abs(reckoned / counted - 1) < WITHIN


def on_gpu(name: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    lm = MODELS[name]()
    lm.model.to(dtype=dtype)  # type: ignore[call-arg]
    lm.move("cuda")
    return lm


def tokens(lm: LanguageModel, count: int) -> Tensor:
    return torch.randint(3, 40, (count,), generator=torch.Generator().manual_seed(0)).to(lm.device)


@pytest.mark.parametrize(("prompt", "answer", "rows"), [(20, 64, 8), (100, 1, 64)], ids=["long", "short"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_bytes_of_a_packed_pass(name: str, dtype: torch.dtype, prompt: int, answer: int, rows: int) -> None:
    """Where one head's keys serve several queries, the kernel that runs here needs no copies for each of those."""
    with SimulatedGpus() as gpus:
        lm = on_gpu(name, dtype)
        with wide_head(lm.model), PackedModel(lm.model, lm.architecture) as packed:
            clean = run_clean(lm.model, lm.architecture, tokens(lm, prompt + answer), prompt)
            columns = torch.arange(answer, device=lm.device)
            alphas = torch.linspace(0, 0.9, rows, device=lm.device)[:, None].expand(-1, answer)
            before = gpus.begin()[lm.device]
            packed.run(clean, columns, {0: alphas})
        counted = (gpus.peak[lm.device] - before) / (rows * answer)
    served = getattr(lm.config, "num_key_value_heads", None) or lm.config.num_attention_heads
    shape = replace(shape_of(lm), key_heads=served)
    reckoned = costs.token_bytes(shape, dtype.itemsize, columns=answer, context=prompt + answer - 1)
    assert close(reckoned, counted), (reckoned, counted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_kernels_of_passes(name: str, dtype: torch.dtype) -> None:
    with SimulatedGpus() as gpus:
        lm = on_gpu(name, dtype)
        shape, ids = shape_of(lm), tokens(lm, 24)
        before = gpus.launches
        with torch.no_grad():
            lm.model(input_ids=ids[None], use_cache=False)
        assert close(costs.forward_launches(shape), gpus.launches - before)
        with wide_head(lm.model), PackedModel(lm.model, lm.architecture) as packed:
            clean = run_clean(lm.model, lm.architecture, ids, 20)
            columns = torch.arange(4, device=lm.device)
            alphas = torch.linspace(0, 0.9, 3, device=lm.device)[:, None].expand(-1, 4)
            for entries in ([0], [lm.num_layers // 2], range(lm.num_layers)):
                before = gpus.launches
                packed.run(clean, columns, dict.fromkeys(entries, alphas))
                counted = gpus.launches - before
                reckoned = costs.packed_launches(shape, entries[0], len(entries))
                assert close(reckoned, counted), (entries, reckoned, counted)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gptj"])
def test_operations_of_attribution(name: str) -> None:
    lm = MODELS[name]()
    example = TokenizedExample(tokens(lm, 30), 20, "a")
    with Attributor(lm, Method()) as attributor, executed() as counted:
        attributor.sums([example])
    assert close(costs.attribution_flops(shape_of(lm), 20, 10, 20), counted.matrix)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gptj"])
def test_operations_of_a_training_step(name: str) -> None:
    """Of a neuron in the lowest layer, so that gradients go all the way."""
    lm = MODELS[name]()
    example = TokenizedExample(tokens(lm, 40), 8, "a")
    mask = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    mask[0, 0] = True
    recipe = Recipe(batch_size=1)
    batches = Batches(lm, [example], recipe)
    with Trainer(lm, NeuronMask(mask), recipe) as trainer, executed() as counted:
        trainer.gradients(batches, torch.zeros(1, dtype=torch.long).numpy())
    assert close(costs.training_flops(shape_of(lm), 40, 32), counted.matrix)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_kernels_of_writing(family: str) -> None:
    """A step more for each token; a set is erased from the bottom layer, so that nothing is shared."""
    launches = []
    for most in (3, 13):
        with SimulatedGpus() as gpus:
            lm = small_lm(family, torch.float32)
            lm.model.generation_config.eos_token_id = None
            lm.tokenizer = copy.deepcopy(lm.tokenizer)  # others share it
            lm.tokenizer.eos_token_id = None
            lm.move("cuda")
            prepared = prepare(lm, "own", [Example("e", "ab cd lives in", " x")], "exact", None, most)
            chosen = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
            chosen[0, :2] = True
            evaluate(lm, prepared, random_sets(NeuronMask(chosen), 2, seed=0))
            launches.append(gpus.launches)
    counted = (launches[1] - launches[0]) / 10
    assert close(costs.forward_launches(shape_of(lm)), counted), counted
