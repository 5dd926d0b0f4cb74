"""Statistics: arrays in, numbers out, on scipy. All inference of the library is here.

============== =========================================================================================================
`checks`       what every statistic asks of its input; clusters
`intervals`    intervals from samples, draws and counts
`bootstrap`    bootstrap intervals, and the weights of units in resamples
`permutation`  permutation tests and exact tests of counts
`equivalence`  differences within a margin
`multiplicity` families of tests, and the effects they could have found
`trends`       monotone trends and rank correlations
`comparisons`  outcomes per item of one thing against another: what rules decide by
`arms`         the same for arms of training and erasing, of several runs and datasets
`best`         against the best of several
`sets`         how located sets agree, against random sets and against each other
`splits`       splits and resamples of what sets are located from
============== =========================================================================================================

The functions that tests and tools are built of check what they are given and raise `StatisticsError`, in one line, for
an empty, non-finite or wrongly shaped input: a NaN that slipped into a sample must not become a verdict. What comes
back is made of plain Python numbers, so that it can be written as JSON. Random draws come from `caploc.streams`.
"""

from __future__ import annotations

from caploc.statistics.arms import Pair, effect_of, rank_among_draws, resampled_changes, sets_p
from caploc.statistics.best import Best, Ipp, against_the_best, best_of, ipp
from caploc.statistics.bootstrap import (
    above_chance,
    average_interval,
    bootstrap_interval,
    bootstrap_mean,
    cluster_weights,
    ratio_interval,
    score_interval,
    weighted_mean,
    weighted_pair_mean,
)
from caploc.statistics.checks import StatisticsError
from caploc.statistics.comparisons import (
    Change,
    DoseResponse,
    Effect,
    at_least_mcnemar,
    between_variance,
    change_of_random,
    compare_doses,
    compare_pairs,
    compare_successes,
    compare_with_random,
    effect_of_centred_draws,
    effect_of_draws,
    holm_parts,
    if_nothing_changed,
)
from caploc.statistics.equivalence import (
    Equivalence,
    Side,
    equivalence_p,
    three_sided,
    tost,
    tost_from_summary,
)
from caploc.statistics.intervals import (
    Interval,
    binomial_interval,
    defined_interval,
    defined_mean,
    no_change,
    percentile_interval,
)
from caploc.statistics.multiplicity import (
    benjamini_yekutieli,
    holm,
    minimum_detectable_difference,
    minimum_detectable_effect,
    minimum_draws,
)
from caploc.statistics.permutation import (
    McNemar,
    PermutationTest,
    binomial_p,
    dealt_labels_p,
    hypergeometric_p,
    mcnemar,
    mcnemar_from_counts,
    paired_permutation,
    permutation_p,
    rank_p,
    stratified_permutation,
)
from caploc.statistics.sets import (
    Agreement,
    Within,
    across_facts,
    agreement,
    facts_permuted_p,
    layer_matched_p,
    matched_overlaps,
    off_diagonal_mean,
    random_sets_p,
    same_fact_pairs,
    swapped_tasks_p,
    within_facts,
)
from caploc.statistics.splits import (
    Shards,
    across,
    draw_halves,
    exchange_p,
    half_split,
    nested_overlaps,
    partition_gap,
    random_halves,
    random_sides,
    resampled,
    resampled_masks,
    resampled_pair_overlaps,
    sample_halves,
    subset_curve,
    subset_overlaps,
    weighted_halves,
)
from caploc.statistics.trends import (
    Trend,
    largest_rank_correlation,
    mann_kendall,
    mantel_p,
    mean_rho,
    page_trend,
    rank_correlations,
    rho,
    row_correlations,
    shared_keys,
)

__all__ = [
    "Agreement",
    "Best",
    "Change",
    "DoseResponse",
    "Effect",
    "Equivalence",
    "Interval",
    "Ipp",
    "McNemar",
    "Pair",
    "PermutationTest",
    "Shards",
    "Side",
    "StatisticsError",
    "Trend",
    "Within",
    "above_chance",
    "across",
    "across_facts",
    "against_the_best",
    "agreement",
    "at_least_mcnemar",
    "average_interval",
    "benjamini_yekutieli",
    "best_of",
    "between_variance",
    "binomial_interval",
    "binomial_p",
    "bootstrap_interval",
    "bootstrap_mean",
    "change_of_random",
    "cluster_weights",
    "compare_doses",
    "compare_pairs",
    "compare_successes",
    "compare_with_random",
    "dealt_labels_p",
    "defined_interval",
    "defined_mean",
    "draw_halves",
    "effect_of",
    "effect_of_centred_draws",
    "effect_of_draws",
    "equivalence_p",
    "exchange_p",
    "facts_permuted_p",
    "half_split",
    "holm",
    "holm_parts",
    "hypergeometric_p",
    "if_nothing_changed",
    "ipp",
    "largest_rank_correlation",
    "layer_matched_p",
    "mann_kendall",
    "mantel_p",
    "matched_overlaps",
    "mcnemar",
    "mcnemar_from_counts",
    "mean_rho",
    "minimum_detectable_difference",
    "minimum_detectable_effect",
    "minimum_draws",
    "nested_overlaps",
    "no_change",
    "off_diagonal_mean",
    "page_trend",
    "paired_permutation",
    "partition_gap",
    "percentile_interval",
    "permutation_p",
    "random_halves",
    "random_sets_p",
    "random_sides",
    "rank_among_draws",
    "rank_correlations",
    "rank_p",
    "ratio_interval",
    "resampled",
    "resampled_changes",
    "resampled_masks",
    "resampled_pair_overlaps",
    "rho",
    "row_correlations",
    "same_fact_pairs",
    "sample_halves",
    "score_interval",
    "sets_p",
    "shared_keys",
    "stratified_permutation",
    "subset_curve",
    "subset_overlaps",
    "swapped_tasks_p",
    "three_sided",
    "tost",
    "tost_from_summary",
    "weighted_halves",
    "weighted_mean",
    "weighted_pair_mean",
    "within_facts",
]
