"""The facts of a study: which ones, in which wordings, and whether the model knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from caploc.errors import TooLongError, UnavailableDatasetError
from caploc.examples import TokenizedExample, tokenize
from caploc.experiments.facts.knowing import answers_known
from caploc.experiments.facts.stored import stored
from caploc.experiments.facts.wordings import Fact, load_facts
from caploc.experiments.study import NotRunError, Study
from caploc.fingerprints import fingerprint

CPU_FACTS = 48
PAPER_FACTS = 1000
PAPER_WORDINGS = 5
FEWEST_FACTS = 16
"""Below this, an interval over facts means little."""


@dataclass(frozen=True, eq=False)
class FactSet:
    """F facts and their P prompts, fact after fact, the original wording of each first.

    ``fact [P]`` index of a prompt's fact; ``rank [P]`` the worst rank of its answer's tokens; ``log_prob [P]`` the
    answer's; ``notes``: what was left out and why. ``all_wordings``: a fact counts as known only if the model is right
    under each of its wordings, which then ask for different answers (the two tasks of section 4), and not under the
    first alone.
    """

    dataset: str
    facts: Sequence[Fact]
    prompts: Sequence[TokenizedExample]
    fact: np.ndarray
    rank: np.ndarray
    log_prob: np.ndarray
    notes: Sequence[str] = ()
    all_wordings: bool = False

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def right(self) -> np.ndarray:
        """``[P]`` whether greedy decoding answers the prompt rightly."""
        return np.asarray(self.rank == 1)

    @property
    def first(self) -> np.ndarray:
        """``[F]`` index of each fact's original wording among the prompts."""
        return np.searchsorted(self.fact, np.arange(len(self)))

    @property
    def known(self) -> np.ndarray:
        """``[F]`` whether the model answers the fact's original wording rightly."""
        if self.all_wordings:
            return np.asarray(np.bincount(self.fact, ~self.right, len(self)) == 0)
        return np.asarray(self.right[self.first])

    @property
    def kept(self) -> np.ndarray:
        """``[P]`` the prompts of known facts that leave the answer as it was, which verdicts rest on."""
        return np.asarray(self.known[self.fact] & self.right)

    @property
    def clusters(self) -> np.ndarray:
        """``[F]`` numbers of the subjects."""
        return np.unique([fact.cluster for fact in self.facts], return_inverse=True)[1]

    @property
    def answers(self) -> np.ndarray:
        """``[F]`` numbers of the answers."""
        return np.unique([fact.answer for fact in self.facts], return_inverse=True)[1]

    def head(self, count: int) -> FactSet:
        """The first ``count`` facts."""
        prompts = int((self.fact < count).sum())
        return replace(
            self,
            facts=self.facts[:count],
            prompts=self.prompts[:prompts],
            fact=self.fact[:prompts],
            rank=self.rank[:prompts],
            log_prob=self.log_prob[:prompts],
        )

    @property
    def data_fingerprint(self) -> str:
        tokens = [prompt.content for prompt in self.prompts]
        return fingerprint([tokens, self.fact.tolist()])[:16]


def facts_of(study: Study, dataset: str, wordings: int = PAPER_WORDINGS) -> FactSet:
    """The study's facts of ``dataset`` in at most so many ``wordings`` each, at least two unless one is asked for.

    Raises:
        NotRunError: the dataset cannot be had here, or has too few facts, or facts in one wording only.
    """

    def make() -> FactSet | NotRunError:
        try:
            return _facts_of(study, dataset, wordings)
        except NotRunError as error:
            return error

    found = study.once(("facts", dataset, wordings), make)
    if isinstance(found, NotRunError):
        raise found
    return found


def fact_set(
    study: Study,
    dataset: str,
    facts: Sequence[Fact],
    fewest_wordings: int,
    notes: Sequence[str] = (),
    all_wordings: bool = False,
) -> FactSet:
    """The first of ``facts`` that fit the model, as many as the study asks for, with the ranks of their answers."""
    lm, wanted = study.model_for(), wanted_facts(study)
    chosen: list[Fact] = []
    prompts: list[TokenizedExample] = []
    too_long = dropped = 0
    for fact in facts:
        if len(chosen) == wanted:
            break
        fitting = []
        for example in fact.wordings:
            try:
                fitting.append((example, tokenize(lm, example)))
            except TooLongError:
                too_long += 1
        if len(fitting) < fewest_wordings:
            dropped += 1
            continue
        chosen.append(Fact(fact.id, tuple(example for example, _ in fitting)))
        prompts += [tokenized for _, tokenized in fitting]
    if len(chosen) < FEWEST_FACTS:
        raise NotRunError(
            f"{dataset} has {len(chosen)} facts with the wordings asked for that fit {lm.name}, and {FEWEST_FACTS} are "
            "the fewest an interval can be taken over; give more data"
        )
    if too_long:
        notes = [*notes, f"{too_long} prompts of {dataset} left out: longer than the model's context"]
    if dropped:
        notes = [
            *notes,
            f"{dropped} facts of {dataset} left out: fewer than {fewest_wordings} wordings fit the model",
        ]
    index = np.repeat(np.arange(len(chosen)), [len(fact.wordings) for fact in chosen])
    unknown = np.zeros(len(prompts))
    found = FactSet(dataset, chosen, prompts, index, unknown, unknown, notes, all_wordings)

    def make() -> dict[str, np.ndarray]:
        ranks, log_probs = answers_known(lm, prompts)
        return {"rank": ranks, "log_prob": log_probs}

    answers = stored(study, "known answers", {"facts": found.data_fingerprint}, make)
    return replace(found, rank=answers["rank"], log_prob=answers["log_prob"])


def wanted_facts(study: Study) -> int:
    """How many facts a study takes: ``--samples``, or what a CPU can do, or the paper's 1000 (section 3.1)."""
    settings = study.settings
    wanted = settings.samples or (CPU_FACTS if settings.device == "cpu" else PAPER_FACTS)
    most = settings.neuron_path_samples
    return wanted if settings.attribution.path == "layer" or most is None else min(wanted, most)


def _facts_of(study: Study, dataset: str, wordings: int) -> FactSet:
    try:
        everything = load_facts(dataset, study.source(dataset), study.settings.seed)
    except UnavailableDatasetError as error:
        raise NotRunError(str(error)) from error
    fewest = min(2, wordings)
    facts = [Fact(fact.id, tuple(islice(fact.wordings, wordings))) for fact in everything]
    several = [fact for fact in facts if len(fact.wordings) >= fewest]
    notes = []
    if not several:
        raise NotRunError(
            f"{dataset} has each of its {len(facts)} facts in one wording only, and wordings are to be compared; give "
            "facts whose wordings share a group"
        )
    if len(several) < len(facts):
        notes.append(
            f"{len(facts) - len(several)} of {len(facts)} facts of {dataset} left out: they have one wording"
        )
    return fact_set(study, dataset, several, fewest, notes)
