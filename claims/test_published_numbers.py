"""The paper against itself: its printed numbers and equations, without a model.

Each test is one check of ``caploc.consistency``. A refuted claim here is a finding about the paper: two of its numbers
contradict each other, or an equation does not say what the text does. Statements and rules stand in
``caploc/papers/capability_localization/consistency.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.findings import Finding


def checked(claim: str) -> Finding:
    """The finding of one check."""
    from caploc.audit.settings import PAPER
    from caploc.consistency import CHECKS
    from caploc.papers import load_paper

    return CHECKS[claim](load_paper(PAPER))


@pytest.mark.claim("print-table2-averages")
def test_table2_averages_are_the_means_of_their_rows(audit: Auditor) -> None:
    """Table 2, columns *Avg.*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-table3-averages")
def test_table3_averages_are_the_means_of_their_rows(audit: Auditor) -> None:
    """Table 3, columns *avg.*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-table3-changes")
def test_table3_differences_are_score_minus_base(audit: Auditor) -> None:
    """Table 3, in parentheses."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-gsm8k-granularity")
def test_gsm8k_accuracies_are_whole_numbers_of_samples(audit: Auditor) -> None:
    """Tables 2 and 3, *GSM8K*; Section 5.3: "We use 1600 GSM8K"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-emotion-granularity")
def test_emotion_accuracies_are_whole_numbers_of_samples(audit: Auditor) -> None:
    """Tables 2 and 3, *Emotion*; Section 5.3: "2400 Emotion"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-code25k-granularity")
def test_code25k_scores_are_whole_numbers_of_samples(audit: Auditor) -> None:
    """Tables 2 and 3, *Code25K*; Section 5.3: "1200 Code25K"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-evaluation-counts")
def test_evaluation_counts_are_not_the_locating_counts(audit: Auditor) -> None:
    """Section 5.4: "evaluate on the validation set"; Section 5.3, the samples located with."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-table1-iou")
def test_table1_iou_is_possible_given_the_overlap(audit: Auditor) -> None:
    """Table 1, *overlap* and *IoU*; eq. (9)."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-table1-quoted-pair")
def test_quoted_overlap_and_iou_can_be_one_cell(audit: Auditor) -> None:
    """Section 5.3: "high values (like 96.42% and 95.95%)"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-table1-chebyshev")
def test_neuron_ratios_are_possible_under_the_standard_deviation(audit: Auditor) -> None:
    """Table 1, *neuron*; eq. (8)."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-table1-repeats")
def test_repeated_neuron_ratios_are_possible_in_every_model(audit: Auditor) -> None:
    """Table 1, *neuron*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-abstract-overlap")
def test_abstract_overlap_stands_in_table1(audit: Auditor) -> None:
    """Abstract: "a neuron overlap rate of 96.42% on the GSM8K dataset"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-fidelity-numbers")
def test_fidelity_numbers_agree_between_sections_and_poster(audit: Auditor) -> None:
    """Sections 1 and 3.1; the poster."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-fidelity-chance")
def test_overlaps_of_kn_and_rome_stand_on_one_scale(audit: Auditor) -> None:
    """Section 3.1: 15.3 neurons a sample; "top $k=3$ parameter layer"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-rewrites")
def test_number_of_rewrites_is_one_number(audit: Auditor) -> None:
    """Section 3.1: "5 times" and "4 times"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-chain-share")
def test_share_of_a_circuit_is_one_number(audit: Auditor) -> None:
    """Sections 1, 3.1 and 3.2."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-kn-percentages")
def test_rising_and_falling_targets_are_all_samples(audit: Auditor) -> None:
    """Section 3.2, distributed parameters."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-kn-similar-to-random")
def test_located_and_random_neurons_act_alike(audit: Auditor) -> None:
    """Section 3.2: "similar to the random activation values"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-kn-direction")
def test_located_neurons_act_as_predicted_more_often_than_random_ones(audit: Auditor) -> None:
    """Section 3.2, distributed parameters."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-kn-ipp")
def test_ipp_of_kn_is_located_minus_random(audit: Auditor) -> None:
    """The poster; Section 3.2."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-rome-ipp")
def test_ipp_of_rome_is_possible(audit: Auditor) -> None:
    """The poster; Section 3.2, parameter layers."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-kc-ipp")
