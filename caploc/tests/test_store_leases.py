"""Leases on any file system: one holder at a time, nobody waits for the dead, and two holders are found out."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from caploc.fingerprints import fingerprint
from caploc.store import Store, StoreError, StoreWarning, encode, leases

KEY = fingerprint("an entry")
ELSEWHERE = "another machine"
EXCLUSIVE, EXPIRED = leases.exclusive, leases._expired


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def hold(store: Store, **other: Any) -> Path:
    """The lease of a process elsewhere."""
    path = store.root / "locks" / f"{KEY}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = replace(leases._myself(), machine=ELSEWHERE, host="node7", process=17, **other)
    path.write_bytes(leases._content(holder))
    return path


def computed(store: Store, tasks: Any = None) -> dict[str, Any]:
    (entry,) = store.compute_all(tasks or {KEY: lambda: ({"x": np.ones(3)}, {"by": "this"})})
    return entry.meta


def test_what_a_machine_elsewhere_left_holds_nobody_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(store)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.3)
    began = time.monotonic()
    assert computed(store) == {"by": "this"}
    assert time.monotonic() - began > 0.3, "it took a lease that may have been alive"
    assert not list((store.root / "locks").iterdir())


def test_what_is_touched_elsewhere_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hold(store)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.5)

    def elsewhere() -> None:
        for beat in range(8):
            time.sleep(0.2)
            os.utime(path, ns=(0, beat))  # any other time will do: clocks differ
        other = Store(store.root)
        content = ({"x": np.ones(3)}, {"by": "the other"})
        other._write(KEY, encode(KEY, *content))
        path.unlink()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert computed(store) == {"by": "the other"}
    thread.join()


def test_a_process_of_this_machine_that_ended_is_known_at_once(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = leases._myself()
    holder = replace(mine, process=child.pid, started=leases._started(child.pid) or "")
    assert holder.lives and mine.lives
    assert replace(holder, started="1").lives is False, "a later process of its number"
    child.kill()
    deadline = time.monotonic() + 20
    while holder.lives:  # a zombie, which its parent has not asked for yet
        assert time.monotonic() < deadline
    child.communicate()
    assert holder.lives is False
    hold(store).write_bytes(leases._content(holder))
    assert computed(store) == {"by": "this"}


def test_a_living_holder_beats_and_a_forked_child_holds_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(leases, "_heart", None)
    with store.lock(KEY) as held:
        assert held is not None
        os.utime(held.path, (0, 0))
        deadline = time.monotonic() + 20
        while held.path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
        child = os.fork()
        if not child:
            with store.lock(KEY, blocking=False) as again:
                os._exit(again is not None)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_hard_links_files_are_made_exclusively(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    with store.lock(KEY) as held:
        assert held is not None and held.lost_to() is None
        assert not leases.exclusive(held.path, b"another")
    assert computed(store) == {"by": "this"}


def overwriting(source: Path, target: Path) -> None:
    """A link on a file system that excludes nothing."""
    target.write_bytes(source.read_bytes())


def test_a_file_system_that_excludes_nothing_is_refused_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", overwriting)
    begun: list[int] = []
    with pytest.raises(
        StoreError, match=r"lets two processes make one file.*--store DIR.*--engine ray"
    ) as caught:
        computed(store, {KEY: lambda: (begun.append(1), ({}, {}))[1]})
    assert not begun and "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [1.0, 2.0])
def test_two_holders_are_found_out_and_nothing_is_lost(store: Store, values: float) -> None:
    def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        hold(store)  # made over ours
        store._write(KEY, encode(KEY, {"x": np.full(3, values)}, {"by": "this"}))
        return {"x": np.ones(3)}, {"by": "this"}

    differs = "came out differently" if values != 1 else "computed here and by process 17 on node7; each took"
    with pytest.warns(StoreWarning, match=differs):
        (entry,) = store.compute_all({KEY: compute})
    assert entry.arrays["x"][0] == values, "the first one written stays"
    assert (store.root / "locks" / f"{KEY}.lock").exists(), "the other's lease is the other's"


def test_another_version_of_the_code_is_refused_at_once(store: Store) -> None:
    hold(store, code="0" * 64)
    with pytest.raises(
        StoreError, match=r"process 17 on node7 computes into .* another version.*--store DIR"
    ):
        computed(store)
    with pytest.raises(StoreError, match="another version"):
        store.put(KEY, {}, {})


@dataclass(eq=False)
class Process:
    """One of several that share a folder; in truth they take turns in this one."""

    name: str
    held: dict[Any, leases.Lease] = field(default_factory=dict)
    seen: dict[Any, Any] = field(default_factory=dict)
    alive: bool = True


class Sharing(RuleBasedStateMachine):
    """Processes on machines that know nothing of each other but the files, beat or not, sleep, die and wake."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.now, self.ticks, self.touched = 0.0, 0, dict[str, float]()
        self.meanwhile: list[tuple[int, bool]] = []
        self.processes = [Process(f"machine {number}") for number in range(3)]

    @contextmanager
    def being(self, process: Process) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(leases, "_held", process.held)
            patched.setattr(leases, "_seen", process.seen)
            patched.setattr(leases, "_machine", lambda: process.name)
            patched.setattr(leases, "_start_heart", lambda: None)
            patched.setattr(leases.Holder, "lives", property(lambda holder: None))
            patched.setattr(leases, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=time.sleep))
            patched.setattr(leases, "exclusive", self.exclusive)
            patched.setattr(leases, "_expired", self.expired)
            yield

    def exclusive(self, path: Path, content: bytes) -> bool:
        self.others_act()
        return EXCLUSIVE(path, content)

    def expired(self, *about: Any) -> bool:
        found = EXPIRED(*about)
        self.others_act()
        return found

    def others_act(self) -> None:
        """Between a look at what there is and what follows from it."""
        meanwhile, self.meanwhile = self.meanwhile[:2], self.meanwhile[2:]
        left, self.meanwhile = self.meanwhile, []
        for number, gives_back in meanwhile:
            (self.release if gives_back else self.acquire)(number)
        self.meanwhile = left

    def lease(self, process: Process) -> leases.Lease | None:
        return process.held.get((self.folder, KEY))

    @rule(
        number=st.integers(0, 2), meanwhile=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=4)
    )
    def acquire(self, number: int, meanwhile: Sequence[tuple[int, bool]] = ()) -> None:
        process = self.processes[number]
        self.meanwhile = [one for one in meanwhile if one[0] != number]
        if process.alive and self.lease(process) is None:
            with self.being(process):
                leases.acquire(self.folder, KEY)
            self.touched[process.name] = self.now

    @rule(number=st.integers(0, 2))
    def release(self, number: int) -> None:
        process = self.processes[number]
        lease = self.lease(process)
        if process.alive and lease is not None:
            with self.being(process):
                leases.release(lease, self.folder, KEY, finished=False)

    @rule(number=st.integers(0, 2))
    def beat(self, number: int) -> None:
        lease = self.lease(self.processes[number])
        if lease is not None and lease.lost_to() is None and self.processes[number].alive:
            self.ticks += 1
            os.utime(lease.path, ns=(self.ticks, self.ticks))
            self.touched[self.processes[number].name] = self.now

    @rule(seconds=st.sampled_from([1.0, 50.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 2))
    @precondition(lambda self: sum(one.alive for one in self.processes) > 1)
    def die(self, number: int) -> None:
        if sum(one.alive for one in self.processes) > 1:
            self.processes[number].alive = False

    @rule(
        number=st.integers(0, 2), meanwhile=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=4)
    )
    def all_see_it_expire(self, number: int, meanwhile: Sequence[tuple[int, bool]]) -> None:
        """One that nobody touches is asked for by all, then by one while others act."""
        for other in range(3):
            self.acquire(other)
        self.now += 2 * leases.EXPIRY_SECONDS
        self.acquire(number, meanwhile)

    @rule()
    def somebody_gets_it(self) -> None:
        """Once all have slept long enough, whoever asks twice holds it: nobody waits for ever."""
        process = next(one for one in self.processes if one.alive)
        lease = self.lease(process)
        if lease is not None:
            return
        self.meanwhile = []  # of an acquisition that ended before all of them had acted
        with self.being(process):
            leases.acquire(self.folder, KEY)
            self.now += 2 * leases.EXPIRY_SECONDS
            leases.acquire(self.folder, KEY)
        self.touched[process.name] = self.now
        assert self.lease(process) is not None

    @invariant()
    def one_holder(self) -> None:
        if hasattr(self, "processes"):
            holding = [
                one.name for one in self.processes if (lease := self.lease(one)) and not lease.lost_to()
            ]
            assert len(holding) <= 1, holding
            for one in self.processes:
                if self.lease(one) and self.now - self.touched[one.name] < leases.EXPIRY_SECONDS:
                    assert one.name in holding, f"{one.name} lost what it touched in time"

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


