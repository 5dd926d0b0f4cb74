"""The audit's command line beside pytest: ``python -m caploc.audit compare A.json B.json``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from caploc.audit.compare import Comparison, load_run, report
from caploc.errors import CaplocError

SAME, MOVED, BAD_INPUT = 0, 1, 2

_HELP = """\
Compare two runs of the audit by the JSON summaries they wrote: for --html=reports/new.html that is reports/new.json,
without --html reports/ledger.json. Listed are

  the verdicts that moved, those that follow from others included;
  the estimates that lie outside the other run's interval, in either direction;
  the cells that only one run has, or that one run could not run;
  what differs in settings, packages, commit, models, data, and in the rules (the digest of the paper's file).
"""

_STATUS = """\
exit status: 0 if no verdict moved, 1 if one did, 2 if the files cannot be compared

example: did a change of seed change what we conclude?

  pytest claims -m "not gpu" --html=reports/a.html
  pytest claims -m "not gpu" --html=reports/b.html --seed 1
  python -m caploc.audit compare reports/a.json reports/b.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m caploc.audit", description="What can be done with the results of an audit."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    compare = commands.add_parser(
        "compare",
        help="what changed from one run to another",
        description=_HELP,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("a", metavar="A.json", type=Path, help="the earlier run")
    compare.add_argument("b", metavar="B.json", type=Path, help="the later run")
    given = parser.parse_args(arguments)
    try:
        comparison = Comparison(load_run(given.a), load_run(given.b))
    except CaplocError as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    _write(report(comparison))
    if not comparison.common:
        sys.stderr.write("error: the two runs have no cell in common; nothing was compared\n")
        return BAD_INPUT
    return MOVED if comparison.moved or comparison.moved_derived else SAME


def _write(lines: Iterable[str]) -> None:
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
