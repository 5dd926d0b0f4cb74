"""Ray as an engine: three nodes of which one dies give the bits of one process, and what is wrong is said at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caploc.engines import EngineError
from caploc.experiments.erasure_sets import LocatedErased
from caploc.experiments.locating import Scores
from caploc.experiments.specs import Need, NotRunError, NotStoredError, Plan, Progress, Spec, Task
from caploc.experiments.study import Study, StudySettings
from caploc.fingerprints import fingerprint
from caploc.papers import load_paper
from caploc.store import Entry, Store, same
from caploc.tests.tiny import REPOSITORY

pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")

from ray.cluster_utils import Cluster as Nodes

from caploc.engines import cluster
from caploc.engines.cluster import Cluster, Order, Worker

MARGINS = load_paper("capability_localization").margins


@dataclass(frozen=True)
class Slow(Spec[float]):
    """Numbers from those below, each of which takes a moment; ``ends``: how one of them ends instead."""

    log: str
    parts: int = 1
    below: Spec[float] | None = None
    ends: str = ""

    def tasks(self, study: Study) -> Iterator[Task]:
        start = 0.0 if self.below is None else study.result(self.below)
        for part in range(self.parts):
            key = fingerprint(["slow", self.log, self.ends, part, start])
            yield Task(key, lambda part=part: self._one(part, start))

    def _one(self, part: int, start: float) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        with Path(self.log).open("a") as log:
            log.write(f"{part} {os.getpid()}\n")
        time.sleep(1.0)
        if self.ends == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ends == "not run":
            raise NotRunError("there is no such thing")
        if self.ends:
            raise ZeroDivisionError(self.ends)
        return {"value": np.random.default_rng(part).normal(size=3) + start}, {}

    def read(self, study: Study, entries: Iterator[Entry]) -> float:
        return float(sum(entry.arrays["value"].sum() for entry in entries))

    def flops(self, study: Study) -> float:
        return 1e9


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three machines of one core each, as far as Ray can tell."""
    found = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    for _ in range(2):
        found.add_node(num_cpus=1, object_store_memory=10**8)
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def engine(nodes: Nodes) -> Iterator[Cluster]:
    found = Cluster(nodes.address)
    yield found
    found.close()


def asked(folder: Path, elsewhere: bool) -> Study:
    data = str(REPOSITORY / "fixtures" / "data")
    store = Store(folder / ("driver" if elsewhere else "here"))
    settings = StudySettings(
        16, 20, data_root=data, datasets=["gsm8k"], margins=MARGINS, store=store, elsewhere=elsewhere
    )
    return Study("tiny-llama", settings)


def wanted(folder: Path) -> list[Spec[Any]]:
    first = Slow(str(folder / "log"), parts=9)
    return [Scores("gsm8k"), LocatedErased("gsm8k", 3.0), Slow(str(folder / "log"), below=first)]


def kill_one_at_work(nodes: Nodes, log: Path) -> None:
    """One node, but for the head, in the middle of a job that it has written down."""
    machines = {one.all_processes["raylet"][0].process.pid: one for one in nodes.worker_nodes}
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines() if log.exists() else ():
            parent = int(Path(f"/proc/{line.split()[1]}/stat").read_text().rpartition(")")[2].split()[1])
            if parent in machines:
                nodes.remove_node(machines[parent], allow_graceful=False)
                return
        time.sleep(0.02)


