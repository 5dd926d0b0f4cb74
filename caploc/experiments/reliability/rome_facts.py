"""Which facts are edited and to what, and on which other facts the layer is located."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from caploc.datasets.edits import EditRequest, load_edits
from caploc.errors import ExampleError, ModelError
from caploc.examples import Example, tokenize
from caploc.experiments.facts import FEWEST_FACTS, WITH_PARAPHRASES, Fact, FactSet, facts_of, require_known
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study
from caploc.interventions.rank_one import Editing, draw_prefixes
from caploc.interventions.rank_one.prompts import edit_prompts
from caploc.model.loading import LanguageModel

CPU_EDITED, GPU_EDITED = 24, 200
"""Facts that are edited, unless ``--samples`` says how many: a fact costs two searches in every layer."""

EDITED_SHARE = 2 / 3
FEWEST_KNOWN = round(FEWEST_FACTS / EDITED_SHARE)


@dataclass(frozen=True, eq=False)
class RomeFacts:
    """F facts in their original wordings, which name their subjects, and the F edits that may be made to them."""

    facts: FactSet
    requests: Sequence[EditRequest]
    most: int

    @property
    def edited(self) -> np.ndarray:
        """Numbers of the facts that are edited: the first two thirds of the known ones, ``most`` at most.

        Raises:
            FloorError: too few are known.
        """
        known = np.flatnonzero(require_known(self.facts).known)
        if len(known) < FEWEST_KNOWN:
            raise FloorError(
                f"floor effect: the model knows {len(known)} of {len(self.facts)} facts, and {FEWEST_KNOWN} are "
                f"needed, {FEWEST_FACTS} to edit and others to locate the layer on; give more facts"
            )
        return known[: min(int(len(known) * EDITED_SHARE), self.most)]

    @property
    def others(self) -> np.ndarray:
        """Numbers of the known facts that are not edited, on which the layer is located. Raises FloorError."""
        return np.setdiff1d(np.flatnonzero(self.facts.known), self.edited)


def rome_facts(study: Study, dataset: str) -> RomeFacts:
    """The facts of ``dataset`` with their edits, made once.

    COUNTERFACT and zsRE say what a fact is edited to; in other datasets it is the answer of the next fact that has
    another one, paraphrases are the fact's further wordings, and there are no neighbours (``zsre-edit-targets``).

    Raises:
        NotRunError: too few facts name their subject and fit the model, or no prefix can be drawn from it.
    """
    return study.once(("rome facts", dataset), lambda: _made(study, dataset))


def editing_of(study: Study, control: str = "") -> Editing:
    """ROME's way, with prefixes drawn once for all facts. Raises NotRunError."""
    editing, lm = Editing(seed=study.settings.seed), study.model_for(control)
    try:
        return replace(editing, prefixes=draw_prefixes(lm, editing.prefix_tokens, editing.seed))
    except ModelError as error:
        raise NotRunError(str(error)) from error


def _made(study: Study, dataset: str) -> RomeFacts:
    facts, lm = facts_of(study, dataset, wordings=1), study.model_for()
    requests = (
        _recorded(study, facts) if dataset in WITH_PARAPHRASES else _of_other_facts(_reworded(study, facts))
    )
    editing = editing_of(study)
    kept = [number for number, request in enumerate(requests) if _fits(lm, request, editing)]
    if len(kept) < FEWEST_FACTS:
        raise NotRunError(
            f"{dataset} has {len(kept)} of {len(facts)} facts that name their subject and whose edits fit {lm.name}, "
            f"and {FEWEST_FACTS} are the fewest an interval can be taken over; give facts with subjects"
        )
    if len(kept) < len(facts):
        note = f"{len(facts) - len(kept)} facts left out: no subject in the prompt, or a text too long for the model"
        facts = replace(
            facts,
            facts=[facts.facts[one] for one in kept],
            prompts=[facts.prompts[one] for one in kept],
            fact=np.arange(len(kept)),
            rank=facts.rank[kept],
            log_prob=facts.log_prob[kept],
            notes=[*facts.notes, note],
        )
    asked, on_cpu = study.settings.samples, study.settings.device == "cpu"
    most = asked or (CPU_EDITED if on_cpu else GPU_EDITED)
    return RomeFacts(facts, [requests[one] for one in kept], most)


def _recorded(study: Study, facts: FactSet) -> list[EditRequest]:
    """What the dataset's records ask for."""
    edits = {one.id: one for one in load_edits(facts.dataset, study.source(facts.dataset), split="locate")}
    return [edits[fact.id] for fact in facts.facts]


def _reworded(study: Study, facts: FactSet) -> list[Fact]:
    """The facts with their further wordings, where they have any."""
    try:
        several = facts_of(study, facts.dataset)
    except NotRunError:
        return list(facts.facts)
    wordings = {fact.id: fact.wordings for fact in several.facts}
    return [Fact(fact.id, wordings.get(fact.id, fact.wordings)) for fact in facts.facts]


def _of_other_facts(facts: Sequence[Fact]) -> list[EditRequest]:
    requests = []
    for number, fact in enumerate(facts):
        first, *further = fact.wordings
        others = (one.answer for one in (*facts[number:], *facts[:number]) if one.answer != fact.answer)
        new = next(others, None)
        if new is None:
            raise NotRunError("all facts have one answer, so that none can be edited to another's; give more")
        paraphrases = tuple(one.prompt for one in further)
        requests.append(
            EditRequest(
                fact.id, first.prompt, first.subject or "", new, fact.answer, paraphrases, group=first.group
            )
        )
    return requests


def _fits(lm: LanguageModel, request: EditRequest, editing: Editing) -> bool:
    """Whether the subject is found, and every text of the edit and of its scores fits the model's context."""
    new, true = request.target_new, request.target_true or request.target_new
    asked = [(prompt, answer) for prompt in request.paraphrases for answer in (new, true)]
    asked += [pair for one in request.neighbours for pair in ((one.prompt, one.answer), (one.prompt, new))]
    try:
        edit_prompts(lm, request, editing.prefixes or (), editing.token)
        for prompt, answer in [(request.prompt, true), *asked]:
            tokenize(lm, Example(request.id, prompt, answer))
    except ExampleError:
        return False
    return True
