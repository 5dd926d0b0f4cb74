"""Benchmarks that anyone can repeat: ``python -m caploc.benchmarks NAME``.

A benchmark is a function that takes ``Options`` and yields one ``Table`` per question, as soon as it is measured. A
further one is a further entry in ``BENCHMARKS``. Nothing here imports numpy or torch: their threads are limited by the
environment, which ``__main__`` sets before either is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

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
    ==========  ==========================================================================================

    Raises:
        OptionError: fewer than one round.
    """

    quick: bool = False
    whole: bool = False
    repeat: int = 3
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise OptionError(f"repeat must be at least 1, got {self.repeat}")


@dataclass(frozen=True)
class Benchmark:
    """One named benchmark: what it asks, question by question, and the module whose ``run`` answers."""

    name: str
    summary: str
    questions: Mapping[str, str]
    home: str

    def run(self, options: Options) -> Iterator[Table]:
        """The tables, each as soon as it is measured.

        Raises:
            UnknownNameError: ``options.only`` names a question that this benchmark does not ask.
        """
        for question in options.only:
            if question not in self.questions:
                raise UnknownNameError(
                    f"benchmark {self.name!r} has no question {question!r}; known: {', '.join(self.questions)}"
                )
        runner: Callable[[Options], Iterator[Table]] = import_module(self.home).run
        return runner(options)


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
        "caploc.benchmarks.attribution",
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
