"""Signals that ask a process to end, as ``timeout``, schedulers and closed terminals send them: a run then ends as it
does after Ctrl-C, with its ledger, reports and summary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, each of `SIGNALS` raises KeyboardInterrupt, unless whoever started the process handles or ignores it."""
    mine: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        mine = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def end_undisturbed() -> None:
    """The run is ending anyway: a further signal must not cost it its summary."""
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _ignore)  # SIG_IGN would be inherited


def _interrupt(number: int, _: FrameType | None) -> None:
    end_undisturbed()  # timeout signals the process, and then its group
    raise KeyboardInterrupt(signal.Signals(number).name)


def _ignore(*_: object) -> None:
    pass
