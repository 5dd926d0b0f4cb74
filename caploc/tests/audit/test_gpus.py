"""Workers and GPUs, and runs that share a store: who takes which, on machines that are pretended."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from caploc.audit import gpus
from caploc.audit.settings import AuditSettings, read_settings
from caploc.defaults import DEFAULTS
from caploc.experiments.specs import Here
from caploc.tests.audit.conftest import ClaimsRun


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv(gpus.VISIBLE, raising=False)


def machine(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "visible", "taken"),
    [
        (4, None, ["0", "1", "2", "3", "0", "1"]),
        (3, "5,2,7", ["5", "2", "7", "5", "2", "7"]),
        (2, "GPU-a, GPU-b", ["GPU-a", "GPU-b"] * 3),
        (1, None, [None] * 6),
        (0, None, [None] * 6),
    ],
)
def test_worker_i_takes_gpu_i_mod_n(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None, taken: list[str | None]
) -> None:
    machine(monkeypatch, count)
    for worker, expected in enumerate(taken):
        monkeypatch.setenv(gpus.VISIBLE, visible) if visible else monkeypatch.delenv(
            gpus.VISIBLE, raising=False
        )
        assert gpus.take_gpu(worker, "auto") == expected
        assert os.environ.get(gpus.VISIBLE) == (expected or visible)
    for device in ("cpu", "cuda:1"):  # what the user says holds
        assert gpus.take_gpu(0, device) is None


@pytest.mark.parametrize(
    ("marks", "device", "workers"),
    [
        ("gpu", "auto", 8),
        ("gpu and not gated", "cuda", 8),
        ("not gpu", "auto", None),
        ("not (gpu)", "auto", None),
        ("gpu or network", "auto", None),
        ("", "auto", None),
        ("network", "auto", None),
        ("gpu", "cpu", None),
        ("gpu", "cuda:1", None),
    ],
)
def test_auto_means_one_worker_a_gpu_where_gpu_tests_are_run(
    monkeypatch: pytest.MonkeyPatch, marks: str, device: str, workers: int | None
) -> None:
    machine(monkeypatch, 8)
    options = {"markexpr": marks, "device": device}
    config: Any = SimpleNamespace(getoption=lambda name, default=None: options.get(name, default))
    assert gpus.workers_for_gpus(config) == workers
    machine(monkeypatch, 0)
    assert gpus.workers_for_gpus(config) is None


def read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


@pytest.mark.parametrize(
    ("named", "slurm", "shard"),
    [
        (None, {}, (0, 1)),
        ("2/8", {"NTASKS": "4", "PROCID": "1"}, (2, 8)),
        (None, {"NTASKS": "4", "PROCID": "3"}, (3, 4)),
        (None, {"ARRAY_TASK_ID": "7", "ARRAY_TASK_MIN": "5", "ARRAY_TASK_COUNT": "3"}, (2, 3)),
        (
            None,
            {
                "ARRAY_TASK_ID": "1",
                "ARRAY_TASK_MIN": "0",
                "ARRAY_TASK_COUNT": "3",
                "NTASKS": "2",
                "PROCID": "1",
            },
            (3, 6),
        ),
        (None, {"NTASKS": "many", "PROCID": "?"}, (0, 1)),
    ],
)
def test_which_of_how_many_runs(
    monkeypatch: pytest.MonkeyPatch, named: str | None, slurm: dict[str, str], shard: tuple[int, int]
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert read(shard=named).shard == shard


@pytest.mark.parametrize("value", ["8/8", "1", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"--shard .*I/N, with I from 0 to N - 1"):
        read(shard=value)


def test_runs_that_share_a_store_begin_apart() -> None:
    begun: list[list[int]] = []
    for which in range(4):
        order: list[int] = []

        class Recording:
            def compute_all(self, tasks: Any, order: list[int] = order, **_: Any) -> None:
                order += tasks

        study: Any = SimpleNamespace(settings=SimpleNamespace(store=Recording()))
        jobs: Any = [SimpleNamespace(key=key, study=study, compute=None) for key in range(10)]
        Here(which / 4).compute(jobs, SimpleNamespace())  # type: ignore[arg-type]
        begun.append(order)
    assert [order[0] for order in begun] == [0, 2, 5, 7]
    assert all(sorted(order) == list(range(10)) for order in begun)


ONE = """
@claim("table1-overlap", measured(overlap(0.85, 0.9)))
def test_overlap(): ...
"""


def test_runs_that_share_a_folder_keep_their_ledgers_apart(claims_run: ClaimsRun) -> None:
    claims_run.write(ONE)
    for which in range(2):
        claims_run("--seed=1", f"--shard={which}/2").assert_outcomes(passed=2)
    assert len(claims_run.ledger("ledger-0.jsonl")) == len(claims_run.ledger("ledger-1.jsonl")) > 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--engine=dask",), "*--engine dask: unknown; choose one of local, ray"),
        (("--ray-address=auto",), "*--ray-address auto: is for --engine ray; give both, or neither"),
        (("--engine=ray", "--device=cuda:1"), "*--device cuda:1: Ray deals the GPUs out; give cuda"),
        (("--engine=ray", "-n2"), "*--engine ray has workers of its own; leave -n out"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    claims_run: ClaimsRun, arguments: tuple[str, ...], line: str
) -> None:
    claims_run.write(ONE)
    run = claims_run(*arguments)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([line])


def test_an_address_that_does_not_answer_is_said_before_anything_is_collected(claims_run: ClaimsRun) -> None:
    claims_run.write("raise AssertionError('collected')")
    run = claims_run("--engine=ray", "--ray-address=127.0.0.1:1")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(
        ["*--engine ray needs Ray*", "*--ray-address 127.0.0.1:1 does not answer*"][_has_ray() :][:1]
    )


def _has_ray() -> bool:
    from importlib.util import find_spec

    return find_spec("ray") is not None
