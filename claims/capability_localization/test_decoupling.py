"""Section 4: what is located goes with the task, not with the sum that two tasks are about.

Each test is one claim over the models; its statement, margins and rule stand in
``caploc/papers/capability_localization/decoupling.toml``. The paper's 1000 pairs are not published; ours are made after
its description.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

decoupling = experiments.decoupling


@claim("decoupling-cr12", decoupling.rate_of_two_tasks, over="facts", dataset="decoupling")
def test_two_tasks_about_one_sum_coincide_15_6_percent() -> None:
    """Section 4.2: C(1, 2) "was found to be 15.6%"."""


@claim("decoupling-cr11", decoupling.rate_of_a_task(task="result"), over="facts", dataset="decoupling")
def test_sums_to_compute_coincide_7_3_percent() -> None:
    """Section 4.2: "the coincidence rate of response parameters for all subsample1 was 7.3%"."""


@claim("decoupling-cr22", decoupling.rate_of_a_task(task="program"), over="facts", dataset="decoupling")
def test_sums_to_program_coincide_8_6_percent() -> None:
    """Section 4.2: "which is 8.6% for all subsample2"."""


@claim("decoupling-individual-low", decoupling.individual_low, over="facts", dataset="decoupling")
def test_two_tasks_about_one_sum_share_little() -> None:
    """Section 1: "the coincidence rate ... with the same main part is only 15.6%"."""


@claim("decoupling-commonality", decoupling.commonality, over="facts", dataset="decoupling")
def test_a_task_has_a_commonality() -> None:
    """Section 1: 8.6 % "means that the commonality of data corresponds to parameters"."""
