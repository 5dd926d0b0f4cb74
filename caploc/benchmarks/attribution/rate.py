"""Which share of this machine's own matrix rate the packed engine reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.attribution import methods
from caploc.benchmarks.attribution.sizes import Sizes, bench_llama, random_example
from caploc.benchmarks.attribution.work import executed
from caploc.benchmarks.tables import Spread, Table, Value
from caploc.benchmarks.timing import cpu_seconds
from caploc.rows.sizing import automatic_chunk

LARGE = 1024
_TRIES, _CALLS = 5, 4


def measure_rate(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Matrix products alone, then the engine, taking turns; shares are of the same round's rates."""
    prompt, answer = sizes.typical
    lm, example = bench_llama(sizes.layers, sizes.width), random_example(prompt, answer)
    run = partial(methods.packed, lm, example)
    run()
    with executed() as operations:
        run()
    weights = _shapes(automatic_chunk(lm), sizes.width)
    products = {shape: _product(*shape) for shape in weights}
    large, mixed, engine = [], [], []
    single: dict[tuple[int, int, int], list[float]] = {shape: [] for shape in products}
    for _ in tqdm(range(options.repeat), desc="rate", unit="round", disable=None, leave=False):
        large.append(_best_rate((LARGE, LARGE, LARGE), _product(LARGE, LARGE, LARGE)))
        for shape, product in products.items():
            single[shape].append(_best_rate(shape, product))
        spent = sum(count * _operations(shape) / single[shape][-1] for shape, count in weights.items())
        mixed.append(sum(count * _operations(shape) for shape, count in weights.items()) / spent)
        engine.append((operations.matrix + operations.attention) / cpu_seconds(run))
    yield _table(sizes, operations.matrix, operations.attention, large, mixed, single, engine)


def _shapes(tokens: int, width: int) -> dict[tuple[int, int, int], int]:
    """The engine's products ``[tokens, inputs] x [inputs, outputs]``, and how many a token meets per layer."""
    wide = 4 * width
    # q, k, v, o; gate and up, or all of the way back from them; down. The head's share is small and alike.
    return {(tokens, width, width): 4, (tokens, width, wide): 2, (tokens, wide, width): 1}


def _product(tokens: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(tokens, inputs, generator=generator)
    right = torch.randn(outputs, inputs, generator=generator)
    return partial(torch.nn.functional.linear, left, right)


def _operations(shape: tuple[int, int, int]) -> int:
    return 2 * shape[0] * shape[1] * shape[2]


def _best_rate(shape: tuple[int, int, int], product: Callable[[], Tensor]) -> float:
    """Operations per CPU second, the best of some tries."""
    product()

    def calls() -> None:
        for _ in range(_CALLS):
            product()

    return _CALLS * _operations(shape) / min(cpu_seconds(calls) for _ in range(_TRIES))


def _table(
    sizes: Sizes,
    matrix: int,
    attention: int,
    large: list[float],
    mixed: list[float],
    single: dict[tuple[int, int, int], list[float]],
    engine: list[float],
) -> Table:
    def row(what: str, rates: list[float]) -> dict[str, Value]:
        return {
            "what": what,
            "share": Spread.of([100 * rate / own for rate, own in zip(rates, mixed, strict=True)]),
            "share_large": Spread.of([100 * rate / own for rate, own in zip(rates, large, strict=True)]),
            "rate": Spread.of([rate / 1e9 for rate in rates]),
        }

    prompt, answer = sizes.typical
    table = Table(
        "rate",
        f"Share of this machine's matrix rate, one thread, float32 (engine: X={prompt}, Y={answer})",
        {
            "what": "what",
            "share": "% of own shapes' rate",
            "share_large": f"% of {LARGE}^3",
            "rate": "GFLOP/s",
        },
        notes=[
            (
                f"engine: {(matrix + attention) / 1e9:.3g} GFLOP as torch executed them ({attention / 1e9:.2g} of them "
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
