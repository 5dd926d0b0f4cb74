from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, constants
from safetensors import safe_open

from caploc.architectures import ARCHITECTURES
from caploc.costs import NEEDS
from caploc.errors import ModelError, UnknownNameError
from caploc.model import registry
from caploc.model.registry import REGISTRY, embedded_folder

EMBEDDED = [name for name, entry in REGISTRY.items() if entry.embedded]
ON_HUB = [name for name, entry in REGISTRY.items() if not entry.embedded]

_SIZE_IN_NAME = re.compile(r"-(\d+(?:\.\d+)?)([bm])(?:-|$)")


def _present(name: str) -> Path:
    try:
        return embedded_folder(name)
    except ModelError:
        pytest.skip(
            f"fixtures/models/{name} is not in this checkout; make it with the training script in fixtures/"
        )


@pytest.mark.parametrize("name", ON_HUB)
def test_hub_models_are_pinned(name: str) -> None:
    entry = REGISTRY[name]
    assert re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert re.fullmatch(r"[\w-]+/[\w.-]+", entry.hub)


def test_no_two_models_share_weights_or_names() -> None:
    assert len(REGISTRY) == len(registry._TABLE)
    assert len({entry.display.lower() for entry in REGISTRY.values()}) == len(REGISTRY)
    assert len({REGISTRY[name].revision for name in ON_HUB}) == len(ON_HUB)


@pytest.mark.parametrize("name", REGISTRY)
def test_names_can_be_test_ids_and_families_are_supported(name: str) -> None:
    entry = REGISTRY[name]
    assert entry.name == name
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
    assert entry.family in ARCHITECTURES


@pytest.mark.parametrize(
    ("name", "display", "total"),
    [
        ("llama2-7b", "Llama2-7B", 352256),
        ("llama2-13b", "Llama2-13B", 552960),
        ("gptj-6b", "GPTJ-6B", 458752),
    ],
)
def test_the_papers_models_have_the_papers_neurons(name: str, display: str, total: int) -> None:
    entry = REGISTRY[name]
    assert entry.paper
    assert entry.display == display
    assert entry.layers * entry.neurons == total


def test_the_paper_has_three_models() -> None:
    assert [name for name, entry in REGISTRY.items() if entry.paper] == ["llama2-7b", "llama2-13b", "gptj-6b"]


@pytest.mark.parametrize("name", ON_HUB)
def test_memory_covers_weights_and_work(name: str) -> None:
    """In float32 more than in half precision; for training of nearly all more than for anything else."""
    entry = REGISTRY[name]
    half, whole = (dict.fromkeys(NEEDS, 0), dict.fromkeys(NEEDS, 0))
    for need in NEEDS:
        half[need], whole[need] = entry.min_gb(need), entry.min_gb(need, 4)
    weights = 2 * entry.params_b
    assert weights < half["passes"] <= half["attribution"] <= half["training"]
    assert half["precise"] == whole["precise"] > 2 * weights
    assert whole["attribution"] > 2 * weights and all(whole[need] >= half[need] for need in NEEDS)


def test_memory_of_a_known_model() -> None:
    """Weights of 13.476e9 bytes and a float32 head of 0.524e9. A token of the smallest pass keeps, of each of 31
    layers, 12 bytes of 4,096 and 6 of 11,008, and takes 12 of 32,000 logits: 256 of them may take half of the
    rest."""
    found = {need: REGISTRY["llama2-7b"].min_gb(need) for need in NEEDS}
    token = 31 * (12 * 4096 + 6 * 11008) + 12 * 32000
    whole = 13.476e9 + 4 * 32000 * 4096 + 2 * 256 * token
    assert found["attribution"] == math.ceil(whole / 1e9) == 17
    # a float32 gradient of each of 32 * 3 * 4096 * 11008 weights beside
    assert found["training"] == math.ceil((whole + 4 * 32 * 3 * 4096 * 11008) / 1e9) == 34


@pytest.mark.parametrize("name", [name for name in ON_HUB if _SIZE_IN_NAME.search(name)])
def test_parameters_agree_with_the_name(name: str) -> None:
    number, unit = _SIZE_IN_NAME.search(name).groups()  # type: ignore[union-attr]
    nominal = float(number) * {"b": 1.0, "m": 1e-3}[unit]
    # Gemma 2 2B counts its large embedding out of its name: 2.6 billion with it.
    assert REGISTRY[name].params_b == pytest.approx(nominal, rel=0.31 if name == "gemma2-2b" else 0.1)


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        REGISTRY["llama2-7b"].revision = "main"  # type: ignore[misc]
    with pytest.raises(TypeError):
        REGISTRY["llama2-7b"] = REGISTRY["gpt2"]  # type: ignore[index]


def test_imports_nothing_but_the_standard_library_costs_and_errors() -> None:
    source = Path(registry.__file__).read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    foreign = {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"caploc.costs", "caploc.errors"}


def test_embedded_models() -> None:
    assert EMBEDDED == ["tiny-llama", "tiny-gptj", "tiny-llama-early", "tiny-gptj-early"]
    for name in EMBEDDED:
        entry = REGISTRY[name]
        assert (entry.hub, entry.revision, entry.gated, entry.paper) == (name, "", False, False)


def test_embedded_folder_is_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout = Path(registry.__file__).parents[2]
    assert checkout / "fixtures" / "models" == registry._EMBEDDED_ROOT
    monkeypatch.setattr(registry, "_EMBEDDED_ROOT", tmp_path)
    (tmp_path / "tiny-llama").mkdir()
    (tmp_path / "tiny-llama" / "config.json").write_text("{}", encoding="utf-8")
    assert embedded_folder("tiny-llama") == tmp_path / "tiny-llama"


def test_absent_embedded_model_says_to_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_EMBEDDED_ROOT", tmp_path)
    with pytest.raises(
        ModelError, match=r"'tiny-gptj' is not at .*tiny-gptj: .*clone the repository"
    ) as caught:
        embedded_folder("tiny-gptj")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama2-7b", "tiny-bert", "../tiny-llama"])
def test_only_embedded_models_have_a_folder(name: str) -> None:
    with pytest.raises(
        UnknownNameError, match=f"{re.escape(repr(name))} is not embedded.*tiny-llama, tiny-gptj"
    ):
        embedded_folder(name)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_folders_hold_what_the_table_says(name: str) -> None:
    folder, entry = _present(name), REGISTRY[name]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = config["num_hidden_layers"] if entry.family == "llama" else config["n_layer"]
    neurons = config["intermediate_size"] if entry.family == "llama" else config["n_inner"]
    assert (config["model_type"], layers, neurons) == (entry.family, entry.layers, entry.neurons)
    parameters = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            parameters += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    assert parameters / 1e9 == pytest.approx(entry.params_b, rel=0.02)


@pytest.fixture(scope="module")
def hub() -> HfApi:
    host = urlsplit(constants.ENDPOINT).hostname
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"the hub {host} cannot be reached ({error}); run where there is a network")
    return HfApi(token=False)


@pytest.mark.network
@pytest.mark.parametrize("name", ON_HUB)
def test_the_hub_has_the_commit_with_safetensors(hub: HfApi, name: str) -> None:
    entry = REGISTRY[name]
    info = hub.model_info(entry.hub, revision=entry.revision, timeout=20)
    assert info.sha == entry.revision
    assert any(file.rfilename.endswith(".safetensors") for file in info.siblings or ())
    assert bool(info.gated) == entry.gated
    assert (info.config or {}).get("model_type", entry.family) == entry.family
