"""Peak memory of a packed pass, beside the naive method's for one answer position and layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import caploc
from caploc.benchmarks import Options
from caploc.benchmarks.attribution.speed import Sizes
from caploc.benchmarks.tables import Table, Value

_PROBE = "caploc.benchmarks.attribution.memory_probe"
_SECONDS = 600
METHODS = ("packed", "naive")


def measure_memory(sizes: Sizes, options: Options) -> Iterator[Table]:
    """Each method in a process of its own: one that has run another keeps, and hides, its peak."""
    table = Table(
        "memory",
        f"Peak memory beyond the loaded model and libraries, Llama of {sizes.layers} layers, width {sizes.width}",
        {
            "prompt": "X",
            "answer": "Y",
            "method": "method",
            "added": "added MB",
            "loaded": "loaded MB",
        },
        notes=[
            "resident memory (VmHWM less VmRSS before the run) of a fresh process, after a small run; MB = 10^6 bytes",
            "packed: the whole example; naive: one of its answer positions (the last) and layers (the first)",
        ],
    )
    for prompt, answer in sizes.memory:
        for method in METHODS:
            row: dict[str, Value] = {"prompt": prompt, "answer": answer, "method": method}
            try:
                row |= _probe(method, sizes, prompt, answer)
            except subprocess.SubprocessError as error:
                table.notes.append(f"{method} at X={prompt}, Y={answer} not measured: {_reason(error)}")
            table.rows.append(row)
    yield table


def _probe(method: str, sizes: Sizes, prompt: int, answer: int) -> dict[str, Value]:
    root = str(Path(caploc.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", _PROBE, method, *map(str, (sizes.layers, sizes.width, prompt, answer))]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    found = json.loads(done.stdout)
    return {"added": (found["peak"] - found["loaded"]) / 1e6, "loaded": found["loaded"] / 1e6}


def _reason(error: subprocess.SubprocessError) -> str:
    """The last line that the process wrote, or how it ended."""
    if isinstance(error, subprocess.CalledProcessError) and error.stderr.strip():
        return str(error.stderr).strip().splitlines()[-1]
    return str(error)
