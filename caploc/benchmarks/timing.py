"""CPU time, not wall time: other work on the machine then costs little accuracy, and ratios nearly none."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def cpu_seconds(work: Callable[[], object]) -> float:
    """This process's CPU seconds, user and system, spent in ``work()``.

    The garbage collector rests meanwhile, so that no method pays for what another left behind.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        begin = time.process_time()
        work()
        return time.process_time() - begin
    finally:
        if enabled:
            gc.enable()
