"""How much memory is reckoned with on a GPU, against what simulated ones count; and what is made where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPTJConfig, LlamaConfig, PreTrainedConfig

from caploc.attribution.packed import PackedModel
from caploc.errors import ModelError, OptionError
from caploc.interventions.rank_one import key_covariance
from caploc.interventions.rank_one.covariance import layers_at_once
from caploc.locators.magnitude import output_norms
from caploc.model.loading import Deferred, LanguageModel, defer_model, load_model, untrained_twin, wrap
from caploc.rows.clean import run_clean
from caploc.rows.sizing import Budget, automatic_chunk, bytes_per_token
from caploc.store import Store
from caploc.tests.attribution.families import make_model
from caploc.tests.gpu.simulated import SimulatedGpus
from caploc.tests.tiny import save_tiny, tiny_lm, tokenizer

GPU = torch.device("cuda:0")
WIDTH, LAYERS, HEADS, VOCABULARY, NEURONS = 128, 3, 4, 300, 352
CONFIGS: dict[str, PreTrainedConfig] = {
    name: LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=key_heads,
        max_position_embeddings=2048,
    )
    for name, key_heads in (("llama", HEADS), ("grouped", 1))
}
CONFIGS["gptj"] = GPTJConfig(
    vocab_size=VOCABULARY,
    n_embd=WIDTH,
    n_inner=NEURONS,
    n_layer=LAYERS,
    n_head=HEADS,
    n_positions=2048,
    rotary_dim=16,
    bos_token_id=1,
    eos_token_id=2,
)


def wide_lm(name: str) -> LanguageModel:
    """Wide enough for what a token takes to show."""
    return wrap(name, make_model(CONFIGS[name], torch.float32, 0), tokenizer())


@pytest.mark.parametrize(
    ("prompt", "answer", "rows"), [(60, 32, 4), (600, 1, 8)], ids=["long-answer", "long-prompt"]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_pass_takes_what_is_reckoned_with(name: str, prompt: int, answer: int, rows: int) -> None:
    """Within a fifth. The copied keys and values are nearly all of it where answers have one token."""
    with SimulatedGpus() as gpus:
        lm = wide_lm(name)
        lm.move("cuda")
        ids = torch.randint(3, VOCABULARY, (prompt + answer,)).to(lm.device)
        with PackedModel(lm.model, lm.architecture) as packed:
            clean = run_clean(lm.model, lm.architecture, ids, prompt)
            columns = torch.arange(answer, device=lm.device)
            alphas = torch.linspace(0, 0.9, rows, device=lm.device)[:, None].expand(-1, answer)
            before = gpus.begin()[lm.device]
            packed.run(clean, columns, {0: alphas})
        taken = (gpus.peak[lm.device] - before) / (rows * answer)
        reckoned = bytes_per_token(lm, columns=answer, context=prompt + answer - 1)
        # one head's keys serve all four in the kernel that runs here; CUDA may repeat them
        assert reckoned / (5 if name == "grouped" else 1.2) < taken < 1.2 * reckoned


def test_a_long_prompt_makes_passes_smaller_on_a_gpu_alone() -> None:
    with SimulatedGpus(memory=64 << 20):
        lm = wide_lm("llama")
        assert Budget(lm).of_rows(1, 1000) == Budget(lm).tokens == 1280
        lm.move("cuda")
        budget = Budget(lm)
        assert budget.of_rows(1, 1000) == automatic_chunk(lm, columns=1, context=1000) < budget.tokens / 20
        assert budget.of_rows(64, 100) > budget.of_rows(1, 1000)
        assert Budget(lm, 77).of_rows(1, 1000) == 77


def test_a_layout_does_not_depend_on_what_torch_keeps_for_later() -> None:
    """The card looks full once torch's allocator has taken it, however much of that is free again."""
    with SimulatedGpus(memory=64 << 20):
        lm = wide_lm("llama")
        lm.move("cuda")
        before = automatic_chunk(lm)
        filled = torch.zeros(60 << 20, dtype=torch.uint8, device="cuda")
        del filled
        assert torch.cuda.mem_get_info()[0] < 8 << 20 and automatic_chunk(lm) == before > 256


def test_norms_take_one_layer_in_float64_at_a_time() -> None:
    with SimulatedGpus() as gpus:
        lm = wide_lm("llama")
        lm.move("cuda")
        before = gpus.begin()[lm.device]
        output_norms(lm)
        assert gpus.peak[lm.device] - before < 2.5 * 8 * WIDTH * NEURONS


