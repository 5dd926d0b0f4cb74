"""How much less CPU time the packed engine takes than the naive method and than captum, and how its time grows.

The unit of counted work is a token that passes a layer, forward or backward. ``caploc/tests/benchmarks`` checks the
counts against the matrix products that torch executes: they are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType

import torch
from torch import Tensor, nn

from caploc.attribution.engine import Attributor, Method
from caploc.attribution.integrate import integrate_fixed, layers_in_chunks
from caploc.attribution.method import fixed_rule
from caploc.attribution.packed import PackedModel
from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Pair, Rounds, all_pairs, check_same, sample_pairs
from caploc.benchmarks.models import random_example, random_llama
from caploc.benchmarks.tables import Table, Value, at_least, at_most
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel
from caploc.rows.clean import run_clean
from caploc.rows.sizing import automatic_chunk
from caploc.tests.oracles.attribution import captum_scores, reference_scores

STEPS = 19
POINTS = STEPS + 1

# Far above float32's rounding (1e-7 to 1e-6), far below any real difference.
_SAME = 1e-5

Rival = Callable[[LanguageModel, TokenizedExample, Pair], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Prompts of X and answers of Y tokens; a Llama of ``layers``, ``width`` and an MLP of 4 times that.

    ``least_ratio`` (over the naive method, by (X, Y)) and ``most_growth`` (longest prompt over shortest) are what
    caploc promises; None and empty where nothing is promised.
    """

    layers: int
    width: int
    ratios: tuple[tuple[int, int], ...]
    prompts: tuple[int, ...]
    answers: tuple[int, ...]
    depths: tuple[int, ...]
    typical: tuple[int, int]
    memory: tuple[tuple[int, int], ...]
    examples: int
    least_ratio: Mapping[tuple[int, int], float]
    most_growth: float | None


FULL = Sizes(
    layers=8,
    width=256,
    ratios=((32, 8), (128, 8), (128, 64), (256, 64)),
    prompts=(32, 64, 128, 256),
    answers=(8, 16, 32, 64),
    depths=(2, 4, 8),
    typical=(128, 64),
    memory=((128, 64), (256, 64)),
    examples=8,
    least_ratio=MappingProxyType({(128, 64): 150.0, (256, 64): 250.0}),
    most_growth=1.5,
)

QUICK = Sizes(
    layers=3,
    width=32,
    ratios=((8, 4),),
    prompts=(4, 8),
    answers=(2, 4),
    depths=(2, 3),
    typical=(8, 4),
    memory=((8, 4),),
    examples=1,
    least_ratio=MappingProxyType({}),
    most_growth=None,
)


def packed(lm: LanguageModel, example: TokenizedExample) -> Tensor:
    """The engine as users run it: ``[layers, neurons]``."""
    with Attributor(lm, Method(STEPS)) as attributor:
        return torch.from_numpy(attributor.sums([example]).total)


def packed_by_position(lm: LanguageModel, example: TokenizedExample) -> Tensor:
    """The same engine's scores before they are summed over positions: ``[layers, Y, neurons]``. Not timed."""
    with PackedModel(lm.model, lm.architecture) as model:
        clean = run_clean(lm.model, lm.architecture, example.input_ids, example.answer_start)
        rule = fixed_rule("paper", STEPS)
        integral = integrate_fixed(model, clean, model.run_unscaled(clean), *rule, automatic_chunk(lm))
        rows = [
            activation * model.to_neurons(layer, integral.gradients[layer])
            for layer, activation in enumerate(clean.activations)
        ]
    return torch.stack(rows).double() / len(clean.positions)


def naive(lm: LanguageModel, example: TokenizedExample, pair: Pair) -> Tensor:
    """The oracle, for the answer token at a position (0..Y-1) and a layer: ``[neurons]``."""
    return reference_scores(lm, example, Method(STEPS), only=[pair])[pair.layer]


def captum(lm: LanguageModel, example: TokenizedExample, pair: Pair) -> Tensor:
    """captum's IntegratedGradients, for the same: ``[neurons]``."""
    sequence = example.input_ids[: example.answer_start + pair.position]
    target = int(example.input_ids[example.answer_start + pair.position])
    projection = lm.architecture.mlp_out_of(lm.layers[pair.layer])
    return captum_scores(lm, projection, sequence, target, STEPS).double() / example.num_answer_tokens


def captum_missing() -> str | None:
    """Why captum cannot be timed, or None."""
    if find_spec("captum") is None:
        return "captum is not installed: python -m pip install captum"
    return None


