"""Signals that ask a process to end interrupt it once, and leave it alone while it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from caploc.audit.running import SIGNALS, end_undisturbed, interruptible


@pytest.fixture(autouse=True)
def as_started() -> Iterator[None]:
    """Signals have their defaults, whatever runs these tests."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.sigpending()  # handlers run between two instructions


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("again", SIGNALS)
def test_the_first_interrupts_and_no_other(number: signal.Signals, again: signal.Signals) -> None:
    with interruptible():
        with pytest.raises(KeyboardInterrupt, match=number.name):
            tell(number)
        tell(again)
        tell(number)
    assert {signal.getsignal(one) for one in SIGNALS} == {signal.SIG_DFL}


def test_a_run_that_ends_anyway_is_not_interrupted() -> None:
    with interruptible():
        end_undisturbed()
        for number in SIGNALS:
            tell(number)


def test_who_ignores_or_handles_a_signal_goes_on_doing_so() -> None:
    heard = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    signal.signal(signal.SIGTERM, lambda *_: heard.append("mine"))
    with interruptible():
        tell(signal.SIGHUP)
        tell(signal.SIGTERM)
    assert heard == ["mine"] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
