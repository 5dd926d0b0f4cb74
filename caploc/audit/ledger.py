"""The ledger: JSON Lines on disk, one line a finding, written as it happens; the truth that reports are made from.

Line types: ``provenance`` (the first line), ``planned`` (every cell that was collected), ``finding``, and at the
end of a run ``cell`` (one for each that ended without a finding) and ``summary``. Strict JSON: no nan, ASCII only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from caploc.findings import plain


class Ledger:
    """One run's ledger, which any number of processes may write to.

    ``run`` tells this run's file from an earlier one of the same name, which `start` replaces. A line is written
    under a lock and in one go; a line that a killed process left half-written spoils no other.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        self._lock_path = path.with_name(f".{path.name}.lock")

    def start(self, head: Callable[[], Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]) -> None:
        """Begins the file with ``head()`` and ``lines``, unless a process of this run has done so already."""
        with self._locked():
            if self._run_on_disk() == self.run:
                return
            first = {"type": "provenance", "run": self.run, **head()}
            temporary = self.path.with_name(f".{self.path.name}.new")
            temporary.write_bytes(b"".join(map(_line, [first, *lines])))
            os.replace(temporary, self.path)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds one line."""
        with self._locked(), self.path.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            else:
                torn = False
            file.write((b"\n" if torn else b"") + _line(entry))

    def read(self) -> list[dict[str, Any]]:
        """The lines of this run, none if it has written none; half-written lines are left out."""
        if self._run_on_disk() != self.run:
            return []
        return list(_objects(self.path))

    def tidy(self) -> None:
        """Removes the lock file; for the last process of a run."""
        with suppress(OSError):
            self._lock_path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self._lock_path)):
            yield

    def _run_on_disk(self) -> str | None:
        with suppress(OSError, StopIteration):
            return str(next(_objects(self.path)).get("run"))
        return None


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(entry), allow_nan=False, ensure_ascii=True).encode() + b"\n"


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry
