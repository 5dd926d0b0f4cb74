"""Which GPU a process takes where the machine has several, and how many workers ``-n auto`` means then."""

from __future__ import annotations

import os
import re

import pytest

DEVICES = ("auto", "cuda")
"""Of ``--device``: those that leave open which GPU."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus_asked_for(config: pytest.Config) -> bool:
    """Whether the run is one of GPU tests alone, as ``-m gpu`` makes it, on any GPUs that there are."""
    expression = str(config.getoption("markexpr", "") or "")
    return (
        config.getoption("device") in DEVICES
        and re.search(r"\bgpu\b", expression) is not None
        and re.search(r"\bor\b|\bnot\s*\(*\s*gpu\b", expression) is None
    )


def workers_for_gpus(config: pytest.Config) -> int | None:
    """One worker a GPU for a run of GPU tests alone; None where pytest-xdist is to count cores."""
    if not gpus_asked_for(config):
        return None
    import torch

    return torch.cuda.device_count() or None


def take_gpu(worker: int, device: str) -> str | None:
    """Makes one GPU the only one that this process sees, the worker's number modulo theirs, and returns its name.

    Before CUDA is initialized, which then numbers it 0: whatever asks for memory or properties of "the" GPU is about
    this one. None where there is one GPU at most, or where ``--device`` names one.
    """
    if device not in DEVICES:
        return None
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return None
    named = [one.strip() for one in os.environ.get(VISIBLE, "").split(",") if one.strip()]
    names = named if len(named) >= count else [str(number) for number in range(count)]
    os.environ[VISIBLE] = names[worker % count]
    return os.environ[VISIBLE]
