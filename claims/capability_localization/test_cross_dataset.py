"""Section 5.4 and appendix H: neurons located on one dataset carry abilities that others need (Fig. 6, 10).

Each test is one claim over model x sigma, the last over all models together; its statement, margins and rule stand in
``caploc/papers/capability_localization/cross_dataset.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

cross_dataset = experiments.cross_dataset


@claim("cross-gsm8k-emotion-overlap", cross_dataset.gsm8k_emotion_overlap, over="model", across=True)
def test_gsm8k_and_emotion_overlap_most() -> None:
    """Section 5.4: "the GSM8K and Emotion's neurons have a higher overlap rate"."""


@claim("fig6-enhance-cross", cross_dataset.enhance_cross, over="model", across=True)
def test_training_helps_other_datasets() -> None:
    """Fig. 6: "the located neurons have cross-dataset characteristics", enhanced."""


@claim("fig6-erase-cross", cross_dataset.erase_cross, over="model", across=True)
def test_erasing_hurts_other_datasets() -> None:
    """Fig. 6: "the located neurons have cross-dataset characteristics", erased."""


@claim("cross-same-type-specificity", cross_dataset.same_type_specificity, over="model", across=True)
def test_effects_stay_within_a_type_of_dataset() -> None:
    """Poster: "substantial effects on the same type of dataset, with little impact on other types of datasets"."""


@claim("cross-significant-improvement", cross_dataset.significant_improvement, over="model", across=True)
def test_other_datasets_improve_significantly() -> None:
    """Section 5.4: "only by achieving significant performance improvements on other datasets"."""


@claim("fig10-other-models", cross_dataset.other_models, over="models", across=True)
def test_models_agree_on_which_datasets_depend() -> None:
    """Fig. 10, Appendix H: "Effects of task neurons on other dataset", in other models."""
