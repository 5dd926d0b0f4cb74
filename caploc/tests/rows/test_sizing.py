"""The budget of passes is halved where they do not fit; freed memory is held on to where glibc is there."""

from __future__ import annotations

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from caploc.errors import ModelError
from caploc.rows.sizing import Budget, automatic_chunk, bytes_per_token, keep_freed_memory, waiting_bytes
from caploc.tests.tiny import NEURONS, SHAPE, WIDTH, tiny_lm


def test_it_does_nothing_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")
def test_glibc_takes_the_settings() -> None:
    """In a process of its own, since it cannot be undone."""
    code = "from caploc.rows.sizing import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def too_many(budget: Budget, most: int, seen: list[int]) -> int:
    """A pass that fits if the budget is at most ``most`` tokens."""
    seen.append(budget.tokens)
    if budget.tokens > most:
        raise torch.cuda.OutOfMemoryError("out of memory")
    return budget.tokens


def test_a_budget_is_halved_until_the_pass_fits_and_stays_so() -> None:
    budget, seen = Budget(tiny_lm(), 100), []
    assert budget.fitting(lambda: too_many(budget, 30, seen), "refused") == 25
    assert seen == [100, 50, 25] and budget.tokens == 25
    assert budget.fits(lambda: too_many(budget, 30, seen), "refused")
    with pytest.raises(ModelError, match=r"^refused$"):
        budget.fitting(lambda: too_many(budget, 0, seen), "refused")
    assert seen[-1] == 1


def test_what_can_be_divided_is_not_refused() -> None:
    budget, seen = Budget(tiny_lm(), 1), []
    assert not budget.fits(lambda: too_many(budget, 0, seen), "refused", divisible=True)
    with pytest.raises(ModelError, match=r"^refused$"):
        budget.fits(lambda: too_many(budget, 0, seen), "refused")
    large = Budget(tiny_lm(), 8)
    with pytest.raises(ModelError, match=r"^refused$"):
        large.fits(lambda: too_many(large, 0, seen), "refused", smallest=8)


def test_other_errors_are_not_taken_for_it() -> None:
    budget = Budget(tiny_lm(), 100)
    with pytest.raises(ZeroDivisionError):
        budget.fits(lambda: 1 / 0, "refused")
    assert budget.tokens == 100


@pytest.mark.parametrize("gradients", [True, False])
def test_the_layout_on_a_gpu_does_not_depend_on_what_is_free(
    gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on a few MB of the card; it does on how much it has in all."""

    def asked(device: object) -> None:
        raise AssertionError("the free memory was asked for")

    lm, gib = tiny_lm(), 1 << 30
    monkeypatch.setattr(type(lm), "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", asked)
    sizes = {}
    for megabytes in (100, 104, 400):
        card = SimpleNamespace(total_memory=megabytes << 20)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        sizes[megabytes] = (automatic_chunk(lm, gradients=gradients), waiting_bytes(lm))
    assert sizes[100] == sizes[104] < sizes[400]
    assert all(size & (size - 1) == 0 for pair in sizes.values() for size in pair)
    weights = lm.num_parameters * lm.dtype.itemsize
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=weights))
    assert automatic_chunk(lm, gradients=gradients) == 256  # no room: halved from there
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=900 * gib)
    )
    assert automatic_chunk(lm, gradients=gradients) == 65536


def test_gradients_take_more_memory() -> None:
    lm = tiny_lm()
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    kept = SHAPE[0] * (10 * WIDTH + 4 * NEURONS) * 4
    assert bytes_per_token(lm) == kept + 12 * vocabulary > bytes_per_token(lm, gradients=False)
    assert automatic_chunk(lm) == automatic_chunk(lm, gradients=False) == 1280