def test_covariances_are_summed_as_many_layers_at_a_time_as_have_room() -> None:
    texts = ["ab cd", "ef", "gh ij kl"]
    matrix = 8 * NEURONS**2
    expected = key_covariance(wide_lm("llama"), texts, progress=False)
    with SimulatedGpus() as gpus:
        lm = wide_lm("llama")
        assert layers_at_once(lm) == LAYERS
        lm.move("cuda")
        gpus.memory = 4 * lm.num_parameters + 5 * matrix
        assert layers_at_once(lm) == 2
        found = key_covariance(lm, texts, ridge=1e-2, progress=False)
        assert gpus.peak[lm.device] - gpus.live() < 3 * matrix
        assert all(torch.equal(found.matrices[layer], expected.matrices[layer]) for layer in range(LAYERS))
        key = torch.ones(NEURONS, device="cuda")
        before = gpus.live()
        for layer in range(LAYERS):
            assert found.solve(layer, key).device == lm.device
        assert gpus.live() == before  # factors lie on the CPU


def test_matrices_of_a_store_are_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, store, read = tiny_lm(), Store(tmp_path), []
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, key: read.append(key) or get(self, key))
    key_covariance(lm, ["ab", "cd ef"], store=store, progress=False)
    read.clear()
    found = key_covariance(lm, ["ab", "cd ef"], store=store, progress=False)
    assert len(read) == 1 and list(found.matrices) == [0, 1] and found.tokens > 0
    assert torch.equal(found.matrices[1], key_covariance(lm, ["ab", "cd ef"], progress=False).matrices[1])
    assert len(read) == 2


def test_a_twin_is_drawn_on_the_gpu_and_kept_by_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "caploc.model.loading._shown", lambda model, *_: model
    )  # its own tensors would be counted
    folder, store = save_tiny(tmp_path / "model"), Store(tmp_path / "store")
    twins = {}
    with SimulatedGpus() as gpus:
        for device in ("cpu", "cuda"):
            lm = defer_model(folder, device, "bfloat16", store)
            assert isinstance(lm, Deferred)
            before = gpus.begin()[GPU]
            state = torch.get_rng_state()
            twins[device] = untrained_twin(lm, 1)
            _ = twins[device].fingerprint
            assert torch.equal(torch.get_rng_state(), state)
            weights = twins[device].num_parameters * 2
            if device == "cuda":
                assert twins[device].model.device.type == "cuda" and twins[device].dtype == torch.bfloat16
                # in its own dtype from the start, one matrix in float32 beside it at most
                assert gpus.peak[GPU] - before < 1.5 * weights
        keys = store.kept()
        again = untrained_twin(defer_model(folder, "cuda", "bfloat16", store), 1)
        assert again.fingerprint == twins["cuda"].fingerprint and store.kept() == keys
        assert not again.loaded  # type: ignore[attr-defined]
        other = untrained_twin(defer_model(folder, "cuda", "bfloat16", store), 2)
        assert other.fingerprint != again.fingerprint
    assert (
        untrained_twin(defer_model(folder, "cpu", "bfloat16", store), 1).fingerprint
        == twins["cpu"].fingerprint
    )


def test_a_model_without_room_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    with SimulatedGpus() as gpus:
        gpus.limit = 10_000
        with pytest.raises(
            ModelError, match=r"^model '.*', whose weights take \S+ GB, does not fit into the GPU's"
        ):
            load_model(folder, "cuda")
        with pytest.raises(OptionError, match="there is none above cuda:0"):
            load_model(folder, "cuda:1")


def test_layers_are_spread_over_gpus_and_come_back() -> None:
    """In equal runs; embeddings, final norm and head on the first, where each layer's output is given back."""
    with SimulatedGpus(devices=3):
        lm = wide_lm("grouped")
        ids, forwards = torch.arange(3, 20)[None], [layer.forward for layer in lm.layers]
        expected = lm.model(input_ids=ids).logits
        lm.move("cuda:0,1,2")
        assert [next(layer.parameters()).device.index for layer in lm.layers] == [0, 1, 2]
        others = [
            name for name, one in lm.model.named_parameters() if ".layers." not in name and one.device != GPU
        ]
        assert not others and lm.device == GPU
        assert torch.equal(lm.model(input_ids=ids.to(GPU)).logits.cpu(), expected)
        lm.move("cuda:2,0")
        assert [next(layer.parameters()).device.index for layer in lm.layers] == [
            2,
            2,
            0,
        ] and lm.device.index == 2
        lm.move("cpu")
        assert [layer.forward for layer in lm.layers] == forwards
        assert torch.equal(lm.model(input_ids=ids).logits, expected)
        with pytest.raises(OptionError, match="names a GPU twice"):
            lm.move("cuda:1,1")


def test_a_model_too_large_for_one_gpu_fits_on_two(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "gptj")
    with SimulatedGpus(devices=2) as gpus:
        load_model(folder, "cuda")
        whole = gpus.peak[GPU]
        gpus.begin()
        load_model(folder, "cuda:0,1")
        assert max(gpus.peak.values()) < 0.8 * whole
