"""Run foreign code in forked children: what it does to a model dies with the child, and one that hangs can be stopped.

A thread cannot be stopped from outside, and a signal only reaches the main thread and is swallowed by ``except:``. A
child process can be killed whatever it does, and its copy of the model (copy-on-write) goes with it. A fork needs
nothing of the callable: closures and lambdas run as they are, which a spawned process could not be given.

What a fork cannot do: use a GPU that the parent has used already (CUDA refuses that, by name), or threads that the
parent started. torch is told to use one thread in the child, because OpenMP's pool of the parent does not survive.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

Key = TypeVar("Key")
Say = Callable[[str], None]
"""Tells the parent that a step begins, by name: the clock of ``timeout`` starts anew."""
Job = Callable[[Say], Any]

_FORK = multiprocessing.get_context("fork")
_SHOWN = 300


@dataclass(frozen=True)
class Stopped:
    """A child that gave no result: which step it was at, why, and the last that it wrote."""

    step: str
    timed_out: bool
    reason: str


@dataclass
class _Child:
    process: Any
    connection: Connection
    written: Path
    deadline: float
    step: str = "start"

    def end(self) -> None:
        """Kill it with all that it started, and clear up."""
        if self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.written.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The end of what it wrote to stdout and stderr, on one line."""
        text = " ".join(self.written.read_text(encoding="utf-8", errors="replace").split())
        return f"; it wrote last: {text[-_SHOWN:]}" if text else ""


def in_children(
    jobs: Iterable[tuple[Key, Job]],
    workers: int,
    timeout: float,
    on_step: Callable[[Key, str], None] = lambda key, step: None,
) -> Iterator[tuple[Key, Any]]:
    """Run each job in a child of its own, ``workers`` at a time, and give its result as soon as it is there, or
    ``Stopped``. Results must be picklable.

    Args:
        timeout: wall-clock seconds that a step of a job may take.
        on_step: told of every step that begins.

    Raises:
        RuntimeError: a job raised; the message holds its traceback. Jobs catch what they expect.
    """
    waiting, running = deque(jobs), dict[Key, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                key, job = waiting.popleft()
                running[key] = _start(job, timeout)
            left = min(child.deadline for child in running.values()) - time.monotonic()
            handles = [
                handle for child in running.values() for handle in (child.connection, child.process.sentinel)
            ]
            wait(handles, max(left, 0))
            for key, child in list(running.items()):
                for kind, value in _messages(child):
                    if kind == "step":
                        child.step, child.deadline = value, time.monotonic() + timeout
                        on_step(key, value)
                        continue
                    del running[key]
                    child.end()
                    if kind == "raised":
                        raise RuntimeError(f"a check broke in its child process:\n{value}")
                    yield key, value
                if key in running and time.monotonic() > child.deadline:
                    del running[key]
                    reason = f"took longer than timeout={timeout:g} s and was killed{child.last_words()}"
                    child.end()
                    yield key, Stopped(child.step, True, reason)
    finally:
        for child in running.values():
            child.end()


def _start(job: Job, timeout: float) -> _Child:
    receiving, sending = _FORK.Pipe(duplex=False)
    descriptor, name = tempfile.mkstemp(prefix="caploc-check-", suffix=".txt")
    process = _FORK.Process(target=_child, args=(job, sending, descriptor))
    process.start()
    sending.close()
    os.close(descriptor)
    return _Child(process, receiving, Path(name), time.monotonic() + timeout)


def _messages(child: _Child) -> Iterator[tuple[str, Any]]:
    """What the child has said since; its death, once it has said nothing else."""
    while True:
        dead = not child.process.is_alive()  # asked first: what it said before it died is then in the pipe
        try:
            if child.connection.poll():
                kind, value = child.connection.recv()
                yield kind, value
                if kind != "step":
                    return
                continue
        except (EOFError, OSError):
            child.process.join()
            dead = True
        if dead:
            code = child.process.exitcode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            reason = f"ended its process ({how}){child.last_words()}"
            yield "stopped", Stopped(child.step, False, reason)
        return


def _child(job: Job, sending: Connection, descriptor: int) -> None:
    os.setpgid(0, 0)  # so that what it starts is killed with it
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
    if faulthandler.is_enabled():
        faulthandler.enable(sys.stderr)
    import torch

    torch.set_num_threads(1)
    try:
        message = "done", job(lambda step: sending.send(("step", step)))
    except BaseException:  # noqa: BLE001  told to the parent, which raises it
        message = "raised", traceback.format_exc()
    sending.send(message)
    sending.close()
    sys.stdout.flush()
    os._exit(0)  # neither the parent's exit handlers nor threads that foreign code left behind
