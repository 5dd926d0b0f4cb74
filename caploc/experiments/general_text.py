"""General text: sentences of facts, which none of the datasets trained on or tested holds."""

from __future__ import annotations

from collections.abc import Sequence

from caploc.datasets import load_examples
from caploc.errors import TooLongError, UnavailableDatasetError
from caploc.examples import fit
from caploc.experiments.study import Study

FACTS = ("counterfact", "known_1000")
"""The first of them that can be had is taken."""
TEXTS = 24


def general_texts(study: Study) -> Sequence[str]:
    """At most ``TEXTS`` sentences that fit the model; none where no dataset of ``FACTS`` can be had here."""
    return study.once(("general texts",), lambda: _texts(study))


def _texts(study: Study) -> Sequence[str]:
    for dataset in FACTS:
        try:
            examples = load_examples(
                dataset, study.source(dataset), split="evaluate", limit=TEXTS, seed=study.settings.seed
            )
            excluded = {one.id for one in fit(study.lm, examples)[1]}
        except (UnavailableDatasetError, TooLongError):
            continue
        return [one.prompt + one.answer for one in examples if one.id not in excluded]
    return []