def test_three_nodes_of_which_one_dies_give_the_bits_of_one_process(
    nodes: Nodes, engine: Cluster, tmp_path: Path
) -> None:
    here, there = asked(tmp_path, elsewhere=False), asked(tmp_path, elsewhere=True)
    specs = wanted(tmp_path)
    engine.prepare([there])
    assert len(engine.nodes) == 3 and not (tmp_path / "log").exists()
    told: list[Progress] = []
    killer = threading.Thread(target=kill_one_at_work, args=(nodes, tmp_path / "log"))
    killer.start()
    plan = Plan([Need(there, spec) for spec in specs])
    missing = plan.outlook.results
    assert plan.compute(told.append, engine=engine) == missing == told[-1].missing
    killer.join()
    begun = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    Plan([Need(here, spec) for spec in specs]).compute()
    keys = here.settings.store.kept()
    beside = set(there.settings.store.kept()) - set(keys)  # of the twins and the early checkpoint
    assert all({*there.settings.store.get(key).meta} == {"fingerprint"} for key in beside)  # type: ignore[union-attr]
    assert len(keys) > 12
    for key in keys:
        ours, theirs = here.settings.store.get(key), there.settings.store.get(key)
        assert ours is not None and theirs is not None and same(ours, theirs)
    assert len(begun) > 10, "the node died before or after its work"
    assert str(os.getpid()) not in {process for _, process in begun}
    assert there.result(specs[-1]) == here.result(specs[-1])


def test_a_result_that_is_missing_is_not_computed_here(tmp_path: Path) -> None:
    with pytest.raises(NotStoredError, match=r"slow .* is not in the store"):
        asked(tmp_path, elsewhere=True).result(Slow(str(tmp_path / "log")))
    assert not (tmp_path / "log").exists()


def test_what_a_job_ends_in_is_told_to_whoever_asks_for_its_result(engine: Cluster, tmp_path: Path) -> None:
    study = Study("none", StudySettings(store=Store(tmp_path / "store"), elsewhere=True))
    log = str(tmp_path / "log")
    ends = {kind: Slow(log, ends=kind) for kind in ("not run", "bad", "killed")}
    sound = Slow(log, parts=2)
    plan = Plan(
        [Need(study, one) for one in [*ends.values(), Slow(log, below=ends["bad"]), sound]], (Exception,)
    )
    assert plan.compute(engine=engine) == 1
    assert study.result(sound) != 0
    for kind, error, text in (
        ("not run", NotRunError, "no such thing"),
        ("bad", ZeroDivisionError, "bad"),
        ("killed", EngineError, "was tried 3 times, and each time its worker died"),
    ):
        with pytest.raises(error, match=text) as caught:
            study.result(ends[kind])
        assert "\n" not in str(caught.value)
    with pytest.raises(ZeroDivisionError, match="bad"):
        study.result(Slow(log, below=ends["bad"]))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "6379", "127.0.0.1:99999"])
def test_an_address_that_does_not_answer_is_said_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=rf"--ray-address {address} does not answer .*HOST:PORT") as caught:
        Cluster(address)
    assert time.monotonic() - began < 2 * cluster.SECONDS_TO_ANSWER and "\n" not in str(caught.value)


def test_a_cluster_without_gpus_is_refused_where_they_are_asked_for(nodes: Nodes, engine: Cluster) -> None:
    with pytest.raises(EngineError, match=r"no free GPU"):
        engine.workers_on(gpus=True)


def test_other_versions_and_files_on_a_node_are_refused(
    engine: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = asked(tmp_path, elsewhere=True)
    monkeypatch.setattr(type(study.lm), "content", "of other files")
    with pytest.raises(EngineError, match=r"other files of the model tiny-llama.*copy them"):
        engine.prepare([study])
    other = cluster.Node("node7", {**cluster.Node.here().versions, "torch": "1.0"}, None)
    with pytest.raises(EngineError, match=r"node node7 has another version of torch, 1.0 and not"):
        engine.check(other)


def test_a_node_without_the_model_or_with_other_data_is_named(tmp_path: Path) -> None:
    worker, study = Worker(), asked(tmp_path, elsewhere=True)
    order = Order.of(study, {})
    with pytest.raises(EngineError, match=r"does not have the model /no/such/model .*all nodes see"):
        worker.content(replace(order, model="/no/such/model"))
    with pytest.raises(EngineError, match=r"other data for slow .* than the process that asks"):
        worker.compute(order, Slow(str(tmp_path / "log")), "0" * 64, [])
