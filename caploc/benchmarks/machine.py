"""The machine that measured: what changes the numbers, and nothing that names whose it is."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers


def machine() -> dict[str, Any]:
    """Processor, packages, threads, matrix library and instruction set, and the load other work puts on the machine."""
    build = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", build)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "blas": blas.group(1) if blas else "unknown",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": load(),
    }


def load() -> float | None:
    """The 1-minute load average, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def header(facts: dict[str, Any]) -> str:
    """Three lines for people."""
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    packages = f"torch {facts['torch']} (BLAS {facts['blas']}, {facts['instructions']})"
    lines = [
        f"machine   {facts['processor']}, {facts['cores']} cores visible, {facts['system']}; {threads} used",
        f"software  {packages}, transformers {facts['transformers']}, Python {facts['python']}",
        f"load      {facts['load']} when it began (1-minute average); all times are this process's CPU time",
    ]
    return "\n".join(lines)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread; the former number comes back on leaving."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"
