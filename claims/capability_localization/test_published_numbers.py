"""The paper against itself: its printed numbers and equations, without a model.

Each test is one check of ``caploc.consistency``. A refuted claim here is a finding about the paper: two of its numbers
contradict each other, or an equation does not say what the text does. Statements and rules stand in
``caploc/papers/capability_localization/consistency.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import Module, claim

consistency = Module("caploc.consistency")


@claim("print-table2-averages", consistency.check, over="print")
def test_table2_averages_are_the_means_of_their_rows() -> None:
    """Table 2, columns *Avg.*."""


@claim("print-table3-averages", consistency.check, over="print")
def test_table3_averages_are_the_means_of_their_rows() -> None:
    """Table 3, columns *avg.*."""


@claim("print-table3-changes", consistency.check, over="print")
def test_table3_differences_are_score_minus_base() -> None:
    """Table 3, in parentheses."""


@claim("print-gsm8k-granularity", consistency.check, over="print")
def test_gsm8k_accuracies_are_whole_numbers_of_samples() -> None:
    """Tables 2 and 3, *GSM8K*; Section 5.3: "We use 1600 GSM8K"."""


@claim("print-emotion-granularity", consistency.check, over="print")
def test_emotion_accuracies_are_whole_numbers_of_samples() -> None:
    """Tables 2 and 3, *Emotion*; Section 5.3: "2400 Emotion"."""


@claim("print-code25k-granularity", consistency.check, over="print")
def test_code25k_scores_are_whole_numbers_of_samples() -> None:
    """Tables 2 and 3, *Code25K*; Section 5.3: "1200 Code25K"."""


@claim("print-evaluation-counts", consistency.check, over="print")
def test_evaluation_counts_are_not_the_locating_counts() -> None:
    """Section 5.4: "evaluate on the validation set"; Section 5.3, the samples located with."""


@claim("print-table1-iou", consistency.check, over="print")
def test_table1_iou_is_possible_given_the_overlap() -> None:
    """Table 1, *overlap* and *IoU*; eq. (9)."""


@claim("print-table1-quoted-pair", consistency.check, over="print")
def test_quoted_overlap_and_iou_can_be_one_cell() -> None:
    """Section 5.3: "high values (like 96.42% and 95.95%)"."""


@claim("print-table1-chebyshev", consistency.check, over="print")
def test_neuron_ratios_are_possible_under_the_standard_deviation() -> None:
    """Table 1, *neuron*; eq. (8)."""


@claim("print-table1-repeats", consistency.check, over="print")
def test_repeated_neuron_ratios_are_possible_in_every_model() -> None:
    """Table 1, *neuron*."""


@claim("print-abstract-overlap", consistency.check, over="print")
def test_abstract_overlap_stands_in_table1() -> None:
    """Abstract: "a neuron overlap rate of 96.42% on the GSM8K dataset"."""


@claim("print-fidelity-numbers", consistency.check, over="print")
def test_fidelity_numbers_agree_between_sections_and_poster() -> None:
    """Sections 1 and 3.1; the poster."""


@claim("print-fidelity-chance", consistency.check, over="print")
def test_overlaps_of_kn_and_rome_stand_on_one_scale() -> None:
    """Section 3.1: 15.3 neurons a sample; "top $k=3$ parameter layer"."""


@claim("print-rewrites", consistency.check, over="print")
def test_number_of_rewrites_is_one_number() -> None:
    """Section 3.1: "5 times" and "4 times"."""


@claim("print-chain-share", consistency.check, over="print")
def test_share_of_a_circuit_is_one_number() -> None:
    """Sections 1, 3.1 and 3.2."""


@claim("print-kn-percentages", consistency.check, over="print")
def test_rising_and_falling_targets_are_all_samples() -> None:
    """Section 3.2, distributed parameters."""


@claim("print-kn-similar-to-random", consistency.check, over="print")
def test_located_and_random_neurons_act_alike() -> None:
    """Section 3.2: "similar to the random activation values"."""


@claim("print-kn-direction", consistency.check, over="print")
def test_located_neurons_act_as_predicted_more_often_than_random_ones() -> None:
    """Section 3.2, distributed parameters."""


@claim("print-kn-ipp", consistency.check, over="print")
def test_ipp_of_kn_is_located_minus_random() -> None:
    """The poster; Section 3.2."""


@claim("print-rome-ipp", consistency.check, over="print")
def test_ipp_of_rome_is_possible() -> None:
    """The poster; Section 3.2, parameter layers."""


@claim("print-kc-ipp", consistency.check, over="print")
def test_ipp_of_kc_is_possible_given_its_recall() -> None:
    """The poster; Section 3.2, parameter chains."""


@claim("print-cr-same-task", consistency.check, over="print")
def test_coincidence_of_a_task_with_itself_is_what_eq6_gives() -> None:
    """Section 4.2, eq. (6)."""


@claim("print-cr-bound", consistency.check, over="print")
def test_coincidence_rates_are_possible_with_the_located_neurons() -> None:
    """The poster's definition; Section 3.1: 15.3 neurons a sample."""


