"""The self-check of rows: by the largest difference; in half precision by the mean and a share of outliers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caploc.errors import ModelError
from caploc.experiments.evidence import assemble
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Measurement, Number
from caploc.papers import load_paper
from caploc.rows.clean import check_reproduced, how_checked
from caploc.store import Store
from caploc.tests.tiny import tiny_lm

CLEAN = torch.linspace(-9, -0.1, 1000)


def off_by(tokens: int, **outliers: float) -> torch.Tensor:
    """By rounding, 0.02, but for the tokens named."""
    found = CLEAN[:tokens] + 0.02 * (-1.0) ** torch.arange(tokens)
    for name, by in outliers.items():
        found[int(name[1:])] = CLEAN[int(name[1:])] + by
    return found


@pytest.mark.parametrize(
    "found",
    [
        off_by(1000),
        off_by(1000, t7=0.28),  # the largest of hundreds of thousands, seen on a sound model
        off_by(1000, **{f"t{place}": -0.3 for place in range(10)}),
        off_by(1, t0=0.28),
        off_by(3, t0=0.2, t1=-0.2, t2=0.2),
    ],
    ids=["rounding", "one-outlier", "one-percent", "one-token", "few-tokens"],
)
def test_rare_outliers_pass_in_half_precision_alone(found: torch.Tensor) -> None:
    clean = CLEAN[: len(found)]
    check_reproduced(found, clean, torch.bfloat16, "e", "the clean run")
    with pytest.raises(
        ModelError, match=r"a log-probability of the clean run differs by 0\.\d+ \(allowed 0\.002\);"
    ):
        check_reproduced(found, clean, torch.float32, "e", "the clean run")


@pytest.mark.parametrize(
    "found",
    [
        CLEAN - 0.69,  # GPT-Neo
        CLEAN[:16] - 0.69,  # when it is loaded
        CLEAN[:1] - 0.69,
        CLEAN + 0.2,  # each within the tolerance of a token
        off_by(1000, t7=0.6),
        off_by(1000, **{f"t{place}": 0.3 for place in range(11)}),
        off_by(3, t0=0.3, t1=0.3),
        CLEAN * torch.nan,
    ],
    ids=["all", "a-probe", "one-token", "mean", "far", "many", "two-of-three", "nan"],
)
def test_what_is_wrong_is_refused_in_half_precision(found: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"example 'e'.*\(allowed 0\.25\), by .* of \d+ by more than"):
        check_reproduced(found, CLEAN[: len(found)], torch.bfloat16, "e", "the clean run")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_finding_says_how_half_precision_was_checked(dtype: str, tmp_path: Path) -> None:
    settings = StudySettings(dtype=dtype, store=Store(tmp_path))
    study = Study("tiny", settings, tiny_lm(dtype=getattr(torch, dtype)))
    claim = next(iter(load_paper("capability_localization").claims.values()))
    finding = assemble(claim, Cell("tiny", "gsm8k"), Measurement("overlap", Number(0.5, (0.4, 0.6))), [study])
    assert (how_checked(torch.bfloat16) in finding.notes) == (dtype == "bfloat16")
    assert "0.125 nats in the mean" in how_checked(torch.bfloat16) and "than 0.25" in how_checked(
        torch.bfloat16
    )
