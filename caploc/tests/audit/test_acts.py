"""A run's acts on tiny models: what is needed is computed before, a warm run touches no weight, one cell is shallow.

Erasure's claims stand for all: few samples, one dataset, in processes of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from caploc.tests.tiny import REPOSITORY

CLAIMS = REPOSITORY / "claims" / "capability_localization" / "test_erasure.py"
MOST_FILES, MOST_FRAMES = 60, 18
# which one dataset does not have
AVERAGES = {"test_untouched_average", "test_average_without_located_neurons"}

pytestmark = pytest.mark.skipif(
    not CLAIMS.is_file(), reason="claims/ comes with the repository, not with an installed package"
)

# plugins of the runs below, each a file of its own
NO_WEIGHTS = '''
"""No weight is read, and no model built but on the meta device."""

import torch
import transformers
from caploc.model import loading


def refuse(*arguments, **options):
    raise AssertionError("a warm run reads weights")


loading._Source.weights = refuse
from_config = transformers.AutoModelForCausalLM.from_config


def on_meta(*arguments, **options):
    model = from_config(*arguments, **options)
    assert all(one.device.type == "meta" for one in model.parameters()), "a warm run builds a model"
    return model


transformers.AutoModelForCausalLM.from_config = on_meta
transformers.PreTrainedModel.from_pretrained = refuse
'''
NOTHING_LATE = '''
"""While tests run, nothing is computed: an entry that is missing then was not among the needs.

The report's figures, which the store keeps as well, are drawn when all tests are over.
"""

import pytest
from caploc.store import Store

compute_all = Store.compute_all


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    def complete(self, tasks, *arguments, **options):
        pairs = list(tasks.items() if isinstance(tasks, dict) else tasks)
        late = [key for key, _ in pairs if not self.has(key)]
        assert not late, f"{len(late)} entries are computed while {item.name} measures"
        return compute_all(self, pairs, *arguments, **options)

    Store.compute_all = complete
    try:
        return (yield)
    finally:
        Store.compute_all = compute_all
'''
COUNTING = '''
"""Counts caploc's own files whose functions a run calls, and its own functions that stand on each other.

From the end of collection on; not what importing a module executes. Lambdas and comprehensions belong to the function
that they stand in.
"""

import json
import os
import sys

OWN = os.path.dirname(os.path.dirname(__import__("caploc").__file__)) + os.sep
executed, deepest = set(), []


def own_functions(frame):
    """From the outermost to ``frame``; None while a module is imported."""
    chain = []
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(OWN):
            if name == "<module>":
                return None
            if not name.startswith("<"):
                chain.append(f"{file.removeprefix(OWN)}:{name}")
        frame = frame.f_back
    return chain[::-1]


def watch(frame, event, argument):
    file = frame.f_code.co_filename
    if event == "call" and file.startswith(OWN):
        found = own_functions(frame)
        if found is not None:
            executed.add(file.removeprefix(OWN))
            if len(found) > len(deepest):
                deepest[:] = found


def pytest_collection_finish():
    sys.setprofile(watch)


def pytest_sessionfinish():
    sys.setprofile(None)
    with open("counted.json", "w") as file:
        json.dump({"files": sorted(executed), "frames": deepest}, file)
'''

INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""A shell's background jobs, such as these tests may be part of, ignore SIGINT, and so would what they start."""

Audit = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Audit:
    """Starts an audit of erasure's claims in ``tmp_path``, with a plugin that is given as its source."""

    def begin(*arguments: str, plugin: str = "", html: bool = True) -> subprocess.Popen[str]:
        (tmp_path / "watching.py").write_text(INTERRUPTIBLE + plugin, encoding="utf-8")
        if html:
            claims, written = CLAIMS, [f"--html={tmp_path}/reports/ledger.html"]
        else:  # the ledger lies in the project that the claims are in
            (tmp_path / "claims").symlink_to(CLAIMS.parents[1])
            claims = tmp_path / "claims" / CLAIMS.parent.name / CLAIMS.name
            written = ["-p", "caploc.audit.plugin"]
        settings = ["--model=tiny-llama", "--dataset=gsm8k", "--sigma=6", "--samples=16", "--draws=20"]
        files = [f"--store={tmp_path}/store", *written, "-p", "no:cacheprovider"]
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", str(claims), "-p", "watching", *settings, *files, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return begin