def watched(holders: int) -> Sharing:
    """A lease that was taken over until that many have held it, each thought dead, and that all others saw expire."""
    sharing = Sharing()
    sharing.begin()
    for number in range(3):
        sharing.acquire(number)
    for number in range(1, holders):
        sharing.now += 2 * leases.EXPIRY_SECONDS
        sharing.acquire(number)
        sharing.acquire(2)
    sharing.now += 2 * leases.EXPIRY_SECONDS
    return sharing


@pytest.mark.parametrize(
    ("holders", "slow", "meanwhile"),
    [
        (1, 1, [(2, False)]),  # another takes it between the look of one and its taking
        (1, 1, [(2, False), (2, True)]),  # and gives it back
        (2, 2, [(1, True)]),  # the one thought dead gives it back
    ],
)
def test_who_is_slow_takes_nobody_elses(holders: int, slow: int, meanwhile: list[tuple[int, bool]]) -> None:
    sharing = watched(holders)
    sharing.acquire(slow, meanwhile)
    sharing.one_holder()
    sharing.acquire(1)
    sharing.acquire(2)
    sharing.one_holder()
    sharing.teardown()


TestSharing = Sharing.TestCase
TestSharing.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, phases=[Phase.explicit, Phase.generate]
)


def test_a_lease_is_plain_data() -> None:
    mine = leases._myself()
    assert leases.Holder(**asdict(mine)) == mine
