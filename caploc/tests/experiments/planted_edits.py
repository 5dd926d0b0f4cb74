"""Studies of edits without a model: which edits succeed, and what tracing restores, is planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from caploc.experiments.edited_facts import (
    PROMPT,
    STORED,
    SUBJECT,
    Editable,
    EditableFacts,
    EditsByLayer,
    FactTraces,
    LayerEdits,
    TracedFacts,
)
from caploc.experiments.study import Study
from caploc.findings import Outcome, Verdict
from caploc.tests.experiments.planted_facts import fact_set, planted_study

LAYERS, DRAWS, NOISED = 6, 10, 0.05
SELDOM, MOSTLY = 0.05, 0.8
"""The largest rate of a wrong verdict, and the least of a right one where the effect is as large as a rule means."""


def shares(simulate: Callable[[int], Verdict], runs: int = 40) -> Mapping[str, float]:
    """The share of each outcome in so many runs, each of which is given its number."""
    found = Counter(simulate(number).outcome.value for number in range(runs))
    return {outcome.value: found[outcome.value] / runs for outcome in Outcome}


def edits_of(success: np.ndarray, before: float = 0.0, at_prompt: np.ndarray | None = None) -> LayerEdits:
    """From ``success [E, L]``; the prompt's last token works everywhere unless given."""
    prompt = np.ones_like(success) if at_prompt is None else at_prompt
    return LayerEdits(
        {SUBJECT: _scores(success, before), PROMPT: _scores(prompt, before)}, np.arange(len(success))
    )


def edit_study(
    success: np.ndarray,
    restored: np.ndarray | None = None,
    before: float = 0.0,
    known: np.ndarray | None = None,
    noised: np.ndarray | None = None,
    at_prompt: np.ndarray | None = None,
    dataset: str = "zsre",
) -> Study:
    """A study in which the first facts are edited, ``success [E, L]``, and half as many more locate the layer.

    ``restored [F, L]``: layer 2 restores most unless given, against `NOISED` with noise alone; ``noised [F, draws]``:
    the answer is lost unless given.
    """
    edited, layers = success.shape
    count = edited + edited // 2
    rank = None if known is None else np.where(known, 1, 2)
    facts = fact_set(count, 1, dataset, rank)
    best = np.tile(np.where(np.arange(layers) == 2, 0.9, 0.1), (count, 1))
    right = np.ones(count, bool) if known is None else known
    lost = np.zeros((count, DRAWS), bool) if noised is None else noised
    return planted_study(
        {
            Editable(dataset): EditableFacts(facts, [], edited, 16),
            FactTraces(dataset): TracedFacts(
                best if restored is None else restored, np.full(count, NOISED), right, lost, lost
            ),
            EditsByLayer(dataset): edits_of(success, before, at_prompt),
            EditsByLayer(dataset, "untrained"): edits_of(success[:2]),
        }
    )


def successes(shares: list[float], facts: int, seed: int = 0) -> np.ndarray:
    """``[facts, layers]``: exactly such a share succeeds in each layer, the same facts first in every layer."""
    order = np.random.default_rng(seed).permutation(facts)
    return np.stack([order < round(share * facts) for share in shares], axis=1).astype(float)


def _scores(success: np.ndarray, before: float) -> np.ndarray:
    whole = np.concatenate([np.full((len(success), 1), before), success], axis=1)
    likelier, other = np.log(0.9), np.log(0.1)
    found = {
        "efficacy": whole,
        "paraphrase": whole * 0.5,
        "neighbourhood": np.full_like(whole, 0.8),
        "exact": whole,
        "new": np.where(whole > 0, likelier, other),
        "true": np.where(whole > 0, other, likelier),
    }
    return np.stack([found[name] for name in STORED], axis=-1)
