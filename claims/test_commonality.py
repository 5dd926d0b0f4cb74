"""Section 5.3: neurons located on a dataset express a commonality of it (Table 1, Fig. 4, 5, 7, 8).

Each test is one claim over model x dataset x sigma; its statement, margins and rule stand in
``caploc/papers/capability_localization/commonality.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("table1-overlap")
def test_overlap(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Table 1, *overlap*: "83.62 - 98.32 %" between neurons located on two halves of a dataset."""
    from caploc.experiments import commonality

    audit.check(commonality.overlap(study, cell.cell, audit.claim))


@pytest.mark.claim("table1-iou")
def test_iou(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Table 1, *IoU*: 71.77 - 96.68 %."""
    from caploc.experiments import commonality

    audit.check(commonality.iou(study, cell.cell, audit.claim))


@pytest.mark.claim("table1-neuron")
def test_neuron_ratio(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Table 1, *neuron*: 0.08 - 0.28 % of the neurons; "the low number of neuron indicates a granularity matching"."""
    from caploc.experiments import commonality

    audit.check(commonality.neuron_ratio(study, cell.cell, audit.claim))


@pytest.mark.claim("table1-both-high")
def test_overlap_and_iou_are_both_high(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 5.3: "both overlap and IoU have high values"."""
    from caploc.experiments import commonality

    audit.check(commonality.both_high(study, cell.cell, audit.claim))


@pytest.mark.claim("abstract-gsm8k-overlap", dataset="gsm8k")
def test_cnl_overlap_above_90_percent_on_gsm8k(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Abstract: "achieves a neuron overlap rate of 96.42% on the GSM8K dataset"."""
    from caploc.experiments import commonality

    audit.check(commonality.overlap(study, cell.cell, audit.claim))


@pytest.mark.claim("table1-commonality", across=True)
def test_halves_overlap_more_than_other_text(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 5.3: "a set of data has certain commonalities, which is reflected by the neurons"."""
    from caploc.experiments import commonality

    audit.check(commonality.commonality(study, cell.cell, audit.claim))


@pytest.mark.claim("control-untrained-overlap")
def test_overlap_tells_trained_from_untrained(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Control, not in the paper: would an untrained model's neurons overlap as much?"""
    from caploc.experiments import commonality

    audit.check(commonality.trained_minus_untrained(study, cell.cell, audit.claim))


@pytest.mark.claim("table1-partition-independence")
def test_overlap_does_not_depend_on_the_partition(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 5.3: "It is independent of our partitioning method of the dataset"."""
    from caploc.experiments import commonality

    audit.check(commonality.independence(study, cell.cell, audit.claim))


@pytest.mark.claim(
    "convergence-llama2-7b",  # also where the paper says nothing of a model
    by_model={
        "llama2-13b": "convergence-llama2-13b",
        "gptj-6b": "convergence-gptj-6b",
        "tiny-gptj": "convergence-gptj-6b",
    },
)
def test_locating_converges(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Fig. 5, 7, 8: "the accuracy of the localisation converges as the data size increases"."""
    from caploc.experiments import commonality

    audit.check(commonality.convergence(study, cell.cell, audit.claim))


@pytest.mark.claim("convergence-subset-suffices")
def test_a_subset_suffices(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 5.3: "we only need a subset of the dataset to effectively identify the commonality"."""
    from caploc.experiments import commonality

    audit.check(commonality.subset_suffices(study, cell.cell, audit.claim))


@pytest.mark.claim("fig4-dataset-overlap", across=True)
def test_datasets_share_neurons(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Fig. 4: "neurons under different datasets have overlaps, which means that the commonality may cross over"."""
    from caploc.experiments import commonality

    audit.check(commonality.dataset_overlap(study, model_cell.cell, audit.claim))


@pytest.mark.claim("eq8-literal-variance")
def test_literal_variance_reading_selects_few(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Eq. (8) as printed, with "var": does it select a small share of the neurons, as Table 1 does?"""
    from caploc.experiments import commonality

    audit.check(commonality.neuron_ratio(study, cell.cell, audit.claim, dispersion="variance"))


@pytest.mark.claim("method-default-sigma6", sigma=6)
def test_one_reading_of_sigma_6_selects_as_few_as_table_1(
    study: Study, cell: CellRequest, audit: Auditor
) -> None:
    """Section 5.1: "we view the neurons with scores outside" sigma = 6; they are 0.08 - 0.28 % in Table 1."""
    from caploc.experiments import commonality

    audit.check(commonality.default_sigma(study, cell.cell, audit.claim))
