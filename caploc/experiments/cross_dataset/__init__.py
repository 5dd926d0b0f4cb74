"""Across datasets (section 5.4, Fig. 6 and 10): every claim of group H as an experiment.

What training and erasing the neurons of one dataset does to others is read off what the experiments of enhancement and
erasure have stored (`sources`). Each function takes a ``Study`` (`other_models`: several), a ``Cell`` and the claim's
id, and returns a ``Finding``.
"""

from __future__ import annotations

from caploc.experiments.cross_dataset.effects import enhance_cross, erase_cross, significant_improvement
from caploc.experiments.cross_dataset.models import other_models
from caploc.experiments.cross_dataset.overlap import gsm8k_emotion_overlap
from caploc.experiments.cross_dataset.specificity import same_type_specificity

__all__ = [
    "enhance_cross",
    "erase_cross",
    "gsm8k_emotion_overlap",
    "other_models",
    "same_type_specificity",
    "significant_improvement",
]
