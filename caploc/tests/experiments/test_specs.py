"""Plans: everything that is needed is computed once, in order, and only then are results read."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.errors import ModelError
from caploc.experiments import specs
from caploc.experiments.specs import FloorError, Need, NotRunError, Plan, Progress, Spec, Task
from caploc.experiments.study import Experiment, Study, StudySettings, experiment
from caploc.findings import Cell, Count, Measurement
from caploc.fingerprints import fingerprint
from caploc.papers import Claim, load_paper
from caploc.store import Entry, Store

CLAIM: Claim = next(iter(load_paper("capability_localization").claims.values()))
CELL = Cell("none")
LOG: list[str] = []


@dataclass(frozen=True)
class Sum(Spec[float]):
    """One more than the sum of what it rests on; ``ending`` is how it ends instead."""

    name: str
    below: tuple[Sum, ...] = ()
    ending: type[Exception] | None = None

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return self.below

    def tasks(self, study: Study) -> Iterable[Task]:
        total = sum(study.result(one) for one in self.below)

        def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            LOG.append(self.name)
            if self.ending is not None and not issubclass(self.ending, (NotRunError, FloorError)):
                raise self.ending(self.name)
            return {"value": np.array(total + 1.0)}, {}

        if self.ending is not None and issubclass(self.ending, (NotRunError, FloorError)):
            raise self.ending(self.name)
        yield Task(fingerprint([self.name, float(total)]), compute)

    def read(self, study: Study, entries: Iterator[Entry]) -> float:
        (entry,) = entries
        return float(entry.arrays["value"])

    def flops(self, study: Study) -> float:
        return 10.0


@pytest.fixture
def study(tmp_path: Path) -> Study:
    LOG.clear()
    return Study("none", StudySettings(store=Store(tmp_path / "store")))


A, B = Sum("a"), Sum("b")
AB = Sum("ab", (A, B))
TOP = Sum("top", (AB, A))


def test_what_is_shared_is_computed_once_and_after_what_it_rests_on(study: Study) -> None:
    plan = Plan([Need(study, TOP), Need(study, AB), Need(study, TOP)])
    assert len(plan) == 4 and plan.stages == {study: [[A, B], [AB], [TOP]]}
    assert plan.compute() == 4 and LOG == ["a", "b", "ab", "top"]
    assert study.result(TOP) == 1 + 3 + 1 and LOG == ["a", "b", "ab", "top"]


def test_a_second_plan_computes_nothing(study: Study) -> None:
    Plan([Need(study, TOP)]).compute()
    again = Study("none", study.settings)
    assert Plan([Need(again, TOP)]).compute() == 0 and again.result(TOP) == 5


def test_progress_is_of_what_is_missing(study: Study) -> None:
    Plan([Need(study, A)]).compute()
    told: list[Progress] = []
    Plan([Need(study, TOP)]).compute(told.append)
    assert [one.results for one in told] == [0, 1, 1, 2, 2, 3] and {one.missing for one in told} == {3}
    assert [one.what.split()[1] for one in told] == ["b", "b", "ab", "ab", "top", "top"]
    shares = [one.share or 0.0 for one in told]
    assert shares == sorted(shares) and shares[-1] == 1 and told[1].seconds_left is not None


def test_time_left_goes_by_what_each_kind_of_result_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(specs, "time", SimpleNamespace(monotonic=lambda: now))
    rates = specs._Rates()
    rates.expect("written", 4.0)
    rates.expect("read", 4.0)
    assert rates.left(0.0) is None
    took = [("read", 1.0), ("read", 1.0), ("written", 10.0), ("written", 10.0)]
    for number, (kind, seconds) in enumerate(took):
        rates.begin(str(number))
        now += seconds
        rates.add(str(number), kind, 1.0)
    assert rates.left(22.0) == 2 * 10.0 + 2 * 1.0
    rates.add(
        "another process's", "written", 2.0
    )  # two processes by now: what is done took both of them 22 seconds
    assert rates.left(22.0) == pytest.approx(22.0 * 2.0 / 42.0)
    rates.expect("unseen", 4.0)  # by the mean of all that was measured
    assert rates.left(22.0) == pytest.approx(22.0 * (2.0 + 4 * 22 / 4) / 42.0)


@dataclass(frozen=True)
class Shards(Spec[int]):
    """Of several entries."""

    def tasks(self, study: Study) -> Iterable[Task]:
        return [Task(fingerprint(["shard", number]), lambda: ({}, {})) for number in range(3)]

    def read(self, study: Study, entries: Iterator[Entry]) -> int:
        return len(list(entries))


def test_a_line_says_how_many_shards_of_a_result_are_done(study: Study) -> None:
    told: list[Progress] = []
    Plan([Need(study, Shards())]).compute(told.append)
    assert [one.what.partition(", ")[2] for one in told[1::2]] == [f"{n} of 3 shards" for n in (1, 2, 3)]


def test_a_reason_is_a_result_that_others_may_meet(study: Study) -> None:
    gone = Sum("gone", ending=NotRunError)
    resting = Sum("resting", (gone, A))
    assert Plan([Need(study, resting), Need(study, B)]).compute() == 2 and LOG == ["a", "b"]
    for one in (gone, resting):
        with pytest.raises(NotRunError, match="gone"):
            study.result(one)


def test_an_error_stays_with_those_that_need_the_result(study: Study) -> None:
    bad = Sum("bad", ending=ZeroDivisionError)
    resting = Sum("resting", (bad,))
    with pytest.raises(ZeroDivisionError):
        Plan([Need(study, bad)]).compute()
    LOG.clear()
    assert Plan([Need(study, A), Need(study, resting), Need(study, B)], (Exception,)).compute() == 2
    assert study.result(A) == study.result(B) == 1
    for one in (resting, bad, resting):
        with pytest.raises(ZeroDivisionError):
            study.result(one)
    assert LOG.count("bad") == 1  # nobody tries again


def test_a_kept_error_holds_nothing_of_the_run_that_failed(study: Study) -> None:
    class Large:
        pass

    def train(kept: list[weakref.ref[Large]]) -> None:
        weights = Large()
        kept.append(weakref.ref(weights))
        raise MemoryError

    kept: list[weakref.ref[Large]] = []
    try:
        try:
            train(kept)
        except MemoryError as error:
            raise ModelError("no room") from error
    except ModelError as error:
        assert kept[0]() is not None
        study.fail(A, error)
    assert kept[0]() is None
    with pytest.raises(ModelError, match="no room"):
        study.result(A)


def test_specs_and_needs_are_plain_data() -> None:
    assert pickle.loads(pickle.dumps(TOP)) == TOP and hash(Sum("top", (AB, A))) == hash(TOP)
    assert Sum("a").title == "sum a"


@given(st.data())
def test_stages_respect_every_order(data: st.DataObject) -> None:
    specs: list[Sum] = []
    for index in range(data.draw(st.integers(1, 12))):
        below = data.draw(st.lists(st.sampled_from(specs), max_size=3, unique=True)) if specs else []
        specs.append(Sum(str(index), tuple(below)))
    asked = data.draw(st.lists(st.sampled_from(specs), min_size=1))
    study = Study("none", StudySettings())
    (stages,) = Plan([Need(study, one) for one in asked]).stages.values()
    place = {spec: level for level, stage in enumerate(stages) for spec in stage}
    assert sum(map(len, stages)) == len(place) and set(asked) <= set(place)
    assert all(place[below] < place[spec] for spec in place for below in spec.below)  # type: ignore[attr-defined]


def _needs(study: Study, cell: Cell, claim: Claim, twice: bool = False) -> Iterator[Spec[Any]]:
    yield AB
    if twice:
        raise NotRunError("no second")


@experiment(_needs)
def total(study: Study, cell: Cell, claim: Claim, twice: bool = False) -> Measurement:
    """The sum."""
    if twice:
        raise FloorError("too low")
    return Measurement("sum", Count(study.result(AB)))


def test_an_experiment_names_its_needs_and_ends_in_a_measurement(study: Study) -> None:
    assert isinstance(total, Experiment) and total.name == "test_specs.total"
    assert total.description == "The sum."
    assert total.needs(study, CELL, CLAIM) == [Need(study, AB)]
    found = total(study, CELL, CLAIM)
    assert found.value is not None and found.value.estimate == 3
    twice = total.with_options(twice=True)
    assert twice.needs(study, CELL, CLAIM) == [] and twice(study, CELL, CLAIM).floor == "too low"


def test_a_study_may_be_given_its_results(tmp_path: Path) -> None:
    planted = Study("none", StudySettings(), results={AB: 7.0, A: FloorError("no a")})
    assert planted.result(AB) == 7
    with pytest.raises(FloorError, match="no a"):
        planted.result(A)


def test_one_thing_is_held_at_a_time(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Held:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> str:
            log.append(f"open {self.name}")
            return self.name

        def __exit__(self, *exception: object) -> None:
            log.append(f"close {self.name}")

    monkeypatch.setattr(Study, "_placed", lambda self, control: SimpleNamespace(model=None))
    assert study.hold("x", "", lambda _: Held("x")) == study.hold("x", "", lambda _: Held("again")) == "x"
    assert study.hold("x", "untrained", lambda _: Held("twin")) == "twin"
    study.weights()
    study.release()
    assert log == ["open x", "close x", "open twin", "close twin"]
