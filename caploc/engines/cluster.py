"""A Ray cluster as an engine: jobs go to workers that keep a model loaded, entries come back, this process stores them.

    engine = Cluster(address="auto", gpus=True)       # one worker a GPU of the cluster, else one a CPU
    engine.prepare(studies)                           # every node has the models, in the same files
    plan.compute(report, engine=engine)

No disk is shared. A worker is sent, once, the entries that a job's spec rests on, and keeps them in a folder of its
own. It computes the spec's tasks anew and takes the one of the job's key: the key hashes model, data and settings, so
what a node has otherwise cannot pass for the same. A worker that dies is started again, where it still can be; what it
was computing goes to another. One job that takes several workers down is at fault itself.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from caploc.engines import EngineError, Listener
from caploc.errors import CaplocError
from caploc.experiments.specs import Job, NotRunError, Spec
from caploc.experiments.study import TWINS, Study, StudySettings
from caploc.fingerprints import code_hash, fingerprint
from caploc.model.loading import Deferred, LanguageModel, untrained_twin
from caploc.model.registry import REGISTRY
from caploc.rows.sizing import prepare_process
from caploc.store import Store, encode

MOST_RESTARTS = 10
"""Of one worker: machines that are lent come and go, and what fails at once fails ten times in a minute."""
MOST_ATTEMPTS = 3
"""At one job, whose worker died each time."""
SECONDS_TO_ANSWER = 5.0
SECONDS_TO_START = 300.0
"""For a first worker: a cluster that grows on demand takes minutes."""
VERSIONS = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Order:
    """A study as a worker is to make it: plain data, paths whole. ``names``: the fingerprints of its models by name,
    once they are known, so that no worker reads weights for them."""

    model: str
    settings: StudySettings
    names: Mapping[str, str]

    @classmethod
    def of(cls, study: Study, names: Mapping[str, str]) -> Order:
        asked = study.settings
        settings = replace(
            asked,
            margins=dict(asked.margins),
            scorings=dict(asked.scorings),
            files={name: str(Path(file).resolve()) for name, file in asked.files.items()},
            data_root=None if asked.data_root is None else str(Path(asked.data_root).resolve()),
            store=Store(os.devnull),
            elsewhere=False,
        )
        own = study.model not in REGISTRY and Path(study.model).is_dir()
        return cls(str(Path(study.model).resolve()) if own else study.model, settings, names)

    @property
    def name(self) -> str:
        """Of the study."""
        return f"{self.model} {self.settings!r}"


@dataclass(frozen=True)
class Node:
    """What a worker says of where it runs."""

    name: str
    versions: Mapping[str, str]
    gpu_bytes: int | None

    @classmethod
    def here(cls) -> Node:
        found = {name: metadata.version(name).partition("+")[0] for name in VERSIONS}
        found |= {"Python": platform.python_version(), "caploc's code": code_hash()[:12]}
        cuda = torch.cuda.is_available()
        memory = torch.cuda.get_device_properties(0).total_memory if cuda else None
        return cls(platform.node(), found, memory)


class Worker:
    """One process of the cluster, with one GPU where there are any."""

    def __init__(self) -> None:
        prepare_process()
        self._folder = tempfile.TemporaryDirectory(prefix="caploc-")
        self._store = Store(self._folder.name)
        self._taken: set[str] = set()
        self._studies: dict[str, Study] = {}

    def node(self) -> Node:
        """Where it runs; what it is asked first."""
        return Node.here()

    def content(self, order: Order) -> str:
        """The hash of a model's files here. Raises `EngineError` where it cannot be had."""
        try:
            return _deferred(self._study(order).lm).content
        except CaplocError as error:
            raise EngineError(
                f"node {platform.node()} does not have the model {order.model} ({error}): put it there, or give a "
                "folder that all nodes see"
            ) from error

    def names(self, order: Order) -> dict[str, str]:
        """The fingerprints of the models of a study by name: of the model, its twins and its early checkpoint."""
        found = {}
        for one in _models(self._study(order)):
            found[one.name] = one.fingerprint
            one.let_go()
        return found

    def compute(self, order: Order, spec: Spec[Any], key: str, rests_on: Sequence[tuple[str, Any]]) -> bytes:
        """The entry of ``key``, encoded. ``rests_on``: what is taken into this worker's own store first, by name, each
        an object of Ray's that holds entries by key."""
        for name, entries in rests_on:
            if name not in self._taken:
                for one, content in ray.get(entries).items():
                    self._store.take(one, content)
                self._taken.add(name)
        study = self._study(order)
        for task in study.tasks(spec):
            if task.key == key:
                return encode(key, *task.compute(), f"{spec.kind} of {study.model}")
        raise EngineError(
            f"node {platform.node()} has other data for {spec.title} of {order.model} than the process that asks for "
            "it: copy the files of --data-root and --dataset there, or give a folder that all nodes see"
        )

    def _study(self, order: Order) -> Study:
        """The study of an order, kept; the weights of one model are in memory at a time."""
        if order.name not in self._studies:
            if any(one.model != order.model for one in self._studies.values()):
                for study in self._studies.values():
                    study.release()
                self._studies.clear()
            loaded = next((vars(one).get("lm") for one in self._studies.values()), None)
            self._studies[order.name] = Study(order.model, replace(order.settings, store=self._store), loaded)
        study = self._studies[order.name]
        for one in _models(study) if order.names and not _models(study)[0].known else ():
            one.know(order.names[one.name])
        return study


