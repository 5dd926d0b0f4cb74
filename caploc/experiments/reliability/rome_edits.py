"""The same facts edited at every layer, each layer alone (section 3.2): how well the edits take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import harmonic_mean
from typing import Any

import numpy as np

from caploc.datasets.edits import EditRequest
from caploc.errors import ModelError
from caploc.experiments.fidelity.prompts import for_each_prompt
from caploc.experiments.reliability.rome_facts import RomeFacts, editing_of
from caploc.experiments.study import NotRunError, Study
from caploc.fingerprints import fingerprint
from caploc.interventions.rank_one import (
    KeyCovariance,
    SingularCovarianceError,
    edit_all_layers,
    key_covariance,
    score_edit,
)
from caploc.interventions.rank_one.covariance import WORST_CONDITION, check_precise
from caploc.interventions.rank_one.prompts import Token
from caploc.model.loading import LanguageModel
from caploc.statistics import defined_mean

SUBJECT: Token = "last-subject"
PROMPT: Token = "last-prompt"
STORED = ("efficacy", "paraphrase", "neighbourhood", "exact", "new", "true")
SCORES = ("efficacy", "magnitude", "paraphrase", "neighbourhood", "harmonic mean")
UNTRAINED_FACTS = 4
LEAST_RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class LayerEdits:
    """E facts, each edited at each of L layers, one layer at a time.

    ``scores``: by the token whose key is edited, ``[E, 1 + L, STORED]``: without an edit, then by layer; nan where the
    edit has no such score. ``clusters [E]``: numbers of the subjects. ``settings``: how the edits were made.
    """

    scores: Mapping[Token, np.ndarray]
    clusters: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def num_layers(self) -> int:
        return self.scores[SUBJECT].shape[1] - 1

    def of(self, name: str, token: Token = SUBJECT) -> np.ndarray:
        """``[E, 1 + L]`` one of ``STORED``; ``magnitude``, P(new) - P(old); or ``log odds``, log P(new) - log P(old)
        in nats a token."""
        if name in STORED:
            return np.asarray(self.scores[token][..., STORED.index(name)])
        new, true = self.of("new", token), self.of("true", token)
        return np.exp(new) - np.exp(true) if name == "magnitude" else new - true

    def success(self, token: Token = SUBJECT) -> np.ndarray:
        """``[E, L]`` 1 where the edit makes the new answer likelier than the old one, else 0."""
        return self.of("efficacy", token)[:, 1:]

    @property
    def before(self) -> np.ndarray:
        """``[E]`` the same without an edit."""
        return self.of("efficacy")[:, 0]

    def mean(self, name: str, token: Token = SUBJECT) -> np.ndarray:
        """``[1 + L]`` mean over facts of one of ``SCORES``; the harmonic mean is that of the three shares."""
        if name != "harmonic mean":
            return np.array([defined_mean(column) for column in self.of(name, token).T])
        shares = [self.mean(one, token) for one in ("efficacy", "paraphrase", "neighbourhood")]
        return np.array(
            [
                harmonic_mean(column.tolist()) if np.isfinite(column).all() else np.nan
                for column in np.stack(shares, axis=1)
            ]
        )


def layer_edits(study: Study, found: RomeFacts) -> LayerEdits:
    """The edits of ``found.edited``, at the subject's last token, ROME's, and at the prompt's last; made once.

    Raises:
        NotRunError: the model cannot be edited.
        FloorError: too few facts are known.
    """
    key = ("rome edits", found.facts.data_fingerprint, "")
    return study.once(key, lambda: _edited(study, found, found.edited, (SUBJECT, PROMPT)))


def untrained_edits(study: Study, found: RomeFacts) -> LayerEdits:
    """The first few of the same edits, made to the untrained twin, at the subject's last token."""
    key = ("rome edits", found.facts.data_fingerprint, "untrained")
    chosen = found.edited[:UNTRAINED_FACTS]
    return study.once(key, lambda: _edited(study, found, chosen, (SUBJECT,), "untrained"))


def ridge_of(lm: LanguageModel) -> float:
    """What is added to a covariance's diagonal, in means of it: so much that it can be inverted with sense whatever
    the corpus, since no eigenvalue exceeds their sum, ``neurons`` times the diagonal's mean."""
    return max(LEAST_RIDGE, 2 * lm.num_neurons / WORST_CONDITION)


def _edited(
    study: Study, found: RomeFacts, chosen: np.ndarray, tokens: Sequence[Token], control: str = ""
) -> LayerEdits:
    lm, editing = study.model_for(control), editing_of(study, control)
    texts, ridge = _corpus(study, found.facts.dataset), ridge_of(lm)
    requests = [found.requests[number] for number in chosen]

    @cache
    def covariance() -> KeyCovariance:  # asked for at the first missing fact: a warm run needs none
        return key_covariance(lm, texts, ridge=ridge, store=study.settings.store)

    def make(number: int) -> Mapping[str, np.ndarray]:
        request, before = requests[number], _scores(lm, requests[number])
        rows: dict[Token, list[np.ndarray]] = {token: [before] for token in tokens}
        for token in tokens:
            edits = edit_all_layers(lm, request, covariance(), editing=replace(editing, token=token))
            for edit in edits.values():
                with edit.applied(lm):
                    rows[token].append(_scores(lm, request))
        return {token: np.stack(row) for token, row in rows.items()}

    depends = {
        "editing": editing.settings,
        "tokens": list(tokens),
        "corpus": fingerprint(texts),
        "ridge": ridge,
    }
    keys = [{**depends, "request": request} for request in requests]
    try:
        check_precise(lm)
        arrays = [*for_each_prompt(study, lm, "edits at every layer", keys, make)]
    except (ModelError, SingularCovarianceError) as error:
        raise NotRunError(str(error)) from error
    scores = {token: np.stack([one[token] for one in arrays]) for token in tokens}
    return LayerEdits(scores, found.facts.clusters[chosen], {"editing": editing.settings, "ridge": ridge})


def _scores(lm: LanguageModel, request: EditRequest) -> np.ndarray:
    score = score_edit(lm, request)
    return np.array([np.nan if (value := getattr(score, name)) is None else value for name in STORED], float)


def _corpus(study: Study, dataset: str) -> list[str]:
    """The locating texts of the facts' own dataset and of the study's others, as far as they can be had here."""
    texts: list[str] = []
    for name in dict.fromkeys((dataset, *study.settings.datasets)):
        try:
            texts += [example.prompt + example.answer for example in study.located(name).examples]
        except NotRunError:
            continue
    return texts