def test_ipp_of_kc_is_possible_given_its_recall(audit: Auditor) -> None:
    """The poster; Section 3.2, parameter chains."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-cr-same-task")
def test_coincidence_of_a_task_with_itself_is_what_eq6_gives(audit: Auditor) -> None:
    """Section 4.2, eq. (6)."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-cr-bound")
def test_coincidence_rates_are_possible_with_the_located_neurons(audit: Auditor) -> None:
    """The poster's definition; Section 3.1: 15.3 neurons a sample."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-cr-order")
def test_tasks_coincide_more_than_subjects(audit: Auditor) -> None:
    """Section 1: "which means that the commonality of data corresponds to parameters"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-eq7-weights")
def test_weights_of_eq7_add_up_to_one(audit: Auditor) -> None:
    """Section 5.1, eq. (7)."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-eq8-unit")
def test_mask_of_eq8_does_not_depend_on_the_unit(audit: Auditor) -> None:
    """Section 5.1, eq. (8), with the variance as printed."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-eq12-zero")
def test_edge_without_effect_scores_zero_by_eq12(audit: Auditor) -> None:
    """Appendix D, eq. (12)."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-sigma-labels")
def test_paper_and_poster_label_blocks_with_one_sigma(audit: Auditor) -> None:
    """Table 2 of both documents."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-share-table1")
def test_share_of_located_neurons_is_that_of_table1(audit: Auditor) -> None:
    """Section 5.4: "0.15%"; Table 1, *neuron*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-share-both-sigmas")
def test_equally_many_random_neurons_score_alike_at_both_sigmas(audit: Auditor) -> None:
    """Section 5.4: "0.15%"; Table 2, rows *random*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-share-rest")
def test_shares_of_located_and_other_neurons_are_all(audit: Auditor) -> None:
    """Section 5.4: "0.15%" and "99.85%"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-sigma-monotone")
def test_fewer_erased_neurons_never_hurt_more(audit: Auditor) -> None:
    """Table 3, rows *locate*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-gsm8k-guessing")
def test_tuned_gsm8k_scores_are_not_guessing(audit: Auditor) -> None:
    """Table 2, *GSM8K*; Section 5.2."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-located-best-average")
def test_located_has_the_best_average(audit: Auditor) -> None:
    """Table 2, columns *Avg.*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-located-significant")
def test_located_is_better_by_more_than_sampling_error(audit: Auditor) -> None:
    """Table 2, *GSM8K* and *Emotion*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-erasure-significant")
def test_erasing_located_hurts_emotion_by_more_than_sampling_error(audit: Auditor) -> None:
    """Table 3, *Emotion*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-erasure-room")
def test_base_scores_leave_room_for_erasure(audit: Auditor) -> None:
    """Table 3, *Base accuracy*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-random-noise")
def test_random_erasure_changes_nothing_but_by_sampling_error(audit: Auditor) -> None:
    """Table 3, rows *random*."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-marks-wrong")
def test_underlined_numbers_are_second_best(audit: Auditor) -> None:
    """Table 2: "underline means the suboptimal"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-marks-missing")
def test_second_best_numbers_are_underlined(audit: Auditor) -> None:
    """Table 2: "underline means the suboptimal"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-tables-agree")
def test_paper_and_poster_print_the_same_tables(audit: Auditor) -> None:
    """Tables 1, 2 and 3 of both documents."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-models-in-tables")
def test_every_model_is_in_every_table(audit: Auditor) -> None:
    """Tables 1 to 4."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("print-other-datasets")
def test_tuning_located_neurons_has_little_effect_on_other_datasets(audit: Auditor) -> None:
    """Table 4; the poster: "little impact on other types of datasets"."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("general-limitations-models")
def test_limitations_name_the_models_of_the_tables(audit: Auditor) -> None:
    """Appendix B; Tables 1 to 4."""
    audit.check(checked(audit.claim))


@pytest.mark.claim("general-protocol-counts")
def test_our_defaults_are_the_printed_protocol(audit: Auditor) -> None:
    """Sections 2.3, 3.1, 4.1, 5.1 and 5.3."""
    audit.check(checked(audit.claim))