@dataclass(eq=False)
class _Handle:
    """A worker as this process sees it, and those that took its place: ``model`` is what it has loaded."""

    actor: Any
    model: str = ""
    started: bool = False
    deaths: int = 0


class Cluster:
    """Computes on all workers of a Ray cluster.

    ``address``: HOST:PORT of its head, ``auto`` for the one that this machine belongs to, None for that or, where
    there is none, one of this machine alone. ``gpus``: one worker for each GPU, else for each CPU; None for GPUs where
    the cluster has any.

    Raises:
        EngineError: nothing answers there; it has no GPU; its nodes have other versions of code that numbers come from.
    """

    elsewhere = True

    def __init__(self, address: str | None = None, gpus: bool | None = None) -> None:
        _connect(address)
        made, count = self.workers_on(gpus)
        self._made = made
        handles = [_Handle(made.remote()) for _ in range(count)]
        self._starting = {one.actor.node.remote(): one for one in handles}
        self._idle: list[_Handle] = []
        self._orders: dict[Study, Any] = {}
        self._sent: dict[tuple[Study, Spec[Any]], tuple[str, Any] | None] = {}
        self.nodes: list[Node] = []

    @property
    def gpu_bytes(self) -> int | None:
        """Of the smallest GPU of a worker; None where they have none."""
        self._wait_for_all()
        return min((node.gpu_bytes for node in self.nodes if node.gpu_bytes is not None), default=None)

    def prepare(self, studies: Iterable[Study]) -> None:
        """Finds out that every node has the models of ``studies``, in the same files, and what they are called in keys:
        hashes of weights, for which this process may have no room. Raises `EngineError`."""
        self._wait_for_all()
        for study in studies:
            try:
                models = _models(study)
            except NotRunError:
                continue  # what cannot be had here either is told by the cells
            order = Order.of(study, {})
            for answer in [one.actor.content.remote(order) for one in self._idle]:
                if _got(answer) != models[0].content:
                    raise EngineError(
                        f"the nodes have other files of the model {study.model} than this machine: copy them, or give "
                        "a folder that all nodes see"
                    )
            if not all(one.known for one in models):
                for name, found in _got(self._idle[0].actor.names.remote(order)).items():
                    next(one for one in models if one.name == name).know(found)

    def compute(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Each worker takes jobs of the model that it has loaded, as long as there are any.

        Raises:
            EngineError: no worker is left.
        """
        left: dict[str, deque[Job]] = {}
        for job in jobs:
            left.setdefault(job.study.model, deque()).append(job)
        running: dict[Any, tuple[_Handle, Job]] = {}
        attempts: Counter[str] = Counter()
        while running or any(left.values()):
            while self._idle and any(left.values()):
                handle = self._idle.pop()
                if not left.get(handle.model):
                    handle.model = max(left, key=lambda model: len(left[model]))
                job = left[handle.model].popleft()
                running[self._send(handle, job)] = handle, job
                listener.begin(job.key)
            for answer in self._wait(running):
                if answer in self._starting:
                    self._started(answer)
                    continue
                handle, job = running.pop(answer)
                try:
                    content = ray.get(answer)
                except RayTaskError as error:
                    self._idle.append(handle)
                    listener.failed(job, _cause(error))
                except RayError as error:  # the worker died, or what it found was lost on the way
                    self._start_again(handle)
                    attempts[job.key] += 1
                    if attempts[job.key] < MOST_ATTEMPTS:
                        left[job.study.model].appendleft(job)
                    else:
                        why = (
                            f"was tried {MOST_ATTEMPTS} times, and each time its worker died ({_line(error)})"
                        )
                        listener.failed(job, EngineError(f"{job.spec.title} of {job.study.model} {why}"))
                else:
                    self._idle.append(handle)
                    job.study.settings.store.take(job.key, content)
                    listener.add(job.key)

    @staticmethod
    def workers_on(gpus: bool | None) -> tuple[Any, int]:
        """What makes a worker, and how many there is room for: one for each free GPU or CPU of the cluster."""
        free = ray.available_resources()
        on_gpus = free.get("GPU", 0) >= 1 if gpus is None else gpus
        count = int(free.get("GPU" if on_gpus else "CPU", 0))
        if not count:
            raise EngineError(
                f"the Ray cluster has no free {'GPU' if on_gpus else 'CPU'}: look at ray status, or leave "
                f"{'--device cuda' if on_gpus else '--engine ray'} out"
            )
        return ray.remote(num_cpus=1, num_gpus=int(on_gpus))(Worker), count

    @staticmethod
    def check(node: Node) -> None:
        """Raises `EngineError` where a node's code would give other numbers than this machine's."""
        for name, version in Node.here().versions.items():
            if node.versions.get(name) != version:
                raise EngineError(
                    f"node {node.name} has another version of {name}, {node.versions.get(name)} and not {version}: "
                    "install the same on every node, or numbers would differ"
                )

    def close(self) -> None:
        """Ends the workers, and a cluster of this machine alone."""
        ray.shutdown()

    def _send(self, handle: _Handle, job: Job) -> Any:
        rests_on = [sent for one in job.rests_on if (sent := self._bundle(*one)) is not None]
        if job.study not in self._orders:
            try:
                names = {one.name: one.fingerprint for one in _models(job.study)}
            except CaplocError:  # results of no model
                names = {}
            self._orders[job.study] = ray.put(Order.of(job.study, names))
        return handle.actor.compute.remote(self._orders[job.study], job.spec, job.key, rests_on)

    def _bundle(self, study: Study, spec: Spec[Any]) -> tuple[str, Any] | None:
        """The entries of a result in Ray's hands, under their name; None where it has none."""
        if (study, spec) not in self._sent:
            store = study.settings.store
            try:
                keys = [task.key for task in study.tasks(spec)]
            except Exception:  # noqa: BLE001 - whoever looks it up there meets it
                keys = []
            found = {key: content for key in keys if (content := store.content(key)) is not None}
            self._sent[study, spec] = (fingerprint([*found]), ray.put(found)) if found else None
        return self._sent[study, spec]

    def _wait(self, running: Iterable[Any]) -> list[Any]:
        """What has ended, or started, since."""
        answers = [*running, *self._starting]
        done: list[Any] = []
        if answers:
            done, _ = ray.wait(answers, timeout=None if [*running] else SECONDS_TO_START)
        if not done:
            raise EngineError(
                "no worker of the Ray cluster is left, and none could be started again: look at ray status, and at "
                "/tmp/ray/session_latest/logs on its nodes"
            )
        return done

    def _wait_for_all(self) -> None:
        """Until all that the cluster had room for have started; not for those in the place of any that died."""
        while any(not one.deaths for one in self._starting.values()) or not self._idle:
            for answer in self._wait(()):
                self._started(answer)

    def _start_again(self, handle: _Handle) -> None:
        """Another worker in its place, wherever the cluster has room by now. (Ray's own restarts tell of themselves on
        the terminal, once a second.)"""
        handle.deaths += 1
        if handle.deaths <= MOST_RESTARTS:
            handle.actor, handle.model = self._made.remote(), ""
            self._starting[handle.actor.node.remote()] = handle

    def _started(self, answer: Any) -> None:
        """A worker is there, or is not going to be."""
        handle = self._starting.pop(answer)
        try:
            node: Node = ray.get(answer)
        except RayError as error:
            if not handle.started:
                raise EngineError(
                    f"a worker of the Ray cluster cannot start ({_line(error)}): install this caploc on every node"
                ) from error
            self._start_again(handle)
            return
        self.check(node)
        handle.started = True
        self.nodes.append(node)
        self._idle.append(handle)


def _connect(address: str | None) -> None:
    if address not in (None, "auto"):
        host, _, port = str(address).rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
        except (OSError, ValueError, OverflowError) as error:
            raise EngineError(
                f"--ray-address {address} does not answer ({error}): give HOST:PORT of the head of a running cluster, "
                "or auto on one of its nodes"
            ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = "" if address is None else f"--ray-address {address}: "
        raise EngineError(
            f"{where}no Ray cluster can be used ({_line(error)}): start one with ray start --head, or give the address "
            "of one"
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process without its report


def _deferred(lm: LanguageModel) -> Deferred:
    if not isinstance(lm, Deferred):
        raise EngineError(f"the model {lm.name} is in this process alone: give a name or a folder")
    return lm


def _models(study: Study) -> list[Deferred]:
    """Whose fingerprints are part of the keys of a study's results: the model's first."""
    lm, seed = study.lm, study.settings.seed
    twins = [untrained_twin(lm, seed + number) for number in range(len(TWINS))]
    return [_deferred(one) for one in dict.fromkeys([lm, *twins, study.early.lm])]


def _got(answer: Any) -> Any:
    try:
        return ray.get(answer)
    except RayTaskError as error:
        raise _cause(error) from error
    except RayError as error:
        raise EngineError(
            f"a worker of the Ray cluster died when it was asked for its models: {_line(error)}"
        ) from error


def _cause(error: RayTaskError) -> Exception:
    """What was raised on the worker, with where."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return EngineError(_line(error))
    if not isinstance(cause, CaplocError):
        cause.add_note(str(error))
    return cause


def _line(error: BaseException) -> str:
    """The last line of what Ray says, where the reason stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
