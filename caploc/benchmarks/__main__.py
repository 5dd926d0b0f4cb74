"""``python -m caploc.benchmarks NAME...``: measure, and print one table per question."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caploc.benchmarks import BENCHMARKS, Options, find_benchmark
from caploc.errors import CaplocError, OptionError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_READING = """\
reading the tables
  Ratios come first and travel between machines; seconds are this machine's. All times are CPU time
  (user + system) of one thread, so other work on the machine disturbs them little; the methods take
  turns within every round, so that what is left of it meets them all. "213 [208..221]" is the median,
  lowest and highest of the rounds. "by count" is the same ratio from an exact count of matrix products.

examples
  python -m caploc.benchmarks attribution                    all questions, about eight minutes
  python -m caploc.benchmarks attribution --only ratios      one question
  python -m caploc.benchmarks attribution --only ratios --whole --repeat 1
                                                             the slow methods in full, over an hour
  python -m caploc.benchmarks attribution --quick            does it run? a few seconds
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    listed = "\n".join(
        f"  {name}: {entry.summary}\n"
        + "\n".join(f"    {key:<12} {text}" for key, text in entry.questions.items())
        for name, entry in BENCHMARKS.items()
    )
    made = argparse.ArgumentParser(
        prog="python -m caploc.benchmarks",
        description=f"Measure caploc on this machine.\n\nbenchmarks and their questions\n{listed}",
        epilog=_READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("names", nargs="+", metavar="NAME", help=f"what to measure: {', '.join(BENCHMARKS)}")
    made.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="QUESTION",
        help="answer only this question (repeatable)",
    )
    made.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="rounds behind each median (default 3)"
    )
    made.add_argument(
        "--whole",
        action="store_true",
        help="time the slow methods on all answer positions and layers, not on an evenly spread sample",
    )
    made.add_argument(
        "--quick", action="store_true", help="tiny sizes, a few seconds; the ratios mean nothing then"
    )
    made.add_argument(
        "--shape",
        default="llama2-7b",
        metavar="NAME",
        help="benchmark gpu: a named model's shape (default llama2-7b), or tiny, which runs on a CPU",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine, options and tables there as well"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks named; 0, or 2 with one line on stderr where an option makes no sense."""
    chosen = parser().parse_args(arguments)
    try:
        _run(chosen)
    except CaplocError as error:
        print(f"caploc.benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def _run(chosen: argparse.Namespace) -> None:
    benchmarks = [find_benchmark(name) for name in dict.fromkeys(chosen.names)]
    options = Options(
        chosen.quick, chosen.whole, chosen.repeat, tuple(dict.fromkeys(chosen.only)), chosen.shape
    )
    if chosen.json is not None and not chosen.json.resolve().parent.is_dir():
        raise OptionError(
            f"--json {chosen.json}: there is no folder {chosen.json.resolve().parent}; make it first"
        )
    tables = [(benchmark, benchmark.run(options)) for benchmark in benchmarks]

    from caploc.benchmarks.measuring import header, load, machine, one_thread

    with one_thread():
        facts = machine()
        print(header(facts), flush=True)
        report: dict[str, Any] = {"schema": 2, "machine": facts, "options": vars(options), "benchmarks": {}}
        for benchmark, made in tables:
            print(f"\n{benchmark.name}: {benchmark.summary}", flush=True)
            done = report["benchmarks"][benchmark.name] = []
            for table in made:
                print(f"\n{table.text()}", flush=True)
                done.append(table.as_json())
    facts["load_at_the_end"] = load()
    print(f"\nload      {facts['load_at_the_end']} when it ended")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # read when numpy and torch are first imported, which is later
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    sys.exit(main())
