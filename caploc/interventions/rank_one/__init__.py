"""The rank-one edit of a fact (ROME; Meng et al. 2022, section 3): the paper's verification that a layer holds it
(section 2.2), at any layer and at all layers together.

``edit`` makes edits, ``value`` seeks what they write, ``scores`` tells whether they took, ``reference`` is the slow
oracle.
"""

from __future__ import annotations

from caploc.interventions.rank_one.covariance import (
    KeyCovariance,
    SingularCovarianceError,
    identity_covariance,
    key_covariance,
)
from caploc.interventions.rank_one.edit import RankOneEdit, edit_all_layers, rank_one_edit
from caploc.interventions.rank_one.prompts import Editing, draw_prefixes
from caploc.interventions.rank_one.scores import (
    AnswerScore,
    EditScore,
    EditSummary,
    answer_scores,
    score_edit,
    summarize_edits,
)

__all__ = [
    "AnswerScore",
    "EditScore",
    "EditSummary",
    "Editing",
    "KeyCovariance",
    "RankOneEdit",
    "SingularCovarianceError",
    "answer_scores",
    "draw_prefixes",
    "edit_all_layers",
    "identity_covariance",
    "key_covariance",
    "rank_one_edit",
    "score_edit",
    "summarize_edits",
]
