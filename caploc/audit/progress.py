"""How far the computing of a run has come: told by all its processes, shown in pytest's own terminal reporter.

Each process keeps a small file of its own in a folder of the run; the process with the terminal reads them. The line is
gone while a test runs: then the terminal has something else to show.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caploc.audit.text import duration, in_ascii, plural

if TYPE_CHECKING:
    from caploc.experiments.specs import Outlook, Progress

SECONDS_BETWEEN_WRITES = 0.5
SECONDS_BETWEEN_LOOKS = 0.2
SHARE_BETWEEN_LINES, SECONDS_BETWEEN_LINES = 0.1, 60.0
"""In a log, where no line can be written over, a new one comes only after so much more work or time."""
LONGEST_TITLE = 60


def plan_line(outlook: Outlook | None, kept: int = 0, cells: int = 0) -> str:
    """``plan: 30 results for 2 models, 12 in the store, 18 to compute, about 1.4 TFLOP``; before it how many of the
    cells are ``kept``, measured by earlier runs. No outlook: nothing is needed."""
    before = f"{kept} of {plural(cells, 'cell')} measured by earlier runs" if kept else ""
    if outlook is None:
        return f"plan: {before}"
    return f"plan: {before}; {_needed(outlook)}" if before else f"plan: {_needed(outlook)}"


def _needed(outlook: Outlook) -> str:
    known = f"{plural(outlook.results, 'result')} for {plural(outlook.models, 'model')}"
    missing = outlook.results - outlook.stored
    if not missing:
        return f"{known}, all of them in the store"
    work = f", about {outlook.flops / 1e12:.2g} TFLOP" if outlook.flops else ""
    return f"{known}, {outlook.stored} in the store, {missing} to compute{work}"


class ProgressFile:
    """What one process tells of its computing."""

    def __init__(self, folder: Path, process: str) -> None:
        self._path = folder / f"{process}.json"
        self._told: dict[str, Any] = {}
        self._written = 0.0

    def plan(self, outlook: Outlook | None, kept: int = 0, cells: int = 0) -> None:
        """What is about to be computed (`plan_line`)."""
        self._tell(plan=plan_line(outlook, kept, cells))

    def progress(self, progress: Progress) -> None:
        """How far a plan has come; takes note of it at most every `SECONDS_BETWEEN_WRITES`."""
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self._tell(
                share=progress.share,
                left=progress.seconds_left,
                results=progress.results,
                missing=progress.missing,
                what=progress.what,
                rate=progress.done / progress.seconds if progress.seconds > 0 else 0.0,
            )

    def rest(self) -> None:
        """A phase is computed: tests come next."""
        self._tell(what="")

    def end(self, results: int, seconds: float) -> None:
        """Nothing is left to compute; so many missing results there are by now."""
        self._tell(results=results, seconds=seconds, ended=True)

    def _tell(self, **more: Any) -> None:
        self._told |= more
        self._written = time.monotonic()
        with suppress(OSError):  # a run goes on where its progress cannot be shown
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".new")
            temporary.write_text(json.dumps(self._told), encoding="ascii")
            temporary.replace(self._path)


class ProgressLine:
    """The plan, one line that is kept up to date while any process computes, and what it came to."""

    def __init__(self, folder: Path, reporter: Any) -> None:
        self._folder, self._reporter = folder, reporter
        self._quiet = reporter is None or reporter.verbosity < 0
        self._stop, self._looking = threading.Event(), threading.Lock()
        self._tests = set[str]()
        self._thread = threading.Thread(target=self._watch, name="caploc-progress", daemon=True)
        self._planned = self._ended = self._letters = False
        self._shown = ""
        self._share, self._since = -1.0, 0.0

    def __enter__(self) -> ProgressLine:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        with suppress(OSError):
            for file in self._folder.iterdir():
                file.unlink()
            self._folder.rmdir()

    def pause(self, test: str) -> None:
        """Shows how far the computing has come, before anything of this test is written."""
        with self._looking:
            if not self._tests and not self._quiet and not self._ended:
                self._look()
                self._clear()
            self._tests.add(test)

    def resume(self, test: str) -> None:
        """Goes on once no test runs."""
        with self._looking:
            self._tests.discard(test)
            self._letters = True

    def close(self) -> None:
        """Shows how the computing ended; once is enough."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._quiet and not self._ended:
            self._look(last=True)
            self._ended = True
            self._clear()

    def _watch(self) -> None:
        while not self._ended and not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            with self._looking:
                if not self._tests:
                    self._look()

    def _look(self, last: bool = False) -> None:
        told = [one for one in map(_read, sorted(self._folder.glob("*.json"))) if one]
        if not told or self._ended:
            return
        if not self._planned and (plans := [one["plan"] for one in told if "plan" in one]):
            self._planned = True
            self._say(plans[0])
        ended = [one for one in told if one.get("ended")]
        if len(ended) == len(told) or (
            last and ended
        ):  # they end together: each waits for all results of a stage
            self._ended = True
            self._clear()
            results, seconds = (max(one[name] for one in ended) for name in ("results", "seconds"))
            if results:
                self._say(f"computed {plural(results, 'result')} in {duration(seconds)}")
            return
        running = [one for one in told if one.get("what") and not one.get("ended")]
        if running:
            self._show(max(running, key=lambda one: (one["share"] or 0.0, one["results"])))

    def _show(self, told: dict[str, Any]) -> None:
        """Done of all work, time left, what is being computed."""
        share, left = told["share"], told["left"]
        done = f"{share:.0%} of the work, " if share is not None else ""
        of_all = f"{told['results']} of {plural(told['missing'], 'result')}"
        time_left = f", about {duration(left)} left" if left is not None else ""
        rate = f" at {told['rate'] / 1e9:.3g} GFLOP/s" if told["rate"] else ""
        line = f"computing: {done}{of_all}{time_left}{rate}; now {in_ascii(told['what'], LONGEST_TITLE)}"
        if self._reporter.isatty:
            if line != self._shown:
                self._begin_line()
                self._shown = line[: self._width]
                self._reporter.rewrite(self._shown, erase=True)
        elif (share or 0.0) >= self._share + SHARE_BETWEEN_LINES or (
            time.monotonic() > self._since + SECONDS_BETWEEN_LINES
        ):
            self._share, self._since = share or 0.0, time.monotonic()
            self._say(line)

    def _say(self, line: str) -> None:
        """A line of its own, seen at once in a log too."""
        self._begin_line()
        self._reporter.write_line(line)
        self._reporter.flush()

    def _begin_line(self) -> None:
        """Leaves the letters that pytest wrote for tests where they are."""
        if self._letters:
            self._letters = False
            if (
                self._reporter.currentfspath
            ):  # without workers: the name of a file comes before further letters
                self._reporter.ensure_newline()
            else:
                self._reporter._tw.line()  # noqa: SLF001

    def _clear(self) -> None:
        """Takes the line that was written over away."""
        if self._shown:
            self._reporter.rewrite("", erase=True)
            self._reporter.rewrite("")
            self._shown = ""

    @property
    def _width(self) -> int:
        return max(20, int(self._reporter._tw.fullwidth) - 1)  # noqa: SLF001 - its own method asks the same


def _read(file: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text(encoding="ascii"))
        return content if isinstance(content, dict) else None
    return None
