"""How much less CPU time the packed engine takes than the naive method and than captum, for the same scores."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.attribution import speed as methods
from caploc.benchmarks.attribution.speed import Pair, Sizes, all_pairs_work, packed_work, pair_work
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.models import random_example
from caploc.benchmarks.models import random_llama as bench_llama
from caploc.benchmarks.tables import Spread, Table, Value, at_least
from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel

# Far above float32's rounding (1e-7 to 1e-6), far below any real difference.
_SAME = 1e-5

Rival = Callable[[LanguageModel, TokenizedExample, Pair], Tensor]


def sample_pairs(layers: int, answer: int, rounds: int, seed: int = 0) -> list[list[Pair]]:
    """An evenly spread sample: each round has every layer once, each at a position from another stretch of the answer.

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
            pairs.append(Pair(int((stretch + drawn.random()) * answer / layers), layer))
        sample.append(pairs)
    return sample


@dataclass
class Measured:
    """One size's rounds: CPU seconds of whole runs, the rivals' scaled from their samples, and largest errors."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    pairs_timed: int = 0

    def ratio(self, rival: str) -> Spread | None:
        """CPU time of ``rival`` over the packed engine's, round by round."""
        if rival not in self.seconds:
            return None
        return Spread.of(
            [slow / fast for slow, fast in zip(self.seconds[rival], self.seconds["packed"], strict=True)]
        )

    def spread(self, method: str) -> Spread | None:
        """CPU seconds of a whole run."""
        return Spread.of(self.seconds[method]) if method in self.seconds else None


def measure_ratios(sizes: Sizes, options: Options) -> Iterator[Table]:
    """The ratios, then the seconds and the work behind them."""
    lm = bench_llama(sizes.layers, sizes.width)
    missing = methods.captum_missing()
    rivals: dict[str, Rival] = {"naive": methods.naive, **({} if missing else {"captum": methods.captum})}
    ratios, behind = _tables(lm, sizes, missing)
    for prompt, answer in sizes.ratios:
        measured = _measure(lm, random_example(prompt, answer), rivals, options)
        ratios.rows.append(_ratio_row(lm, sizes, prompt, answer, measured))
        behind.rows.append(_behind_row(lm, prompt, answer, measured))
    yield ratios
    yield behind


def _measure(
    lm: LanguageModel, example: TokenizedExample, rivals: dict[str, Rival], options: Options
) -> Measured:
    answer, prompt = example.num_answer_tokens, example.answer_start
    if options.whole:
        rounds = [[Pair(m, layer) for m in range(answer) for layer in range(lm.num_layers)]] * options.repeat
    else:
        rounds = sample_pairs(lm.num_layers, answer, options.repeat)
    measured = Measured(pairs_timed=len({pair for pairs in rounds for pair in pairs}))
    ours = _check_whole(lm, example)
    run_packed = partial(methods.packed, lm, example)
    for rival in rivals.values():
        rival(lm, example, rounds[0][0])  # untimed: what is made once only is made now
    total = all_pairs_work(lm.num_layers, prompt, answer).operations(lm)
    theirs: dict[str, dict[Pair, Tensor]] = {name: {} for name in rivals}
    for pairs in tqdm(rounds, desc=f"X={prompt} Y={answer}", unit="round", disable=None, leave=False):
        spent = dict.fromkeys(rivals, 0.0)
        fast = cpu_seconds(run_packed)
        for index, pair in enumerate(pairs):
            if index == len(pairs) // 2:
                fast = (fast + cpu_seconds(run_packed)) / 2
            for name, rival in rivals.items():
                run = _Kept(partial(rival, lm, example, pair))
                spent[name] += cpu_seconds(run)
                theirs[name][pair] = run.result
        sampled = sum(pair_work(lm.num_layers, prompt, *pair).operations(lm) for pair in pairs)
        measured.seconds.setdefault("packed", []).append(fast)
        for name in rivals:
            measured.seconds.setdefault(name, []).append(spent[name] * total / sampled)
    for name in rivals:
        measured.errors[name] = _error(ours, theirs[name], name)
    return measured


class _Kept:
    """A call whose result is kept, so that timing it needs no second run."""

    def __init__(self, call: Callable[[], Tensor]) -> None:
        self._call = call
        self.result = torch.empty(0)

    def __call__(self) -> None:
        self.result = self._call()


