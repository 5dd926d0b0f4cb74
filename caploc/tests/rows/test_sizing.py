"""The budget of passes is halved where they do not fit; freed memory is held on to where glibc is there."""

from __future__ import annotations

import platform
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from caploc.costs import token_bytes
from caploc.errors import ModelError
from caploc.rows.sizing import (
    Budget,
    automatic_chunk,
    bytes_per_token,
    keep_freed_memory,
    refused_if_too_large,
    shape_of,
    waiting_bytes,
)
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


def test_a_halved_budget_grows_again() -> None:
    """After 16 runs that fit, twice as many once it was halved again; never beyond what it was."""
    budget, seen = Budget(tiny_lm(), 100), list[int]()
    for _ in range(16):
        budget.fitting(lambda: too_many(budget, 60, seen), "refused")
    assert budget.tokens == 100  # one example was too long
    assert budget.fitting(lambda: too_many(budget, 60, seen), "refused") == 50
    seen.clear()
    for _ in range(31):
        budget.fits(lambda: too_many(budget, 100, seen), "refused")
    assert seen == [50] * 31 and budget.tokens == 100
    for _ in range(100):
        budget.fits(lambda: too_many(budget, 100, seen), "refused")
    assert budget.tokens == 100


def test_parts_are_as_large_as_the_budget_and_in_order() -> None:
    budget, seen = Budget(tiny_lm(), 12), list[list[int]]()

    def run(part: list[int]) -> list[int]:
        seen.append(part)
        if len(part) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return part

    assert budget.in_parts(list(range(5)), run, "refused", cost=3) == [[0, 1], [2, 3], [4]]
    assert seen == [[0, 1, 2, 3], [0, 1], [2, 3], [4]]
    with pytest.raises(ModelError, match=r"^refused$"):
        budget.in_parts([0], lambda _: too_many(budget, 0, []), "refused", cost=3)


def test_what_did_not_fit_is_said_and_let_go_of() -> None:
    message = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 79.11 GiB of which 1.20 GiB is "
        "free. Including non-PyTorch memory, this process has 77.90 GiB memory in use."
    )
    kept = []

    def run() -> None:
        held = torch.zeros(3)
        kept.append(weakref.ref(held))
        raise torch.cuda.OutOfMemoryError(message)

    with pytest.raises(ModelError) as caught, refused_if_too_large("a thing", "take less"):
        run()
    assert str(caught.value) == (
        "a thing does not fit into the GPU's memory; take less (asked for 2.00 GiB more; GPU 1 has a total capacity of "
        "79.11 GiB of which 1.20 GiB is free)"
    )
    assert kept[0]() is None  # though the error, and with it its frames, still is there


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
    layer = 4 * (4 * WIDTH + 3 * NEURONS)  # what autograd keeps of it in float32, gated
    whole = (SHAPE[0] - 1) * layer + max(layer, 12 * vocabulary)
    assert bytes_per_token(lm) == whole
    large = replace(shape_of(lm), layers=32, width=4096, neurons=11_008, vocabulary=32_000)
    assert token_bytes(large, 2) > 2 * token_bytes(large, 2, gradients=False)
    assert automatic_chunk(lm) == automatic_chunk(lm, gradients=False) == 1280
