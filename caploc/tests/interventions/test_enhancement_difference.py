"""A trained difference on disk, in a model for a while, and in a model for good."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from caploc.interventions.enhancement import DifferenceError, RowDifference, enhance, enhanced, merge
from caploc.model.loading import load_model
from caploc.neurons import NeuronMask
from caploc.tests.interventions.enhancing import random_examples, random_mask, recipe_of
from caploc.tests.tiny import save_tiny, tiny_lm, tokenizer

IDS = torch.tensor([[1, 5, 9, 7, 33]])


@cache
def difference(family: str = "llama", zero: bool = False) -> RowDifference:
    mask = random_mask(0, 0.1, 0.8)
    zeroed = NeuronMask(random_mask(9, 0.2, 0.2).values & ~mask.values) if zero else None
    return enhance(tiny_lm(family), mask, random_examples(1), recipe_of(lr=1e-2), zeroed=zeroed).at[5]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "phi3", "opt"])
def test_a_merged_model_on_disk_is_the_trained_one(family: str, tmp_path: Path) -> None:
    lm = tiny_lm(family)
    with enhanced(lm, difference(family)):
        expected = logits(lm.model)
    assert float((expected - logits(lm.model)).abs().max()) > 0.01
    merged = merge(lm, difference(family))
    assert type(merged) is type(lm.model) and torch.equal(logits(merged), expected)
    merged.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path).model
    assert all(torch.equal(weight, merged.state_dict()[name]) for name, weight in loaded.state_dict().items())
    torch.testing.assert_close(
        logits(loaded), expected, rtol=0, atol=1e-5
    )  # GPT-J's table of angles is made anew


@pytest.mark.parametrize("zero", [False, True])
def test_a_file_gives_back_what_was_saved(zero: bool, tmp_path: Path) -> None:
    lm, saved = tiny_lm(), difference("llama", zero)
    saved.save(tmp_path / "difference.safetensors")
    loaded = RowDifference.load(tmp_path / "difference.safetensors")
    assert (loaded.fingerprint, loaded.shape) == (saved.fingerprint, saved.shape)
    assert torch.equal(loaded.mask.values, saved.mask.values) and (loaded.zeroed is not None) == zero
    with enhanced(lm, saved):
        expected = logits(lm.model)
    with enhanced(lm, loaded):
        assert torch.equal(logits(lm.model), expected)


def test_refuses_another_model(tmp_path: Path) -> None:
    other = tiny_lm(seed=1)
    for use in (lambda: merge(other, difference()), lambda: enhanced(other, difference()).__enter__()):
        with pytest.raises(
            DifferenceError, match=r"was trained on a model with fingerprint .* apply it to"
        ) as caught:
            use()
        assert "\n" not in str(caught.value)
    lm = tiny_lm()
    with (
        enhanced(lm, difference()),
        pytest.raises(DifferenceError, match="tiny-llama as it is now has"),
        enhanced(lm, difference()),
    ):
        pass


def test_refuses_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(DifferenceError, match=r"absent\.safetensors cannot be read"):
        RowDifference.load(tmp_path / "absent.safetensors")
    path = tmp_path / "short.safetensors"
    difference().save(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DifferenceError, match=r"short\.safetensors cannot be read"):
        RowDifference.load(path)
    folder = save_tiny(tmp_path / "model")
    with pytest.raises(DifferenceError, match="holds no difference of layout 1"):
        RowDifference.load(folder / "model.safetensors")
