"""How every benchmark measures: CPU time in rounds, even samples of slow work, executed operations, the machine.

CPU time, not wall time: other work on the machine then costs little accuracy, and ratios nearly none.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import re
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from caploc.benchmarks.tables import Spread
from caploc.errors import ModelError

T = TypeVar("T")

# what sdpa runs on a CPU; torch's own table of operation counts lacks it
_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
_ATTENTION_BACKWARD = f"{_ATTENTION}_backward"


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """This process's CPU seconds, user and system, spent in ``work()``, and what it returns.

    The garbage collector rests meanwhile, so that no method pays for what another left behind.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        begin = time.process_time()
        made = work()
        return time.process_time() - begin, made
    finally:
        if enabled:
            gc.enable()


class Rounds:
    """CPU seconds of several ways to do the same work, which take turns within every round.

    What is made only once must have been made before the first round. ::

        rounds = Rounds()
        for part in rounds.over(parts, "llama"):
            rounds.time("slow", partial(slow, part), scale=len(whole) / len(part))
            rounds.time("fast", fast)
        rounds.ratio("slow", "fast")
    """

    def __init__(self) -> None:
        self._rounds: list[dict[Hashable, float]] = []

    def over(self, parts: Sequence[T], title: str) -> Iterator[T]:
        """Begin a round for each of ``parts``, under a progress bar."""
        for part in tqdm(parts, desc=title, unit="round", disable=None, leave=False):
            self._rounds.append({})
            yield part

    def time(self, way: Hashable, work: Callable[[], T], scale: float = 1.0) -> T:
        """What ``work()`` returns; its seconds times ``scale`` are added to the way's in this round."""
        seconds, made = timed(work)
        current = self._rounds[-1]
        current[way] = current.get(way, 0.0) + scale * seconds
        return made

    def seconds(self, way: Hashable) -> Spread | None:
        """Over the rounds; None where the way was not timed."""
        return Spread.of([each[way] for each in self._rounds]) if way in self._rounds[0] else None

    def ratio(self, slow: Hashable, fast: Hashable) -> Spread | None:
        """Seconds of ``slow`` over those of ``fast`` in the same round; None where one was not timed."""
        if not {slow, fast} <= self._rounds[0].keys():
            return None
        return Spread.of([each[slow] / each[fast] for each in self._rounds])


class Pair(NamedTuple):
    """A position and a layer: a unit of work that costs the slow ways the same whatever else they do."""

    position: int
    layer: int


def all_pairs(layers: int, positions: int) -> list[Pair]:
    """Every position and layer."""
    return [Pair(position, layer) for position in range(positions) for layer in range(layers)]


def sample_pairs(layers: int, positions: int, rounds: int, seed: int = 0) -> list[list[Pair]]:
    """An evenly spread sample: each round has every layer once, each at a position from another stretch of them.

    Rounds differ in which layer gets which stretch. Every pair is as likely as any other, so scaling by counted work
    has no bias.
    """
    drawn = random.Random(seed)
    stretches: list[int] = []
    sample = []
    for turn in range(rounds):
        if turn % layers == 0:
            stretches = drawn.sample(range(layers), layers)
        pairs = []
        for layer in range(layers):
            stretch = stretches[(layer + turn) % layers]
            pairs.append(Pair(int((stretch + drawn.random()) * positions / layers), layer))
        sample.append(pairs)
    return sample


def spread_over(total: int, timed_each: int, rounds: int) -> list[list[int]]:
    """For each round so many of ``range(total)``, at even distances; none comes twice as long as there are enough."""
    count = min(timed_each, total)
    places = np.arange(count)[None] + np.arange(rounds)[:, None] / rounds
    return (places * total / count).astype(int).tolist()


def disagreement(difference: str, tests: str) -> ModelError:
    """The error of two ways that do not do the same: to compare their times would be pointless."""
    return ModelError(
        f"{difference}, so their times say nothing; run `python -m pytest caploc/tests/{tests}`"
    )


def check_same(error: float, rounding: float, ways: str, unit: str, tests: str) -> None:
    """Refuse to compare times where results differ by more than rounding.

    Raises:
        ModelError: ``error`` is above ``rounding``, or nan.
    """
    if not error <= rounding:
        raise disagreement(f"{ways} differ by {error:.2g} {unit} (rounding is below {rounding:g})", tests)


@dataclass
class Operations:
    """Floating-point operations that were executed: products with weights, and attention's own."""

    matrix: int = 0
    attention: int = 0


@contextmanager
def executed() -> Iterator[Operations]:
    """Count the operations torch executes inside; slow, so never while timing.

    Not torch's ``FlopCounterMode``: it refuses ``autograd.grad`` and does not know attention on the CPU.
    """
    counts = Operations()
    with _Counter(counts):
        yield counts


class _Counter(TorchDispatchMode):
    def __init__(self, counts: Operations) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if str(packet) == _ATTENTION:
            self._counts.attention += _attention(args[0], args[1], products=2)
        elif str(packet) == _ATTENTION_BACKWARD:
            # five: the scores are computed again
            self._counts.attention += _attention(args[1], args[2], products=5)
        elif packet in flop_registry:
            self._counts.matrix += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        return out


def _attention(query: torch.Tensor, key: torch.Tensor, products: int) -> int:
    batch, heads, queries, size = query.shape
    return 2 * products * batch * heads * queries * key.shape[-2] * size


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread; the former number comes back on leaving."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """What changes the numbers, and nothing that names whose machine it is: processor, packages, threads, matrix
    library and instruction set, and the load that other work puts on it."""
    build = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", build)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "blas": blas.group(1) if blas else "unknown",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": load(),
    }


def load() -> float | None:
    """The 1-minute load average, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def header(facts: dict[str, Any]) -> str:
    """``machine()`` in three lines for people."""
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    packages = f"torch {facts['torch']} (BLAS {facts['blas']}, {facts['instructions']})"
    lines = [
        f"machine   {facts['processor']}, {facts['cores']} cores visible, {facts['system']}; {threads} used",
        f"software  {packages}, transformers {facts['transformers']}, Python {facts['python']}",
        f"load      {facts['load']} when it began (1-minute average); all times are this process's CPU time",
    ]
    return "\n".join(lines)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"