@claim("print-cr-order", consistency.check, over="print")
def test_tasks_coincide_more_than_subjects() -> None:
    """Section 1: "which means that the commonality of data corresponds to parameters"."""


@claim("print-eq7-weights", consistency.check, over="print")
def test_weights_of_eq7_add_up_to_one() -> None:
    """Section 5.1, eq. (7)."""


@claim("print-eq8-unit", consistency.check, over="print")
def test_mask_of_eq8_does_not_depend_on_the_unit() -> None:
    """Section 5.1, eq. (8), with the variance as printed."""


@claim("print-eq12-zero", consistency.check, over="print")
def test_edge_without_effect_scores_zero_by_eq12() -> None:
    """Appendix D, eq. (12)."""


@claim("print-sigma-labels", consistency.check, over="print")
def test_paper_and_poster_label_blocks_with_one_sigma() -> None:
    """Table 2 of both documents."""


@claim("print-share-table1", consistency.check, over="print")
def test_share_of_located_neurons_is_that_of_table1() -> None:
    """Section 5.4: "0.15%"; Table 1, *neuron*."""


@claim("print-share-both-sigmas", consistency.check, over="print")
def test_equally_many_random_neurons_score_alike_at_both_sigmas() -> None:
    """Section 5.4: "0.15%"; Table 2, rows *random*."""


@claim("print-share-rest", consistency.check, over="print")
def test_shares_of_located_and_other_neurons_are_all() -> None:
    """Section 5.4: "0.15%" and "99.85%"."""


@claim("print-sigma-monotone", consistency.check, over="print")
def test_fewer_erased_neurons_never_hurt_more() -> None:
    """Table 3, rows *locate*."""


@claim("print-gsm8k-guessing", consistency.check, over="print")
def test_tuned_gsm8k_scores_are_not_guessing() -> None:
    """Table 2, *GSM8K*; Section 5.2."""


@claim("print-located-best-average", consistency.check, over="print")
def test_located_has_the_best_average() -> None:
    """Table 2, columns *Avg.*."""


@claim("print-located-significant", consistency.check, over="print")
def test_located_is_better_by_more_than_sampling_error() -> None:
    """Table 2, *GSM8K* and *Emotion*."""


@claim("print-erasure-significant", consistency.check, over="print")
def test_erasing_located_hurts_emotion_by_more_than_sampling_error() -> None:
    """Table 3, *Emotion*."""


@claim("print-erasure-room", consistency.check, over="print")
def test_base_scores_leave_room_for_erasure() -> None:
    """Table 3, *Base accuracy*."""


@claim("print-random-noise", consistency.check, over="print")
def test_random_erasure_changes_nothing_but_by_sampling_error() -> None:
    """Table 3, rows *random*."""


@claim("print-marks-wrong", consistency.check, over="print")
def test_underlined_numbers_are_second_best() -> None:
    """Table 2: "underline means the suboptimal"."""


@claim("print-marks-missing", consistency.check, over="print")
def test_second_best_numbers_are_underlined() -> None:
    """Table 2: "underline means the suboptimal"."""


@claim("print-tables-agree", consistency.check, over="print")
def test_paper_and_poster_print_the_same_tables() -> None:
    """Tables 1, 2 and 3 of both documents."""


@claim("print-models-in-tables", consistency.check, over="print")
def test_every_model_is_in_every_table() -> None:
    """Tables 1 to 4."""


@claim("print-other-datasets", consistency.check, over="print")
def test_tuning_located_neurons_has_little_effect_on_other_datasets() -> None:
    """Table 4; the poster: "little impact on other types of datasets"."""


@claim("general-limitations-models", consistency.check, over="print")
def test_limitations_name_the_models_of_the_tables() -> None:
    """Appendix B; Tables 1 to 4."""


@claim("general-protocol-counts", consistency.check, over="print")
def test_our_defaults_are_the_printed_protocol() -> None:
    """Sections 2.3, 3.1, 4.1, 5.1 and 5.3."""