@dataclass(frozen=True)
class Work:
    """Counts of tokens.

    Attributes:
        forward, backward: tokens x layers passed.
        head: tokens through the output head, both ways.
        projection: tokens taken back through an MLP output projection alone, to the neurons in front of it.
        mlp: tokens through an MLP alone, where rows join behind a layer's attention.
    """

    forward: int = 0
    backward: int = 0
    head: int = 0
    projection: int = 0
    mlp: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Work)))

    @property
    def layers(self) -> int:
        """Tokens x layers passed, both ways."""
        return self.forward + self.backward

    def operations(self, lm: LanguageModel) -> int:
        """Floating-point operations of the matrix products with weights (attention's own are not among them)."""
        layer, head = lm.layers[0], lm.model.get_output_embeddings()
        projection = lm.architecture.mlp_out_of(layer)
        into = [layer.get_submodule(path) for path in lm.architecture.mlp_in]
        tokens = [(layer, self.layers), (head, self.head), (projection, self.projection)]
        tokens += [(module, self.mlp) for module in (*into, projection)]
        return sum(2 * count * _weights(module) for module, count in tokens)


def _weights(module: nn.Module) -> int:
    """Entries of its matrices: norms and biases take part in no product."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)


def pair_work(layers: int, prompt: int, position: int, layer: int) -> Work:
    """The naive method and captum, for one answer position and layer: whole sequences, as often as there are points."""
    tokens = prompt + position
    batch = POINTS * tokens
    return Work(
        forward=(batch + tokens) * layers,  # tokens: the clean run
        backward=batch * (layers - 1 - layer),
        head=2 * batch + tokens,
        projection=batch,
    )


def all_pairs_work(layers: int, prompt: int, answer: int) -> Work:
    """The naive method and captum, whole."""
    return sum((pair_work(layers, prompt, *pair) for pair in all_pairs(layers, answer)), Work())


def packed_work(lm: LanguageModel, prompt: int, answer: int) -> Work:
    """The packed engine, with the paper's rule and its default chunks."""
    layers, clean = lm.num_layers, prompt + answer - 1
    work = Work(forward=clean * layers, head=clean)
    # alpha = 1, all layers
    work += Work(forward=answer * layers, backward=answer * (layers - 1), head=2 * answer)
    rows_of_layers = [(layer, POINTS - 1) for layer in range(layers)]
    for chunk in layers_in_chunks(rows_of_layers, answer, automatic_chunk(lm)):
        for layer, rows in chunk:
            tokens, above = rows * answer, layers - 1 - layer
            work += Work(forward=tokens * above, backward=tokens * above, head=2 * tokens, mlp=answer)
    return work + Work(projection=answer * layers)


def measure_ratios(sizes: Sizes, options: Options) -> Iterator[Table]:
    """The ratios, then the seconds and the work behind them."""
    lm = random_llama(sizes.layers, sizes.width)
    missing = captum_missing()
    rivals: dict[str, Rival] = {"naive": naive, **({} if missing else {"captum": captum})}
    ratios, behind = _tables(lm, sizes, missing)
    for prompt, answer in sizes.ratios:
        least = sizes.least_ratio.get((prompt, answer))
        ratio, seconds = _rows(lm, random_example(prompt, answer), rivals, options, least)
        ratios.rows.append(ratio)
        behind.rows.append(seconds)
    yield ratios
    yield behind


