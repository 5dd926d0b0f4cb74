"""The store's command line: ``python -m caploc.store ls | verify | gc``."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from caploc.errors import CaplocError
from caploc.store import Store, host_name, leases

SOUND, DAMAGED, UNUSABLE = 0, 1, 2
SECONDS_A_DAY = 86_400
LONGEST_HEADER = 10**8
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_EPILOG = """\
examples

  python -m caploc.store ls                            what is kept, how much of it, and where
  python -m caploc.store verify                        exit status 1 if an entry is damaged
  python -m caploc.store verify --set-aside            and move such entries to damaged/
  python -m caploc.store gc --dry-run                  what would be removed
  python -m caploc.store gc --older-than 90 --keep 5G  old entries too, and the oldest beyond 5 GB

Nothing in a store is beyond repair: a run computes what it lacks. All commands may be used while runs go on.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, 1 if `verify` found damage, 2 if the store cannot be used."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--store", metavar="DIR", help="default: $CAPLOC_STORE, else the user's cache folder")
    parser = argparse.ArgumentParser(
        prog="python -m caploc.store",
        description="The results that the audit keeps: list them, verify them, clear them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[shared], help=text, description=text)

    command("ls", "Show number and size of the entries, by kind of result and model.")
    verify = command("verify", "Check the checksum of every entry; exit status 1 if one is damaged.")
    verify.add_argument(
        "--set-aside", action="store_true", help="move damaged entries to damaged/, to be computed again"
    )
    gc = command("gc", "Remove what was set aside as damaged, what killed processes left, and what is named.")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    gc.add_argument(
        "--older-than", metavar="DAYS", type=_days, help="entries written more than DAYS days ago"
    )
    gc.add_argument(
        "--keep", metavar="SIZE", type=_bytes, help="the oldest entries, until the rest takes SIZE (500M, 5G)"
    )
    given = parser.parse_args(arguments)
    store = Store(given.store)
    try:
        if given.command == "ls":
            return _list(store)
        if given.command == "verify":
            return _verify(store, given.set_aside)
        return _collect(store, given.dry_run, given.older_than, given.keep)
    except (CaplocError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    return UNUSABLE


def _list(store: Store) -> int:
    sizes: dict[str, list[int]] = defaultdict(list)
    for key in store.kept():
        sizes[_title(store.path(key))].append(_size(store.path(key)))
    for title, found in sorted(sizes.items(), key=lambda pair: -sum(pair[1])):
        _say(f"{len(found):>8,}  {_shown(sum(found)):>9}  {title}")
    every = [size for found in sizes.values() for size in found]
    _say(
        f"{len(every):>8,}  {_shown(sum(every)):>9}  in {store.root}, and {len(_set_aside(store))} set aside"
    )
    return SOUND


def _title(path: Path) -> str:
    """What an entry says that it is; only `verify` tells whether it is sound."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return "damaged"
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LONGEST_HEADER)))
        return header["__metadata__"].get("title") or "without a title"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "damaged"


def _verify(store: Store, set_aside: bool) -> int:
    keys = store.kept()
    damaged = 0
    for key in keys:
        reason = store.damage(key)
        if reason is not None:
            damaged += 1
            _say(f"damaged, as {reason}: {store.path(key)}")
            if set_aside:
                store.get(key)
    _say(f"{len(keys):,} entries in {store.root}, {damaged:,} damaged")
    return DAMAGED if damaged else SOUND


def _collect(store: Store, dry_run: bool, days: float | None, keep: int | None) -> int:
    groups = {
        "set aside as damaged": [(path, "") for path in _set_aside(store)],
        "left by killed processes": list(_left(store)),
        "old entries": [(store.path(key), key) for key in _old(store, days, keep)],
    }
    for name, found in groups.items():
        sizes = [_size(path) for path, _ in found]
        gone = [size for size, one in zip(sizes, found, strict=True) if dry_run or _remove(store, *one)]
        _say(f"{'would remove' if dry_run else 'removed'} {len(gone):,} {name}, {_shown(sum(gone))}")
    return SOUND


def _remove(store: Store, path: Path, key: str) -> bool:
    """Whether it is gone: what is being computed under its key right now stays."""
    with store.lock(key, blocking=False) if key else nullcontext(True) as held:
        if held is None:
            return False
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.suffix == ".lock":
            leases.clear(path.parent, key)
        else:
            path.unlink(missing_ok=True)
            if key:
                leases.clear(store.root / "locks", key)
        return True


def _set_aside(store: Store) -> list[Path]:
    return sorted(store.root.glob("damaged/*"))


def _left(store: Store) -> Iterator[tuple[Path, str]]:
    """Temporary files and locks, with their keys: another machine's, which may be in use unseen, after a day."""
    for path in sorted(store.root.glob("v*/*/.*.tmp")):
        if path.name.endswith(f".{host_name()}.tmp") or _age(path) > 1:
            yield path, path.name[1:65]
    for path in sorted(store.root.glob("locks/*")):
        if _age(path) > 1 and "." not in path.stem[1:]:  # further ones of a key go with the first
            yield path, path.stem if path.suffix == ".lock" else ""


def _old(store: Store, days: float | None, keep: int | None) -> Iterator[str]:
    """Entries of more than ``days`` days ago, and the oldest of all that take more than ``keep`` bytes."""
    total = 0
    for age, key in sorted((_age(store.path(key)), key) for key in store.kept()):
        total += _size(store.path(key))
        if age > (math.inf if days is None else days) or total > (math.inf if keep is None else keep):
            yield key


def _age(path: Path) -> float:
    """Days since it was written; 0 where another process has removed it."""
    return (time.time() - path.lstat().st_mtime) / SECONDS_A_DAY if os.path.lexists(path) else 0.0


def _size(path: Path) -> int:
    return path.lstat().st_size if os.path.lexists(path) else 0


def _shown(size: float) -> str:
    unit = next(unit for unit in reversed(_UNITS) if size >= _UNITS[unit] or not unit)
    return f"{size / _UNITS[unit]:.{1 if unit else 0}f} {unit}B"


def _days(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return float(text)


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 500M or 5G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
