"""Section 5.3: neurons located on a dataset express a commonality of it (Table 1, Fig. 4, 5, 7, 8).

Each test is one claim over model x dataset x sigma; its statement, margins and rule stand in
``caploc/papers/capability_localization/commonality.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

commonality = experiments.commonality


@claim("table1-overlap", commonality.overlap)
def test_overlap() -> None:
    """Table 1, *overlap*: "83.62 - 98.32 %" between neurons located on two halves of a dataset."""


@claim("table1-iou", commonality.iou)
def test_iou() -> None:
    """Table 1, *IoU*: 71.77 - 96.68 %."""


@claim("table1-neuron", commonality.neuron_ratio)
def test_neuron_ratio() -> None:
    """Table 1, *neuron*: 0.08 - 0.28 % of the neurons; "the low number of neuron indicates a granularity matching"."""


@claim("table1-both-high", commonality.both_high)
def test_overlap_and_iou_are_both_high() -> None:
    """Section 5.3: "both overlap and IoU have high values"."""


@claim("abstract-gsm8k-overlap", commonality.overlap, dataset="gsm8k")
def test_cnl_overlap_above_90_percent_on_gsm8k() -> None:
    """Abstract: "achieves a neuron overlap rate of 96.42% on the GSM8K dataset"."""


@claim("table1-commonality", commonality.commonality, across=True)
def test_halves_overlap_more_than_other_text() -> None:
    """Section 5.3: "a set of data has certain commonalities, which is reflected by the neurons"."""


@claim("control-untrained-overlap", commonality.trained_minus_untrained)
def test_overlap_tells_trained_from_untrained() -> None:
    """Control, not in the paper: would an untrained model's neurons overlap as much?"""


@claim("control-overlap-explained", experiments.overlap_explained.overlap_explained, sigma=6, across=True)
def test_what_explains_the_overlap_of_halves() -> None:
    """Control, not in the paper: how far would halves overlap by the size and layer of neurons alone?"""


@claim("table1-partition-independence", commonality.independence)
def test_overlap_does_not_depend_on_the_partition() -> None:
    """Section 5.3: "It is independent of our partitioning method of the dataset"."""


@claim(
    "convergence-llama2-7b",
    commonality.convergence,
    by_model={
        "llama2-13b": "convergence-llama2-13b",
        "gptj-6b": "convergence-gptj-6b",
        "tiny-gptj": "convergence-gptj-6b",
    },
)
def test_locating_converges() -> None:
    """Fig. 5, 7, 8: "the accuracy of the localisation converges as the data size increases"."""


@claim("convergence-subset-suffices", commonality.subset_suffices)
def test_a_subset_suffices() -> None:
    """Section 5.3: "we only need a subset of the dataset to effectively identify the commonality"."""


@claim("fig4-dataset-overlap", commonality.dataset_overlap, over="model", across=True)
def test_datasets_share_neurons() -> None:
    """Fig. 4: "neurons under different datasets have overlaps, which means that the commonality may cross over"."""


@claim("eq8-literal-variance", commonality.neuron_ratio(dispersion="variance"))
def test_literal_variance_reading_selects_few() -> None:
    """Eq. (8) as printed, with "var": does it select a small share of the neurons, as Table 1 does?"""


@claim("method-default-sigma6", commonality.default_sigma, sigma=6)
def test_one_reading_of_sigma_6_selects_as_few_as_table_1() -> None:
    """Section 5.1: "we view the neurons with scores outside" sigma = 6; they are 0.08 - 0.28 % in Table 1."""
