from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import pytest
import torch  # noqa: F401

import caploc.experiments.evidence
import caploc.tests.audit.claimed  # noqa: F401

# pytester forgets what a test imported, and neither torch nor numpy can be imported twice: they are imported above

PAPER = "capability_localization"
WITHOUT_MODELS = "from caploc.tests.audit.claimed import pytest_configure, pytest_unconfigure\n"
PRELUDE = "import os\nfrom caploc.tests.audit.claimed import *\n"


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
