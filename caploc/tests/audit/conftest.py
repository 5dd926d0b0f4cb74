from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import pytest
import torch  # noqa: F401

import caploc.experiments.evidence
import caploc.tests.audit.claimed  # noqa: F401
from caploc.tests.tiny import REPOSITORY

# pytester forgets what a test imported, and neither torch nor numpy can be imported twice: they are imported above

PAPER = "capability_localization"
WITHOUT_MODELS = "from caploc.tests.audit.claimed import pytest_configure, pytest_unconfigure\n"
PRELUDE = "import os\nfrom caploc.tests.audit.claimed import *\n"


Start = Callable[..., subprocess.Popen[str]]


class ClaimsRun:
    """Claim tests of a project of their own, run by the plugin."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeconftest(f'pytest_plugins = ["caploc.audit.plugin"]\n{WITHOUT_MODELS}')
        # hypothesis would be imported anew by every run inside this process
        pytester.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:hypothesispytest -p no:anyio")

    @property
    def folder(self) -> Path:
        """Of the paper's claims."""
        found = self.pytester.path / "claims" / PAPER
        found.mkdir(parents=True, exist_ok=True)
        return found

    def write(self, source: str) -> None:
        (self.folder / "test_claims.py").write_text(PRELUDE + source, encoding="utf-8")

    def __call__(self, *arguments: str, model: str | None = "tiny-llama") -> pytest.RunResult:
        chosen = ["--model", model] if model else []
        return self.pytester.runpytest_inprocess("--dataset=gsm8k,emotion", "--sigma=6", *chosen, *arguments)

    def expect(self, text: str) -> None:
        folder = self.pytester.path / "fixtures"
        folder.mkdir(exist_ok=True)
        (folder / "expected.toml").write_text(text, encoding="utf-8")

    def ledger(self, name: str = "ledger.jsonl") -> list[dict[str, Any]]:
        path = self.pytester.path / "reports" / name
        return [json.loads(line, parse_constant=_refuse) for line in path.read_bytes().splitlines()]

    def summary(self, name: str = "ledger.json") -> dict[str, Any]:
        text = (self.pytester.path / "reports" / name).read_text(encoding="ascii")
        content: dict[str, Any] = json.loads(text, parse_constant=_refuse)
        return content

    @property
    def expected(self) -> Path:
        return self.pytester.path / "fixtures" / "expected.toml"


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture
def claims_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> ClaimsRun:
    monkeypatch.setenv("CAPLOC_STORE", str(pytester.path / "store"))
    return ClaimsRun(pytester)


@pytest.fixture
def start(claims_run: ClaimsRun) -> Iterator[Start]:
    """Starts the audit of the project's tests in processes of its own, which are a group of their own."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", "--model=tiny-llama", "--dataset=gsm8k", "--sigma=6", "--seed=1",
             "--store=store", "--html=reports/run.html", *arguments],
            cwd=claims_run.pytester.path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        running.append(run)
        return run

    yield begin
    for run in running:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300  # on a busy machine
    while not condition():
        assert time.monotonic() < limit, "what was waited for never came"
        time.sleep(0.01)
