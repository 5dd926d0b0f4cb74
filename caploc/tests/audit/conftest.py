from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import pytest
import torch  # noqa: F401

# pytester forgets what a test imported, and neither torch nor numpy can be imported twice: they are imported above

PRELUDE = """
import os
import pytest
from caploc.audit.requests import CellRequest
from caploc.findings import Cell, Finding, Plot


def overlap(cell, low, high, **more):
    return Finding("table1-overlap", cell.cell, "overlap", estimate=(low + high) / 2, interval=(low, high), **more)
"""


class ClaimsRun:
    """Claim tests of a project of their own, run by the plugin."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeconftest('pytest_plugins = ["caploc.audit.plugin"]')
        # hypothesis would be imported anew by every run inside this process
        pytester.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:hypothesispytest -p no:anyio")

    def write(self, source: str) -> None:
        self.pytester.makepyfile(test_claims=PRELUDE + source)

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
