"""Section 4: what is located goes with the task, not with the sum that two tasks are about.

Each test is one claim over the models; its statement, margins and rule stand in
``caploc/papers/capability_localization/decoupling.toml``. The paper's 1000 pairs are not published; ours are made after
its description.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("decoupling-cr12", facts="decoupling")
def test_two_tasks_about_one_sum_coincide_15_6_percent(
    study: Study, cell: CellRequest, audit: Auditor
) -> None:
    """Section 4.2: C(1, 2) "was found to be 15.6%"."""
    from caploc.experiments import decoupling

    audit.check(decoupling.rate_of_two_tasks(study, cell.cell, audit.claim))


@pytest.mark.claim("decoupling-cr11", facts="decoupling")
def test_sums_to_compute_coincide_7_3_percent(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 4.2: "the coincidence rate of response parameters for all subsample1 was 7.3%"."""
    from caploc.experiments import decoupling

    audit.check(decoupling.rate_of_a_task(study, cell.cell, audit.claim, task="result"))


@pytest.mark.claim("decoupling-cr22", facts="decoupling")
def test_sums_to_program_coincide_8_6_percent(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 4.2: "which is 8.6% for all subsample2"."""
    from caploc.experiments import decoupling

    audit.check(decoupling.rate_of_a_task(study, cell.cell, audit.claim, task="program"))


@pytest.mark.claim("decoupling-individual-low", facts="decoupling")
def test_two_tasks_about_one_sum_share_little(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 1: "the coincidence rate ... with the same main part is only 15.6%"."""
    from caploc.experiments import decoupling

    audit.check(decoupling.individual_low(study, cell.cell, audit.claim))


@pytest.mark.claim("decoupling-commonality", facts="decoupling")
def test_a_task_has_a_commonality(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 1: 8.6 % "means that the commonality of data corresponds to parameters"."""
    from caploc.experiments import decoupling

    audit.check(decoupling.commonality(study, cell.cell, audit.claim))
