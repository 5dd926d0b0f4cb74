"""Benchmarks that anyone can repeat: ``python -m caploc.benchmarks NAME``.

A benchmark yields a ``Table`` for each of its questions, as soon as it is measured. A further one is a further entry in
``BENCHMARKS`` and a module of that name. They need the oracles of ``caploc/tests/`` and the embedded data of
``fixtures/``, so they run from a clone of the repository and are no part of the wheel.

Nothing in this file imports numpy or torch: their threads are limited by the environment, which ``__main__`` sets
before either is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from caploc.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from caploc.benchmarks.tables import Table


@dataclass(frozen=True)
class Options:
    """What a benchmark is asked.

    ==========  ==========================================================================================
    ``quick``   sizes that take seconds: shows that it runs; its ratios mean nothing
    ``whole``   time all of the slow methods' work, not an evenly spread sample of it
    ``repeat``  rounds; every round times every method once, and medians over rounds are shown
    ``only``    the questions to answer, empty for all
    ``shape``   of which model of the registry the benchmark ``gpu`` makes one with random weights; or ``tiny``
    ==========  ==========================================================================================

    Raises:
        OptionError: fewer than one round.
    """

    quick: bool = False
    whole: bool = False
    repeat: int = 3
    only: tuple[str, ...] = ()
    shape: str = "llama2-7b"

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise OptionError(f"repeat must be at least 1, got {self.repeat}")


@dataclass(frozen=True)
class Benchmark:
    """One named benchmark and what it asks, question by question.

    The module ``caploc.benchmarks.NAME`` answers. It has the sizes ``FULL`` and ``QUICK`` and, for each question, a
    function ``measure_QUESTION`` of (sizes, options) that yields tables.
    """

    name: str
    summary: str
    questions: Mapping[str, str]

    def run(self, options: Options) -> Iterator[Table]:
        """The tables of the questions asked, in order, each as soon as it is measured.

        Raises:
            UnknownNameError: ``options.only`` names a question that this benchmark does not ask.
        """
        for question in options.only:
            if question not in self.questions:
                raise UnknownNameError(
                    f"benchmark {self.name!r} has no question {question!r}; known: {', '.join(self.questions)}"
                )
        return self._answers(options)

    def _answers(self, options: Options) -> Iterator[Table]:
        module = import_module(f"{__name__}.{self.name}")
        sizes = module.QUICK if options.quick else module.FULL
        for question in self.questions:
            if not options.only or question in options.only:
                measure: Callable[[Any, Options], Iterator[Table]] = getattr(module, f"measure_{question}")
                yield from measure(sizes, options)


_TABLE = (
    Benchmark(
        "attribution",
        "the packed attribution engine against the naive method and captum, on a random Llama and the embedded one",
        MappingProxyType(
            {
                "ratios": "how much less CPU time than the naive method and than captum",
                "growth": "how time grows with prompt X, answer Y and layers L",
                "memory": "peak memory of a pass, beside the naive method's for one position and layer",
                "rate": "which share of this machine's own matrix rate is reached",
                "quadratures": "points, time and completeness error of the rules for the integral",
            }
        ),
    ),
    Benchmark(
        "circuits",
        "exact pruning of knowledge circuits against one forward pass an edge, and EAP-IG beside it",
        MappingProxyType(
            {
                "speed": "how much less CPU time exact pruning takes than the direct way",
                "methods": "time a fact of every method, agreement of EAP-IG with exact ablation, recall",
            }
        ),
    ),
    Benchmark(
        "tracing",
        "causal tracing against one run of the whole sequence for each state, on random Llamas and a GPT-J",
        MappingProxyType({"ratios": "how much less CPU time than the direct way"}),
    ),
    Benchmark(
        "editing",
        "rank-one edits of all layers of a fact together against one layer at a time, and whether they take",
        MappingProxyType(
            {
                "speed": "how much less CPU time all layers together take than each by itself",
                "success": "efficacy, paraphrase and neighbourhood scores by layer",
            }
        ),
    ),
    Benchmark(
        "enhancement",
        "training a few neurons' rows and columns against fine-tuning the whole model with masked gradients",
        MappingProxyType(
            {
                "steps": "how much less CPU time and memory a training step takes",
                "memory": "how gradients and optimizer state grow with the neurons that are trained",
            }
        ),
    ),
    Benchmark(
        "erasure",
        "scores with many sets of neurons erased, all together against one set after the other with weights zeroed",
        MappingProxyType({"ratios": "how much less CPU time than the direct way"}),
    ),
    Benchmark(
        "gpu",
        "what a CUDA GPU does in a second on a model of --shape with random weights; nothing is downloaded",
        MappingProxyType(
            {
                "hours": "what the cost model reckons for the audit of the paper's models; needs no GPU",
                "rates": "samples and TFLOP a second, peak memory, and the hours that locating on GSM8K takes",
            }
        ),
    ),
    Benchmark(
        "locators",
        "every locator on the zoo's models, of which it is known which neurons carry a task",
        MappingProxyType(
            {"planted": "who finds planted neurons: ranking, set, decoys, false discoveries, time"}
        ),
    ),
    Benchmark(
        "truth",
        "claims audited on the zoo's models, of which it is known whether they hold: weights in, verdict out",
        MappingProxyType(
            {
                "characteristics": "how often each rule is right, wrong and undecided; written beside the zoo",
            }
        ),
    ),
    Benchmark(
        "statistics",
        "the intervals and tests behind every verdict, on samples whose truth is known",
        MappingProxyType(
            {
                "coverage": "how often a 95 % interval of a mean holds it",
                "proportions": "the same for proportions and paired differences of them, enumerated",
                "levels": "how often each test rejects a null hypothesis that holds",
                "power": "how often the minimum detectable effect is found",
                "rules": "power and both error rates of every claim's rule at default sizes",
                "looks": "the same with --samples auto, and the share of the facts that it takes",
                "times": "what a call costs",
            }
        ),
    ),
)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({entry.name: entry for entry in _TABLE})


def find_benchmark(name: str) -> Benchmark:
    """The benchmark called ``name``.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    if name not in BENCHMARKS:
        raise UnknownNameError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
