"""One method's memory, in a process of its own.

Run as ``python -m caploc.benchmarks.attribution.memory_probe METHOD LAYERS WIDTH X Y``.

Prints JSON: ``loaded``, bytes resident when model and libraries are loaded and warm, and ``peak``, the most bytes
resident during the run after it.
"""

from __future__ import annotations

import gc
import json
import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from caploc.benchmarks.attribution import speed as methods
from caploc.benchmarks.models import random_example
from caploc.benchmarks.models import random_llama as bench_llama
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _naive(lm: LanguageModel, example: TokenizedExample) -> None:
    # the first layer keeps all layers' activations for its gradient, the last position is the longest sequence
    methods.naive(lm, example, methods.Pair(example.num_answer_tokens - 1, 0))


METHODS: dict[str, Callable[[LanguageModel, TokenizedExample], object]] = {
    "packed": methods.packed,
    "naive": _naive,
}


def probe(method: str, layers: int, width: int, prompt: int, answer: int) -> dict[str, int]:
    """Run ``method`` once, after a small run that loads what is loaded late."""
    torch.set_num_threads(1)
    lm = bench_llama(layers, width)
    METHODS[method](lm, random_example(2, 2))
    gc.collect()
    with suppress(
        OSError
    ):  # where it is forbidden, the peak of loading remains, which is hardly above the rest
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): the peak starts again from what is resident now
    loaded = _resident("VmRSS")
    METHODS[method](lm, random_example(prompt, answer))
    return {"loaded": loaded, "peak": _resident("VmHWM")}


def _resident(name: str) -> int:
    """Bytes, of this process alone: ``ru_maxrss`` starts from the parent's on Linux, so it is for other systems."""
    if _STATUS.exists() and (
        found := re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    ):
        return int(found.group(1)) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    print(json.dumps(probe(name, *map(int, numbers))))
