"""``python -m caploc.zoo NAME FOLDER``: unpack a model of the zoo and its tasks, and say how to audit it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from caploc.errors import CaplocError
from caploc.zoo import KINDS, zoo_names
from caploc.zoo.unpacking import unpack_zoo_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack the model; 0, or 2 with one line on stderr where that cannot be done."""
    listed = "\n".join(f"  {kind}: {', '.join(zoo_names(kind))}" for kind in KINDS)
    made = argparse.ArgumentParser(
        prog="python -m caploc.zoo",
        description="Write a model whose localization is known, with its tasks, to files that an audit takes.",
        epilog=f"models by kind\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", metavar="NAME", help="the model")
    made.add_argument("folder", metavar="FOLDER", help="where to; it is made where there is none")
    chosen = made.parse_args(arguments)
    try:
        unpacked = unpack_zoo_model(chosen.name, chosen.folder)
    except CaplocError as error:
        sys.stderr.write(f"caploc.zoo: {error}\n")
        return 2
    sys.stdout.write(f"pytest claims {unpacked.options}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
