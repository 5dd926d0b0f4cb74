"""What slow methods need: fewer facts, wordings that name the subject, results kept prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from caploc.examples import Example, with_subject
from caploc.experiments.facts import FEWEST_FACTS, Fact, FactSet
from caploc.experiments.study import NotRunError, Study
from caploc.fingerprints import fingerprint
from caploc.model.loading import LanguageModel
from caploc.store import Compute

CPU_FACTS = 20
"""Causal tracing and pruning cost ten times as much a prompt as KN."""

# Part of every key: raise it when a change of the code changes numbers by more than rounding.
CODE_VERSION = 1


def fewer(study: Study, facts: FactSet) -> FactSet:
    """The first ``CPU_FACTS`` on a CPU, unless ``--samples`` says how many; all on a GPU."""
    asked = study.settings.samples is not None or study.settings.device != "cpu"
    return facts if asked else facts.head(CPU_FACTS)


def wordings(facts: FactSet) -> list[Example]:
    """The examples of ``facts.prompts``, in their order."""
    return [example for fact in facts.facts for example in fact.wordings]


def with_subjects(study: Study, facts: FactSet) -> FactSet:
    """The wordings in which the subject stands, of facts that have at least two, the original one among them.

    Raises:
        NotRunError: too few facts are left.
    """
    named, excluded = with_subject(study.lm, wordings(facts))
    if not excluded:
        return facts
    ids = {example.id for example in named}
    found = [tuple(example for example in fact.wordings if example.id in ids) for fact in facts.facts]
    usable = np.array(
        [len(kept) > 1 and kept[0] is fact.wordings[0] for fact, kept in zip(facts.facts, found, strict=True)]
    )
    if usable.sum() < FEWEST_FACTS:
        raise NotRunError(
            f"{facts.dataset} names the subject in two or more wordings of {usable.sum()} of {len(facts)} facts, and "
            f"{FEWEST_FACTS} are the fewest an interval can be taken over; give facts with subjects"
        )
    kept_ids = np.array([example.id in ids for example in wordings(facts)])
    prompts = np.flatnonzero(usable[facts.fact] & kept_ids).tolist()
    return replace(
        facts,
        facts=[Fact(facts.facts[one].id, found[one]) for one in np.flatnonzero(usable).tolist()],
        prompts=[facts.prompts[one] for one in prompts],
        fact=np.unique(facts.fact[prompts], return_inverse=True)[1],
        rank=facts.rank[prompts],
        log_prob=facts.log_prob[prompts],
        notes=[
            *facts.notes,
            f"{len(facts.prompts) - len(prompts)} of {len(facts.prompts)} prompts of {facts.dataset} left out: they, "
            "or all but one wording of their fact, or its original, do not name the subject",
        ],
    )


def for_each_prompt(
    study: Study,
    lm: LanguageModel,
    what: str,
    depends_on: Sequence[Mapping[str, Any]],
    make: Callable[[int], Mapping[str, np.ndarray]],
) -> Iterator[Mapping[str, np.ndarray]]:
    """``make(prompt)`` for every prompt, kept in the study's store; ``depends_on`` has an entry a prompt."""
    common = {
        "what": what,
        "code": CODE_VERSION,
        "model": lm.fingerprint,
        "dtype": str(lm.dtype),
        "device": lm.device.type,
    }
    title = f"{what} {lm.name}"

    def compute(number: int) -> Compute:
        return lambda: (make(number), {})

    tasks = [(fingerprint({**common, **one}), compute(number)) for number, one in enumerate(depends_on)]
    return (entry.arrays for entry in study.settings.store.compute_all(tasks, progress=title))
