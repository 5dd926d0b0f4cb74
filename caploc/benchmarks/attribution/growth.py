"""How the packed engine's time grows with the prompt, the answer and the model's depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.attribution import speed as methods
from caploc.benchmarks.attribution.speed import Sizes, packed_work
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.models import random_example
from caploc.benchmarks.models import random_llama as bench_llama
from caploc.benchmarks.tables import Spread, Table, at_most


def measure_growth(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table; along each axis the time is a multiple of the axis' first size's, in the same round."""
    prompt, answer = sizes.typical
    table = Table(
        "growth",
        f"Growth of the packed engine's CPU time, at {sizes.layers} layers, X={prompt}, Y={answer} but along one axis",
        {
            "axis": "along",
            "size": "size",
            "ratio": "time / first",
            "counted": "by count",
            "asked": "asked",
            "met": "met",
            "seconds": "CPU s",
        },
        notes=[
            "by count: matrix products with weights; attention itself, which alone grows with X, is not counted",
            "in L the work is about L^2 / 2: a token that enters behind a layer passes those above it",
        ],
    )
    axes = {
        "prompt X": {size: (sizes.layers, size, answer) for size in sizes.prompts},
        "answer Y": {size: (sizes.layers, prompt, size) for size in sizes.answers},
        "layers L": {size: (size, prompt, answer) for size in sizes.depths},
    }
    for axis, points in axes.items():
        _measure_axis(table, axis, points, sizes, options)
    yield table


def _measure_axis(
    table: Table, axis: str, points: Mapping[int, tuple[int, int, int]], sizes: Sizes, options: Options
) -> None:
    runs, counts = {}, {}
    for size, (layers, prompt, answer) in points.items():
        lm = bench_llama(layers, sizes.width)
        runs[size] = partial(methods.packed, lm, random_example(prompt, answer))
        counts[size] = packed_work(lm, prompt, answer).operations(lm)
        runs[size]()
    rounds = [
        {size: cpu_seconds(run) for size, run in runs.items()}
        for _ in tqdm(range(options.repeat), desc=axis, unit="round", disable=None, leave=False)
    ]
    first, last = next(iter(points)), list(points)[-1]
    for size in points:
        ratio = Spread.of([seconds[size] / seconds[first] for seconds in rounds])
        most = sizes.most_growth if axis == "prompt X" and size == last else None
        table.rows.append(
            {
                "axis": axis,
                "size": size,
                "ratio": ratio,
                "counted": counts[size] / counts[first],
                **at_most(ratio, most),
                "seconds": Spread.of([seconds[size] for seconds in rounds]),
            }
        )
