"""The covariance of keys: a plain mean of outer products, streamed, and kept in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from caploc.errors import ExampleError, OptionError
from caploc.interventions import replaced_weights
from caploc.interventions.rank_one import (
    KeyCovariance,
    SingularCovarianceError,
    covariance,
    identity_covariance,
    key_covariance,
)
from caploc.model.loading import LanguageModel
from caploc.rows import sizing
from caploc.store import Store
from caploc.tests.tiny import NEURONS, tiny_lm

TEXTS = ["ab cd lives in q.", "x", "who is xyz? 12 + 3 = 15", "well then.", "no " * 60]


def _direct(lm: LanguageModel, texts: list[str], layer: int) -> torch.Tensor:
    """One text, one token at a time."""
    kept: list[torch.Tensor] = []
    module = lm.architecture.mlp_out_of(lm.layers[layer])
    handle = module.register_forward_pre_hook(lambda _, args: kept.extend(args[0].reshape(-1, NEURONS)))
    with torch.no_grad():
        for text in texts:
            lm.model(input_ids=torch.tensor([lm.tokenizer(text)["input_ids"][: lm.max_length]]))
    handle.remove()
    return sum(torch.outer(key.double(), key.double()) for key in kept) / len(kept)


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt", "mistral"])
@pytest.mark.parametrize("chunk", [1, 50, 4096])
def test_equals_a_mean_over_single_tokens(family: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "automatic_chunk", lambda lm, **_: chunk)
    lm = tiny_lm(family)
    found = key_covariance(lm, TEXTS, [1], progress=False)
    assert list(found.matrices) == [1]
    assert found.tokens == sum(min(len(text) + 1, lm.max_length) for text in TEXTS)
    expected = _direct(lm, TEXTS, 1)
    assert (found.matrices[1] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not any(module._forward_pre_hooks for module in lm.model.modules())


def test_solve_inverts_with_and_without_a_ridge() -> None:
    lm = tiny_lm()
    texts = [f"{a}{b} {c}" for a in "abcdefgh" for b in "klm" for c in "123"]
    for ridge in (0.0, 0.5):
        found = key_covariance(lm, texts, ridge=ridge, progress=False)
        key = torch.linspace(-1, 1, NEURONS)
        matrix = found.matrices[0] + ridge * found.matrices[0].trace() / NEURONS * torch.eye(NEURONS)
        assert torch.allclose(matrix @ found.solve(0, key), key.double(), atol=1e-9)
    assert torch.equal(identity_covariance(lm).solve(1, key), key.double())


@pytest.mark.parametrize("worst", [0.0, 1e-9])
def test_a_singular_covariance_names_the_remedy(worst: float) -> None:
    values = torch.ones(NEURONS, dtype=torch.float64)
    values[3] = worst
    singular = KeyCovariance({4: values.diag()}, 77, "drawn")
    with pytest.raises(SingularCovarianceError) as caught:
        singular.solve(4, torch.ones(NEURONS))
    message = str(caught.value)
    assert (
        "layer 4's keys, 77 tokens, 20 neurons, is singular or nearly so" in message and "\n" not in message
    )
    assert "ridge=1e-4" in message
    assert (
        KeyCovariance({4: values.diag()}, 77, "drawn", ridge=1e-4)
        .solve(4, torch.ones(NEURONS))
        .isfinite()
        .all()
    )


def test_the_store_keeps_layers_of_this_model_and_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, store = tiny_lm(), Store(tmp_path)
    asked: list[Any] = []
    original = covariance._sums

    def counted(lm: LanguageModel, texts: Any, layers: Any, *rest: Any) -> Any:
        asked.append(list(layers))
        return original(lm, texts, layers, *rest)

    monkeypatch.setattr(covariance, "_sums", counted)
    first = key_covariance(lm, TEXTS, [1], store=store, progress=False)
    again = key_covariance(lm, TEXTS, [1], store=store, ridge=0.1, progress=False)
    assert torch.equal(first.matrices[1], again.matrices[1]) and again.tokens == first.tokens
    key_covariance(lm, TEXTS, store=store, progress=False)
    key_covariance(lm, TEXTS[:3], [1], store=store, progress=False)
    name = "model.layers.0.mlp.down_proj.weight"
    with replaced_weights(lm, {name: torch.zeros_like(lm.model.get_parameter(name))}):
        key_covariance(lm, TEXTS, [1], store=store, progress=False)
    assert asked == [[1], [0], [1], [1]]


def test_what_is_refused() -> None:
    lm = tiny_lm()
    with pytest.raises(OptionError, match="layer 9 is out of range"):
        key_covariance(lm, TEXTS, [9])
    with pytest.raises(OptionError, match=r"ridge must be at least 0, got -1"):
        key_covariance(lm, TEXTS, ridge=-1)
    with pytest.raises(ExampleError, match="the corpus of a covariance has no token"):
        key_covariance(lm, [], progress=False)
