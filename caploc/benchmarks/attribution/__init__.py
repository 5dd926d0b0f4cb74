"""The attribution benchmark: how fast is the packed engine (``speed``), at what cost in memory and operations, and how
close do its quadratures come?"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import caploc
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.method import Tolerance
from caploc.benchmarks import Options
from caploc.benchmarks.attribution.speed import (
    FULL,
    QUICK,
    STEPS,
    Sizes,
    measure_growth,
    measure_ratios,
    naive,
    packed,
)
from caploc.benchmarks.measuring import Operations, Pair, Rounds, executed, timed
from caploc.benchmarks.models import DATA, random_example, random_llama
from caploc.benchmarks.tables import Spread, Table, Value
from caploc.errors import CaplocError
from caploc.examples import TokenizedExample, tokenize
from caploc.model.loading import LanguageModel
from caploc.neurons import ScoreSums
from caploc.rows.sizing import automatic_chunk

__all__ = [
    "FULL",
    "QUICK",
    "measure_growth",
    "measure_memory",
    "measure_quadratures",
    "measure_rate",
    "measure_ratios",
]

# memory
PROBE = "from caploc.benchmarks.attribution import probe; probe(*{!r})"
SECONDS = 600
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# rate
LARGE = 1024
_TRIES, _CALLS = 5, 4
Shape = tuple[int, int, int]

# quadratures
MODEL, DATASET = "tiny-llama", "gsm8k"
_RULES = ("paper", "trapezoid", "gauss-legendre", "adaptive")


def _naive_once(lm: LanguageModel, example: TokenizedExample) -> None:
    # the first layer keeps all layers' activations for its gradient, the last position is the longest sequence
    naive(lm, example, Pair(example.num_answer_tokens - 1, 0))


METHODS: Mapping[str, Callable[[LanguageModel, TokenizedExample], object]] = {
    "packed": packed,
    "naive": _naive_once,
}


def measure_memory(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Each method in a process of its own: one that has run another keeps, and hides, its peak."""
    table = Table(
        "memory",
        f"Peak memory beyond the loaded model and libraries, Llama of {sizes.layers} layers, width {sizes.width}",
        notes=[
            "resident memory (VmHWM less VmRSS before the run) of a fresh process, after a small run; MB = 10^6 bytes",
            "packed: the whole example; naive: one of its answer positions (the last) and layers (the first)",
        ],
    )
    for prompt, answer in sizes.memory:
        for method in METHODS:
            row: dict[str, Value] = {"X": prompt, "Y": answer, "method": method}
            try:
                row |= _probed(method, sizes.layers, sizes.width, prompt, answer)
            except subprocess.SubprocessError as error:
                table.notes.append(f"{method} at X={prompt}, Y={answer} not measured: {_reason(error)}")
            table.rows.append(row)
    yield table


