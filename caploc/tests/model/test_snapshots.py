"""Models from the hub, played by a small local server: what is fetched, the cache, and every way in which it fails."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from caploc.errors import ModelError, UnavailableModelError
from caploc.hub import model_snapshot
from caploc.model.loading import load_model
from caploc.model.registry import REGISTRY
from caploc.tests.hub_server import COMMIT, FakeHub, use_endpoint
from caploc.tests.tiny import NEURONS, save_tiny

NAME = f"me/mine@{COMMIT}"


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    use_endpoint(monkeypatch, f"http://127.0.0.1:{port}")


@pytest.fixture
def published(hub: FakeHub, tmp_path: Path) -> FakeHub:
    """A hub with one model, and much beside it that must not be fetched."""
    folder = save_tiny(tmp_path / "source")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    unwanted = (
        "pytorch_model.bin",
        "modeling_mine.py",
        "consolidated.safetensors",
        "original/model.safetensors",
    )
    hub.files["me/mine", COMMIT] = {**files, **dict.fromkeys(unwanted, b"x")}
    return hub


def error_of(name: str, kind: type[Exception] = UnavailableModelError) -> str:
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        load_model(name)
    assert time.monotonic() - start < 5, "an error must come at once, without rounds of retries"
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pinned_model_loads(published: FakeHub) -> None:
    lm = load_model(NAME)
    assert (lm.name, lm.num_neurons) == ("mine", NEURONS)
    assert load_model("me/mine", revision=COMMIT).fingerprint == lm.fingerprint


def test_only_configuration_tokenizer_and_safetensors_are_fetched(published: FakeHub) -> None:
    folder = model_snapshot("me/mine", COMMIT)
    expected = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == expected


def test_what_is_cached_is_enough_without_network(
    published: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_model(NAME)
    no_network(monkeypatch)
    assert load_model(NAME).fingerprint == first.fingerprint
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert load_model(NAME).fingerprint == first.fingerprint


def test_what_is_cached_is_not_fetched_again(published: FakeHub) -> None:
    load_model(NAME)
    published.requests.clear()
    load_model(NAME)
    assert len(published.requests) == 1


def test_a_repository_without_safetensors(published: FakeHub) -> None:
    del published.files["me/mine", COMMIT]["model.safetensors"]
    expected = "model 'me/mine' holds no .safetensors file, and pickled weights are never read; convert them"
    assert error_of(NAME, ModelError).startswith(expected)
    assert not any("pytorch_model.bin" in path for path in published.requests)


@pytest.mark.parametrize("name", ["llama2-7b", "gptj-6b"])
def test_no_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    no_network(monkeypatch)
    error = error_of(name)
    assert error.startswith(f"model '{REGISTRY[name].hub}' cannot be fetched (ConnectError: ")
    assert error.endswith("): check the network, or pass a folder with a local copy")


def test_offline_mode(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    expected = (
        "model 'me/mine' is not in the cache and HF_HUB_OFFLINE is set: unset it, or pass a folder with a"
    )
    assert error_of(NAME).startswith(expected)
    assert hub.requests == []


def test_the_hub_is_down(published: FakeHub) -> None:
    published.broken = True
    assert error_of(NAME).startswith("model 'me/mine' cannot be fetched (HfHubHTTPError: ")


def test_a_gated_model(published: FakeHub) -> None:
    published.gated.add("me/mine")
    expected = (
        "model 'me/mine' is gated: accept its licence at https://huggingface.co/me/mine, log in with `hf auth"
    )
    assert error_of(NAME).startswith(expected)


def test_an_absent_repository(hub: FakeHub) -> None:
    assert error_of(NAME).startswith(
        "model 'me/mine' is not on the hub, or private: check the name, `hf auth login`"
    )


def test_an_absent_commit(published: FakeHub) -> None:
    other = COMMIT[::-1]
    expected = (
        f"model 'me/mine' has no commit {other} on the hub: pin one that https://huggingface.co/me/mine shows"
    )
    assert error_of(f"me/mine@{other}").startswith(expected)
