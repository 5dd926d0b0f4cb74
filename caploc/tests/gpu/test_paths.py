"""Every path on simulated GPUs: the CPU's numbers, to the bit; out of memory ends well; nothing is left behind."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from caploc.errors import CaplocError
from caploc.tests.gpu.paths import PATHS, small_lm
from caploc.tests.gpu.simulated import SimulatedGpus

# grouped keys and sdpa; attention in steps and in float32
MODELS = [("llama", torch.float32), ("gptj", torch.bfloat16)]
CALLERS_OWN = {"changed-activations"}
"""Paths in which the caller, not caploc, runs the model."""
CANNOT_BE_DIVIDED = {
    "erased-weights",
    "training-all-others",
    "known-answers",
    "magnitude",
    "rivals",
    "prefixes",
    "untrained-twin",
    "generation-of-the-model",
    "synapses",
}
"""Paths that, at this size, take as much for their smallest part as for all."""


def outcome(path: str, family: str, dtype: torch.dtype, device: str) -> Sequence[np.ndarray] | str:
    """The path's numbers, or the one line that it ends in."""
    lm = small_lm(family, dtype)
    lm.move(device)
    try:
        return list(PATHS[path](lm))
    except CaplocError as error:
        return str(error)


def same(found: Sequence[np.ndarray] | str, expected: Sequence[np.ndarray] | str) -> bool:
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    return len(found) == len(expected) and all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        for one, other in zip(found, expected, strict=True)
    )


def assert_close(
    found: Sequence[np.ndarray] | str, expected: Sequence[np.ndarray] | str, rtol: float, atol: float
) -> None:
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, str) or one.dtype.kind == "U":
            assert np.array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("family", "dtype"), MODELS, ids=["llama-float32", "gptj-bfloat16"])
@pytest.mark.parametrize("path", PATHS)
def test_gpus_give_the_cpus_numbers(path: str, family: str, dtype: torch.dtype) -> None:
    """One, and two that the layers are split over. Where a path refuses bfloat16, in the same words. A twin is drawn
    there, in the model's dtype, and need only be the same each time."""
    drawn_there = path == "untrained-twin" and dtype == torch.bfloat16
    expected = None if drawn_there else outcome(path, family, dtype, "cpu")
    for device in ("cuda", "cuda:0,1"):
        with SimulatedGpus(devices=2) as gpus:
            found = outcome(path, family, dtype, device)
            assert same(found, found if expected is None else expected)
            assert gpus.launches > (0 if isinstance(found, str) else 50)
            assert (gpus.peak[torch.device("cuda:1")] > 0) == (device != "cuda")
            expected = found


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("path", sorted(PATHS.keys() - CALLERS_OWN))
def test_out_of_memory_changes_nothing_or_ends_in_one_line(path: str, share: float) -> None:
    """With half and a fifth of the memory that the path takes beside the weights; in float64, where the order of sums
    does not show."""
    with SimulatedGpus() as gpus:
        lm = small_lm("llama", torch.float64)
        lm.move("cuda")
        weights = gpus.begin()[lm.device]
        expected = list(PATHS[path](lm))
        needed = gpus.peak[lm.device] - weights
        gpus.limit = weights + int(share * needed)
        line, found = "", expected
        try:
            found = list(PATHS[path](lm))
        except CaplocError as error:
            line = str(error)
        if line:
            assert share < 0.5 or path in CANNOT_BE_DIVIDED
            assert "\n" not in line and re.search(
                r"fit into the GPU's memory.*\(asked for [\d.]+ MiB more; GPU 0 has", line
            )
        assert_close(found, expected, rtol=1e-8, atol=1e-10)
        gpus.limit = None
        assert gpus.live() == weights
        again = list(PATHS[path](lm))  # the model is as it was
        assert same(again, expected)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_left_on_the_gpu(path: str) -> None:
    """Also before garbage is collected: Python does not know that a GPU is full."""
    with SimulatedGpus() as gpus:
        lm = small_lm("gptj", torch.float32)
        lm.move("cuda")
        gc.collect()
        gc.disable()
        try:
            before = gpus.live()
            PATHS[path](lm)
            assert gpus.live() == before
        finally:
            gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("path", PATHS)
def test_a_real_gpu_gives_them_up_to_rounding(path: str) -> None:
    if path == "untrained-twin":
        pytest.skip("a GPU draws other weights than a CPU")
    expected = outcome(path, "llama", torch.float64, "cpu")
    assert_close(outcome(path, "llama", torch.float64, "cuda"), expected, rtol=1e-6, atol=1e-9)