def _check_whole(lm: LanguageModel, example: TokenizedExample) -> Tensor:
    """Scores by position ``[layers, Y, neurons]``, whose sum is what the timed call returns."""
    ours = methods.packed_by_position(lm, example)
    timed = methods.packed(lm, example)
    _refuse(float((timed - ours.sum(1)).abs().max() / timed.abs().max()), "its own scores by position")
    return ours


def _error(ours: Tensor, theirs: dict[Pair, Tensor], name: str) -> float:
    """Largest difference over largest score, over the pairs that were timed."""
    expected = torch.stack(list(theirs.values()))
    found = torch.stack([ours[pair.layer, pair.position] for pair in theirs])
    error = float((found - expected).abs().max() / expected.abs().max())
    _refuse(error, name)
    return error


def _refuse(error: float, name: str) -> None:
    if not error <= _SAME:
        raise ModelError(
            f"the packed engine and {name} differ by {error:.2g} of the largest score (rounding is below {_SAME:g}), "
            "so their times say nothing; run `python -m pytest caploc/tests/attribution`"
        )


def _tables(lm: LanguageModel, sizes: Sizes, missing: str | None) -> tuple[Table, Table]:
    model = (
        f"Llama of {sizes.layers} layers, width {sizes.width}, MLP {lm.num_neurons}, float32, random weights"
    )
    ratios = {
        "prompt": "X",
        "answer": "Y",
        "naive": "naive / packed",
        "naive_count": "by count",
        "asked": "asked",
        "met": "met",
        "captum": "captum / packed",
        "captum_count": "by count",
        "naive_error": "error: naive",
        "captum_error": "captum",
        "pairs": "pairs timed",
    }
    notes = [
        (
            "X prompt tokens, Y answer tokens; naive: caploc.attribution.reference, the whole sequence for each answer "
            "position, layer and point; captum: IntegratedGradients, one call for each position and layer"
        ),
        (
            "a (position, layer) pair costs both the same whatever else is attributed, so a sample is timed (in every "
            "round each layer once, positions spread over the answer) and scaled by counted work; --whole times all"
        ),
        "error: largest difference from the packed engine's scores over the largest score, on the pairs timed",
        *([f"captum not measured: {missing}"] if missing else []),
    ]
    behind = {
        "prompt": "X",
        "answer": "Y",
        "packed": "packed s",
        "naive": "naive s",
        "captum": "captum s",
        "packed_forward": "packed fwd",
        "packed_backward": "bwd",
        "naive_forward": "naive, captum fwd",
        "naive_backward": "bwd",
        "work": "ratio of fwd + bwd",
    }
    return (
        Table("ratios", f"CPU time over the packed engine's, {model}", ratios, notes=notes),
        Table(
            "ratios-seconds",
            "The CPU seconds and the work (thousands of tokens x layers passed) behind these ratios",
            behind,
            notes=[
                "seconds of naive and captum are for all pairs, scaled from those timed",
                "the ratios by count above also count the output head, and the way back through the MLP's projection",
            ],
        ),
    )


def _ratio_row(
    lm: LanguageModel, sizes: Sizes, prompt: int, answer: int, measured: Measured
) -> dict[str, Value]:
    layers = lm.num_layers
    counted = all_pairs_work(layers, prompt, answer).operations(lm) / packed_work(
        lm, prompt, answer
    ).operations(lm)
    ratio = measured.ratio("naive")
    return {
        "prompt": prompt,
        "answer": answer,
        "naive": ratio,
        "naive_count": counted,
        **at_least(ratio, sizes.least_ratio.get((prompt, answer))),
        "captum": measured.ratio("captum"),
        "captum_count": counted if "captum" in measured.seconds else None,
        "naive_error": measured.errors["naive"],
        "captum_error": measured.errors.get("captum"),
        "pairs": f"{measured.pairs_timed} of {answer * layers}",
    }


def _behind_row(lm: LanguageModel, prompt: int, answer: int, measured: Measured) -> dict[str, Value]:
    fast = packed_work(lm, prompt, answer)
    slow = all_pairs_work(lm.num_layers, prompt, answer)
    return {
        "prompt": prompt,
        "answer": answer,
        **{name: measured.spread(name) for name in ("packed", "naive", "captum")},
        "packed_forward": fast.forward / 1000,
        "packed_backward": fast.backward / 1000,
        "naive_forward": slow.forward / 1000,
        "naive_backward": slow.backward / 1000,
        "work": slow.layers / fast.layers,
    }