def cells(folder: Path) -> dict[str, dict[str, object]]:
    found = json.loads((folder / "reports" / "ledger.json").read_text(encoding="ascii"))
    names = ("status", "estimate", "interval", "p", "reason")
    return {cell["test"]: {name: cell[name] for name in names} for cell in found["cells"]}


def entries(folder: Path) -> set[str]:
    return {path.name for path in (folder / "store").rglob("*.safetensors")}


def findings(folder: Path) -> list[Path]:
    """The entries that are findings, whose only array is their text."""
    found = (folder / "store").rglob("*.safetensors")
    return [path for path in found if list(load_file(path)) == ["finding"]]


def test_a_cold_run_computes_all_beforehand_and_a_warm_one_touches_no_weight(
    start: Audit, tmp_path: Path
) -> None:
    shown, _ = start(plugin=NOTHING_LATE).communicate(timeout=600)
    assert "to compute, about " in shown and "\ncomputed " in shown, shown
    assert "INTERNALERROR" not in shown, shown
    cold = cells(tmp_path)
    assert not {"ERROR", "MISSING"} & {cell["status"] for cell in cold.values()}, shown
    stored = entries(tmp_path)
    known = {test: cell for test, cell in cold.items() if cell["status"] != "NOT RUN"}
    assert known.keys() == {test for test in cold if not AVERAGES & {test.partition("[")[0]}}
    shown, _ = start("-k", f"not ({' or '.join(sorted(AVERAGES))})", plugin=NO_WEIGHTS).communicate(
        timeout=600
    )
    assert f"plan: {len(known)} of {len(known)} cells measured by earlier runs\n" in shown, shown
    assert cells(tmp_path) == known, shown
    for path in findings(tmp_path):
        path.unlink()
    shown, _ = start(plugin=NO_WEIGHTS).communicate(timeout=600)
    assert "all of them in the store" in shown, shown
    assert cells(tmp_path) == cold, shown
    assert entries(tmp_path) == stored


def test_one_cold_cell_of_table_3_runs_through_few_files_and_frames(start: Audit, tmp_path: Path) -> None:
    run = start("-k", "test_score_without_located_neurons", plugin=COUNTING, html=False)
    shown, _ = run.communicate(timeout=600)
    assert [cell["status"] for cell in cells(tmp_path).values()] != ["ERROR"], shown
    counted = json.loads((tmp_path / "counted.json").read_text(encoding="ascii"))
    files, frames = counted["files"], counted["frames"]
    said = "\n".join([f"{len(files)} files:", *files, f"{len(frames)} frames:", *frames])
    assert len(files) <= MOST_FILES and len(frames) <= MOST_FRAMES, said


def test_an_interrupted_run_ends_quickly_and_the_next_goes_on(start: Audit, tmp_path: Path) -> None:
    run = start()
    limit = time.monotonic() + 300
    while len(entries(tmp_path)) < 3:
        assert run.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    interrupted = time.monotonic()
    shown, _ = run.communicate(timeout=60)
    assert time.monotonic() - interrupted < 30
    assert run.returncode == pytest.ExitCode.INTERRUPTED, shown
    assert not list((tmp_path / "reports").glob(".*progress*"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.safetensors")}
    assert len(times) >= 3
    shown, _ = start().communicate(timeout=600)
    assert "INTERRUPTED" not in shown and "\ncomputed " in shown, shown
    assert times.items() <= {path: path.stat().st_mtime_ns for path in times}.items()  # none was made again
    assert "ERROR" not in {cell["status"] for cell in cells(tmp_path).values()}