def _probed(*arguments: str | int) -> dict[str, Value]:
    """``probe`` in a process of its own, in MB."""
    root = str(Path(caploc.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    found = json.loads(done.stdout)
    return {"added MB": (found["peak"] - found["loaded"]) / 1e6, "loaded MB": found["loaded"] / 1e6}


def _reason(error: subprocess.SubprocessError) -> str:
    """The last line that the process wrote, or how it ended."""
    if isinstance(error, subprocess.CalledProcessError) and error.stderr.strip():
        return str(error.stderr).strip().splitlines()[-1]
    return str(error)


def probe(method: str, layers: int, width: int, prompt: int, answer: int) -> None:
    """Run ``method`` once in this process, after a small run that loads what is loaded late, and print JSON.

    ``loaded`` are the bytes resident when model and libraries are loaded and warm, ``peak`` the most bytes resident
    during the run after it.
    """
    torch.set_num_threads(1)
    lm = random_llama(layers, width)
    METHODS[method](lm, random_example(2, 2))
    gc.collect()
    with suppress(OSError):  # where it is forbidden, the peak of loading remains, hardly above the rest
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): the peak starts again from what is resident now
    loaded = _resident("VmRSS")
    METHODS[method](lm, random_example(prompt, answer))
    print(json.dumps({"loaded": loaded, "peak": _resident("VmHWM")}))


def _resident(name: str) -> int:
    """Bytes, of this process alone: ``ru_maxrss`` starts from the parent's on Linux, so it is for other systems."""
    if _STATUS.exists() and (
        found := re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    ):
        return int(found.group(1)) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_rate(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Matrix products alone, then the engine, taking turns; shares are of the same round's rates."""
    prompt, answer = sizes.typical
    lm, example = random_llama(sizes.layers, sizes.width), random_example(prompt, answer)
    run = partial(packed, lm, example)
    run()
    with executed() as operations:
        run()
    weights = _shapes(automatic_chunk(lm), sizes.width)
    products = {shape: _product(*shape) for shape in weights}
    large, mixed, engine = [], [], []
    single: dict[Shape, list[float]] = {shape: [] for shape in products}
    for _ in Rounds().over(range(options.repeat), "rate"):
        large.append(_best_rate((LARGE, LARGE, LARGE), _product(LARGE, LARGE, LARGE)))
        for shape, product in products.items():
            single[shape].append(_best_rate(shape, product))
        spent = sum(count * _operations(shape) / single[shape][-1] for shape, count in weights.items())
        mixed.append(sum(count * _operations(shape) for shape, count in weights.items()) / spent)
        engine.append((operations.matrix + operations.attention) / timed(run)[0])
    yield _rate_table(sizes, operations, large, mixed, single, engine)


def _shapes(tokens: int, width: int) -> dict[Shape, int]:
    """The engine's products ``[tokens, inputs] x [inputs, outputs]``, and how many a token meets per layer."""
    wide = 4 * width
    # q, k, v, o; gate and up, or all of the way back from them; down. The head's share is small and alike.
    return {(tokens, width, width): 4, (tokens, width, wide): 2, (tokens, wide, width): 1}


def _product(tokens: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(tokens, inputs, generator=generator)
    right = torch.randn(outputs, inputs, generator=generator)
    return partial(torch.nn.functional.linear, left, right)


def _operations(shape: Shape) -> int:
    return 2 * shape[0] * shape[1] * shape[2]


def _best_rate(shape: Shape, product: Callable[[], Tensor]) -> float:
    """Operations per CPU second, the best of some tries."""
    product()

    def calls() -> None:
        for _ in range(_CALLS):
            product()

    return _CALLS * _operations(shape) / min(timed(calls)[0] for _ in range(_TRIES))


def _rate_table(
    sizes: Sizes,
    operations: Operations,
    large: list[float],
    mixed: list[float],
    single: dict[Shape, list[float]],
    engine: list[float],
) -> Table:
    def row(what: str, rates: list[float]) -> dict[str, Value]:
        return {
            "what": what,
            "% of own shapes' rate": Spread.of(
                [100 * rate / own for rate, own in zip(rates, mixed, strict=True)]
            ),
            f"% of {LARGE}^3": Spread.of([100 * rate / own for rate, own in zip(rates, large, strict=True)]),
            "GFLOP/s": Spread.of([rate / 1e9 for rate in rates]),
        }

    prompt, answer = sizes.typical
    whole, attention = operations.matrix + operations.attention, operations.attention
    table = Table(
        "rate",
        f"Share of this machine's matrix rate, one thread, float32 (engine: X={prompt}, Y={answer})",
        notes=[
            (
                f"engine: {whole / 1e9:.3g} GFLOP as torch executed them ({attention / 1e9:.2g} of them "
                "attention's), over its whole CPU time: norms, activations, softmax and copies count as lost time"
            ),
            f"own shapes: products of one pass's tokens in the mix of a layer, each the best of {_TRIES} tries",
        ],
    )
    table.rows.append(row("packed engine", engine))
    table.rows.append(row("its own shapes, as mixed in a layer", mixed))
    for shape, rates in single.items():
        table.rows.append(row("  [{}, {}] x [{}, {}]".format(*shape[:2], *shape[1:]), rates))
    table.rows.append(row(f"[{LARGE}, {LARGE}] x [{LARGE}, {LARGE}]", large))
    return table


def measure_quadratures(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per rule for the integral over alpha, or one note that says why there is none."""
    bound = Tolerance()
    table = Table(
        "quadratures",
        f"Rules for the integral over alpha, {MODEL} on {DATASET}",
        notes=[
            "points: gradient evaluations per (layer, position), on average",
            "completeness error: |sum of attributions - (P(1) - P(0))| per answer token, mean over layers and examples",
            (
                f"error / bound: the worst layer's error over {bound.relative:g} |P(1) - P(0)| + {bound.absolute:g}; "
                "the adaptive rule is to stay below 1 with 30 points or fewer"
            ),
        ],
    )
    try:
        lm = caploc.load_model(MODEL)
        examples = caploc.load_examples(DATASET, path=DATA, split="locate", limit=sizes.examples)
        tokenized = [tokenize(lm, example) for example in examples]
    except CaplocError as error:
        table.notes = [f"not measured: {error}"]
        yield table
        return
    table.title += f" ({len(examples)} examples)"

    def attribute(rule: str) -> ScoreSums:
        with Attributor(lm, Method(STEPS, rule)) as attributor:
            return attributor.sums(tokenized)

    attribute("paper")  # untimed
    rounds, found = Rounds(), {}
    for _ in rounds.over(range(options.repeat), "rules"):
        for rule in _RULES:
            found[rule] = rounds.time(rule, partial(attribute, rule))
    for rule in _RULES:
        scores = found[rule].scores()
        allowed = bound.relative * scores.gap + bound.absolute
        table.rows.append(
            {
                "rule": rule,
                "points": float(scores.points.mean()),
                "most in a layer": float(scores.points.max()),
                "time / paper": rounds.ratio(rule, "paper"),
                "completeness error": float(scores.completeness.mean()),
                "in the worst layer": float(scores.completeness.max()),
                "error / bound": float((scores.completeness / allowed).max()),
                "CPU s": rounds.seconds(rule),
            }
        )
    yield table
