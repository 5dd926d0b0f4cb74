"""The store under several processes, killed ones among them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from caploc.fingerprints import fingerprint
from caploc.store import Store, StoreError

SHARDS = 12
KEYS = [fingerprint(["shard", i]) for i in range(SHARDS)]

# The server imports the library once, so that a child costs a fork and not an import; a fork of the test process
# itself would inherit its threads' locks.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["caploc.tests.test_store_processes"])

Start = Callable[..., BaseProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[BaseProcess] = []

    def begin(function: Callable[..., None], *args: object) -> BaseProcess:
        child = context.Process(target=function, args=args)
        child.start()
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.is_alive():
            child.kill()
        child.join()


def shard(index: int, directory: Path, hang_at: int | None = None):
    """Compute a shard slowly, leaving one line in a log shared by all processes."""
    with (directory / "log").open("a") as log:
        log.write(f"{index} {os.getpid()}\n")
    if index == hang_at:
        (directory / "hanging").touch()
        time.sleep(120)
    time.sleep(0.03)
    return {"values": np.random.default_rng(index).normal(size=50)}, {"index": index}


def run(directory: Path, hang_at: int | None = None) -> None:
    tasks = {key: (lambda i=i: shard(i, directory, hang_at)) for i, key in enumerate(KEYS)}
    total = sum(entry.arrays["values"] for entry in Store(directory / "store").compute_all(tasks))
    (directory / f"result-{os.getpid()}").write_text(total.tobytes().hex())


def hang_before_rename(directory: Path) -> None:
    def hang(*_: object) -> None:
        (directory / "hanging").touch()
        time.sleep(120)

    os.replace = hang
    run(directory)


def overflow(directory: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        Store(directory / "store").put(KEYS[0], {"x": np.zeros(4096)}, {})
    except StoreError as error:
        (directory / "error").write_text(str(error))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never appeared"
        time.sleep(0.01)


def computed(directory: Path) -> list[tuple[int, int]]:
    """(index of the shard, process that began it) in order."""
    lines = (directory / "log").read_text().splitlines()
    return [(int(index), int(process)) for index, process in (line.split() for line in lines)]


def results(directory: Path) -> set[str]:
    return {path.read_text() for path in directory.glob("result-*")}


def expected() -> str:
    return sum(np.random.default_rng(i).normal(size=50) for i in range(SHARDS)).tobytes().hex()


def test_processes_share_the_work_and_compute_nothing_twice(tmp_path: Path, start: Start) -> None:
    children = [start(run, tmp_path) for _ in range(3)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    log = computed(tmp_path)
    assert sorted(index for index, _ in log) == list(range(SHARDS))
    assert len({process for _, process in log}) > 1, "one process did everything"
    assert len(list(tmp_path.glob("result-*"))) == 3
    assert results(tmp_path) == {expected()}
    assert not list((tmp_path / "store" / "locks").iterdir())


def test_a_waiting_process_takes_over_from_a_killed_one(tmp_path: Path, start: Start) -> None:
    victim = start(run, tmp_path, 5)
    wait_for(tmp_path / "hanging")
    other = start(run, tmp_path)
    deadline = time.monotonic() + 60
    store = Store(tmp_path / "store")
    while store.describe().entries < SHARDS - 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert other.is_alive(), "it must wait for the shard that is being computed"
    os.kill(victim.pid, signal.SIGKILL)
    other.join(60)
    assert other.exitcode == 0
    begun = [index for index, _ in computed(tmp_path)]
    assert sorted(begun) == sorted([*range(SHARDS), 5]), "only the killed shard is begun again"
    assert results(tmp_path) == {expected()}


def test_a_process_killed_while_writing_leaves_nothing_visible(tmp_path: Path, start: Start) -> None:
    victim = start(hang_before_rename, tmp_path)
    wait_for(tmp_path / "hanging")
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    store = Store(tmp_path / "store")
    assert list(store.root.rglob("*.tmp")), "the kill came too late to test anything"
    assert store.get(KEYS[0]) is None
    assert store.describe().entries == 0
    run(tmp_path)
    assert results(tmp_path) == {expected()}
    assert not list(store.root.rglob("*.tmp"))
    assert not list((store.root / "locks").iterdir())


def test_a_full_disk_is_named_with_the_remedy(tmp_path: Path, start: Start) -> None:
    start(overflow, tmp_path).join(60)
    message = (tmp_path / "error").read_text()
    assert str(tmp_path / "store") in message
    assert "--store DIR" in message
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_killed_at_any_moment_a_run_goes_on_and_computes_nothing_finished_again(
    tmp_path: Path, start: Start
) -> None:
    """Two processes, one of them or both killed at each of 20 random moments, and two new ones in their place."""
    rng = np.random.default_rng(0)
    begun: list[int] = []
    rounds = 0
    while rounds < 20:
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        store, finished = Store(directory / "store"), set[str]()
        while rounds < 20 and len(finished) < SHARDS:
            children = [start(run, directory) for _ in range(2)]
            time.sleep(rng.uniform(0.02, 0.3))
            for child in children[: 1 + rounds % 2]:
                child.kill()
                child.join()
            rounds += 1
            before = len(computed(directory)) if (directory / "log").exists() else 0
            finished = set(store.kept())
            for child in children:
                child.join(60)
            later = computed(directory)[before:] if before else []
            assert {KEYS[index] for index, _ in later}.isdisjoint(finished)
        run(directory)
        begun += [index for index, _ in computed(directory)]
        assert results(directory) == {expected()}
        assert store.describe().damaged == 0 and not list((store.root / "locks").iterdir())
    assert len(begun) > len(set(begun)), "no kill came in the middle of anything"