def _rows(
    lm: LanguageModel,
    example: TokenizedExample,
    rivals: dict[str, Rival],
    options: Options,
    least: float | None,
) -> tuple[dict[str, Value], dict[str, Value]]:
    """One size: its ratios, ``least`` promised of the first, and what is behind them."""
    answer, prompt, layers = example.num_answer_tokens, example.answer_start, lm.num_layers
    parts = sample_pairs(layers, answer, options.repeat)
    if options.whole:
        parts = [all_pairs(layers, answer)] * options.repeat
    # scores by position [layers, Y, neurons], whose sum is what the timed call returns
    ours, whole = packed_by_position(lm, example), packed(lm, example)
    error = float((whole - ours.sum(1)).abs().max() / whole.abs().max())
    _check(error, "its own scores by position")
    for rival in rivals.values():
        rival(lm, example, parts[0][0])  # untimed: what is made once only is made now
    slow, fast = all_pairs_work(layers, prompt, answer), packed_work(lm, prompt, answer)
    total, errors = slow.operations(lm), dict[str, float]()
    theirs: dict[str, dict[Pair, Tensor]] = {name: {} for name in rivals}
    rounds, run_packed = Rounds(), partial(packed, lm, example)
    for pairs in rounds.over(parts, f"X={prompt} Y={answer}"):
        scale = total / sum(pair_work(layers, prompt, *pair).operations(lm) for pair in pairs)
        rounds.time("packed", run_packed, 0.5)
        for index, pair in enumerate(pairs):
            if index == len(pairs) // 2:
                rounds.time("packed", run_packed, 0.5)
            for name, rival in rivals.items():
                theirs[name][pair] = rounds.time(name, partial(rival, lm, example, pair), scale)
    for name, by_pair in theirs.items():
        expected = torch.stack(list(by_pair.values()))
        found = torch.stack([ours[pair.layer, pair.position] for pair in by_pair])
        errors[name] = float((found - expected).abs().max() / expected.abs().max())
        _check(errors[name], name)
    counted, size = total / fast.operations(lm), {"X": prompt, "Y": answer}
    over_naive, over_captum = (rounds.ratio(name, "packed") for name in ("naive", "captum"))
    return {
        **size,
        "naive / packed": over_naive,
        "naive by count": counted,
        **at_least(over_naive, least),
        "captum / packed": over_captum,
        "captum by count": None if over_captum is None else counted,
        "error: naive": errors["naive"],
        "error: captum": errors.get("captum"),
        "pairs timed": f"{len({pair for pairs in parts for pair in pairs})} of {answer * layers}",
    }, {
        **size,
        **{f"{name} s": rounds.seconds(name) for name in ("packed", "naive", "captum")},
        "packed fwd": fast.forward / 1000,
        "packed bwd": fast.backward / 1000,
        "naive, captum fwd": slow.forward / 1000,
        "naive, captum bwd": slow.backward / 1000,
        "ratio of fwd + bwd": slow.layers / fast.layers,
    }


def _check(error: float, other: str) -> None:
    check_same(error, _SAME, f"the packed engine and {other}", "of the largest score", "attribution")


def _tables(lm: LanguageModel, sizes: Sizes, missing: str | None) -> tuple[Table, Table]:
    model = (
        f"Llama of {sizes.layers} layers, width {sizes.width}, MLP {lm.num_neurons}, float32, random weights"
    )
    notes = [
        (
            "X prompt tokens, Y answer tokens; naive: caploc.tests.oracles.attribution, the whole sequence for each "
            "answer position, layer and point; captum: IntegratedGradients, one call for each position and layer"
        ),
        (
            "a (position, layer) pair costs both the same whatever else is attributed, so a sample is timed (in every "
            "round each layer once, positions spread over the answer) and scaled by counted work; --whole times all"
        ),
        "error: largest difference from the packed engine's scores over the largest score, on the pairs timed",
        *([f"captum not measured: {missing}"] if missing else []),
    ]
    return (
        Table("ratios", f"CPU time over the packed engine's, {model}", notes=notes),
        Table(
            "ratios-seconds",
            "The CPU seconds and the work (thousands of tokens x layers passed) behind these ratios",
            notes=[
                "seconds of naive and captum are for all pairs, scaled from those timed",
                "the ratios by count above also count the output head, and the way back through the MLP's projection",
            ],
        ),
    )


def measure_growth(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table; along each axis the time is a multiple of the axis' first size's, in the same round."""
    prompt, answer = sizes.typical
    table = Table(
        "growth",
        f"Growth of the packed engine's CPU time, at {sizes.layers} layers, X={prompt}, Y={answer} but along one axis",
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
        most = sizes.most_growth if axis == "prompt X" else None
        table.rows += _growth_rows(axis, points, sizes.width, options.repeat, most)
    yield table


def _growth_rows(
    axis: str, points: Mapping[int, tuple[int, int, int]], width: int, repeat: int, most: float | None
) -> list[dict[str, Value]]:
    """By size along the axis: layers, prompt and answer. ``most`` is promised of the last."""
    runs, counts, rounds = {}, {}, Rounds()
    for size, (layers, prompt, answer) in points.items():
        lm = random_llama(layers, width)
        runs[size] = partial(packed, lm, random_example(prompt, answer))
        counts[size] = packed_work(lm, prompt, answer).operations(lm)
        runs[size]()
    for _ in rounds.over(range(repeat), axis):
        for size, run in runs.items():
            rounds.time(size, run)
    first, last = next(iter(points)), list(points)[-1]
    rows: list[dict[str, Value]] = []
    for size in points:
        ratio = rounds.ratio(size, first)
        promised = at_most(ratio, most if size == last else None)
        counted, seconds = counts[size] / counts[first], rounds.seconds(size)
        row: dict[str, Value] = {"along": axis, "size": size, "time / first": ratio, "by count": counted}
        rows.append({**row, **promised, "CPU s": seconds})
    return rows
