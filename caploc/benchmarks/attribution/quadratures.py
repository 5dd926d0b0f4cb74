"""What each rule for the integral over alpha costs and how close it comes, on the embedded tiny Llama."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import caploc
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.method import Tolerance
from caploc.attribution.sums import ScoreSums
from caploc.benchmarks import Options
from caploc.benchmarks.attribution.sizes import Sizes
from caploc.benchmarks.attribution.work import STEPS
from caploc.benchmarks.tables import Spread, Table
from caploc.benchmarks.timing import cpu_seconds
from caploc.errors import CaplocError
from caploc.examples import TokenizedExample, tokenize
from caploc.models import LanguageModel

MODEL, DATASET = "tiny-llama", "gsm8k"
_DATA = Path(caploc.__file__).resolve().parent.parent / "fixtures" / "data"
_RULES = ("paper", "trapezoid", "gauss-legendre", "adaptive")


def measure_quadratures(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per rule, or one note that says why there is none."""
    bound = Tolerance()
    table = Table(
        "quadratures",
        f"Rules for the integral over alpha, {MODEL} on {DATASET}",
        {
            "rule": "rule",
            "points": "points",
            "most": "most in a layer",
            "time": "time / paper",
            "error": "completeness error",
            "worst": "in the worst layer",
            "bound": "error / bound",
            "seconds": "CPU s",
        },
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
        examples = caploc.load_examples(DATASET, path=_DATA, split="locate", limit=sizes.examples)
        tokenized = [tokenize(lm, example) for example in examples]
    except CaplocError as error:
        table.notes = [f"not measured: {error}"]
        yield table
        return
    table.title += f" ({len(examples)} examples)"
    _measure(table, lm, tokenized, options)
    yield table


def _measure(table: Table, lm: LanguageModel, examples: list[TokenizedExample], options: Options) -> None:
    found: dict[str, ScoreSums] = {}

    def attribute(rule: str) -> None:
        with Attributor(lm, Method(STEPS, rule)) as attributor:
            found[rule] = attributor.sums(examples)

    attribute("paper")  # untimed
    rounds = [{rule: cpu_seconds(partial(attribute, rule)) for rule in _RULES} for _ in range(options.repeat)]
    tolerance = Tolerance()
    for rule in _RULES:
        scores = found[rule].scores()
        allowed = tolerance.relative * scores.gap + tolerance.absolute
        table.rows.append(
            {
                "rule": rule,
                "points": float(scores.points.mean()),
                "most": float(scores.points.max()),
                "time": Spread.of([seconds[rule] / seconds["paper"] for seconds in rounds]),
                "error": float(scores.completeness.mean()),
                "worst": float(scores.completeness.max()),
                "bound": float((scores.completeness / allowed).max()),
                "seconds": Spread.of([seconds[rule] for seconds in rounds]),
            }
        )
