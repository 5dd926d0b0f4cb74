"""Consistency-aware selection: neurons that score high under every wording of a fact (Chen et al., arXiv:2405.14117).

Their eq. (7) ranks neurons by beta_1 times the mean minus beta_2 times the standard deviation of a score over the
wordings of a fact. What is chosen, the highest or those above a fraction of the highest, depends on the ratio of
the two betas alone: ``beta`` here. Their betas and threshold are not reported, and the equation's form is known at
second hand, so ``sweep`` gives the choice under several. ``beta=0`` is the plain mean, which is KN on several prompts
(``caploc.locators.knowledge_neurons.locate``); a claim about consistency is one about what ``beta`` adds to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from caploc.attribution.engine import Method
from caploc.errors import OptionError
from caploc.examples import Example, tokenize
from caploc.locators.knowledge_neurons import Cut, example_scores
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.store import Store

BETA = 1.0
BETAS = (0.0, 0.5, 1.0, 2.0)
FEWEST_WORDINGS = 2
"""A spread needs two."""


def consistency(
    values: Float[np.ndarray, "wordings layers neurons"], beta: float = BETA
) -> Float[np.ndarray, "layers neurons"]:
    """Eq. (7): mean minus ``beta`` times the standard deviation over wordings (the whole of them: divided by W).

    Raises:
        OptionError: fewer than two wordings, or a beta that is negative or no number.
    """
    if isinstance(beta, bool) or not isinstance(beta, (int, float, np.integer, np.floating)):
        raise OptionError(f"beta must be a number of at least 0, got {beta!r}; 0 takes the plain mean")
    if not (math.isfinite(beta) and beta >= 0):
        raise OptionError(f"beta must be a number of at least 0, got {beta!r}; 0 takes the plain mean")
    if len(values) < FEWEST_WORDINGS:
        raise OptionError(
            f"consistency is over the wordings of a fact, and {len(values)} was given; give at least {FEWEST_WORDINGS}"
        )
    wide = values.astype(np.float64)
    found: np.ndarray = wide.mean(0) - beta * wide.std(0)
    return found


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    beta: float = BETA,
    threshold: float = 0.2,
    top_k: int | None = None,
    **options: Any,
) -> NeuronMask:
    """The neurons of one fact by their consistency over its wordings, the ``examples``.

    Args:
        beta: how many standard deviations over wordings are subtracted from the mean.
        threshold, top_k: which neurons are then chosen; see ``caploc.locators.knowledge_neurons.Cut``.
        options: as ``sweep``.

    Raises:
        OptionError: a beta that is negative or no number, a bad cut, fewer than two wordings, or wordings of more than
            one fact.
        ExampleError, ModelError: as ``caploc.attribute``.
    """
    return sweep(lm, examples, (beta,), threshold, top_k, **options)[beta]


def sweep(
    lm: LanguageModel,
    examples: Sequence[Example],
    betas: Sequence[float] = BETAS,
    threshold: float = 0.2,
    top_k: int | None = None,
    *,
    answer_tokens: int | None = None,
    store: Store | None = None,
    progress: bool = True,
    **options: Any,
) -> Mapping[float, NeuronMask]:
    """``locate`` under each of ``betas``, from scores that are computed once.

    Args:
        answer_tokens: only the first so many tokens of the answer; None for all.
        store: where the scores of every wording are kept, and looked up.
        options: of ``caploc.attribution.method.Method``: ``steps``, ``quadrature``, ...
    """
    cut, method = Cut(threshold, top_k), Method(**options)
    _check_one_fact(examples)
    for beta in betas:
        consistency(np.zeros((FEWEST_WORDINGS, 1, 1)), beta)  # a bad one is told before any work
    tokenized = [tokenize(lm, example, answer_tokens) for example in examples]
    scores = example_scores(lm, tokenized, method, store, progress)
    values = np.stack([one.values.numpy(force=True) for one in scores])
    return {beta: cut.locate(torch.from_numpy(consistency(values, beta))) for beta in betas}


def _check_one_fact(examples: Sequence[Example]) -> None:
    """Raise unless these are several wordings of one fact."""
    prompts = {example.prompt for example in examples}
    if len(prompts) < FEWEST_WORDINGS:
        raise OptionError(
            f"consistency is over the wordings of a fact, and {len(prompts)} was given; give at least {FEWEST_WORDINGS}"
        )
    for field in ("answer", "group"):
        found = sorted({str(getattr(example, field)) for example in examples})
        if len(found) > 1:
            raise OptionError(
                f"the wordings are not of one fact: their {field}s are {', '.join(map(repr, found[:3]))}; locate each "
                "fact by itself"
            )
