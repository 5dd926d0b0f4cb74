"""The facts of a study: which ones, in which wordings, and whether the model knows them (sections 3 and 4).

Specs of fact sets are nested, so that each says what it is::

    facts_of("zsre")                              the study's facts of zsRE, with what the model answers
    Known(facts_of("zsre"))                       the same; a floor effect where the model knows too few of them
    Known(Fewer(facts_of("zsre")))                as many as slow methods can take
    FirstFacts(Known(facts_of("zsre")), 12)       the first twelve of them
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, ClassVar

import numpy as np
import torch

from caploc.datasets.base import digest
from caploc.datasets.edits import load_edits
from caploc.datasets.loading import read_part
from caploc.errors import DatasetError, ModelError, UnavailableDatasetError, UnfitError, against_nan
from caploc.examples import Example, Exclusion, TokenizedExample, counted, tokenize, with_subject
from caploc.experiments.specs import Arrays, FloorError, NotRunError, Spec, Task, keyed
from caploc.experiments.study import Study
from caploc.fingerprints import fingerprint
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.sizing import refused_if_too_large
from caploc.store import Entry

CPU_FACTS, CPU_FEWER_FACTS = 120, 20
"""Facts taken on a CPU, unless ``--samples`` says how many: causal tracing and pruning cost ten times as much a prompt
as KN, and get the fewer. KN's 96 tell a share of 0 from one of 5 % (Wilson's interval needs 73) and show
differences of shares to be within 15 points with a power of 80 % where they are none and four in five answers move as
predicted (of one in two, the least favourable share, 135 are needed)."""
PAPER_FACTS = 1000
PAPER_WORDINGS, PAPER_PAIRS = 5, 10

WITH_PARAPHRASES = ("counterfact", "zsre")
"""Datasets whose records hold the paraphrases of one prompt; in others the wordings of a fact share a group."""
OF_EQUATION_8 = ("dispersion", "scope", "deviation", "gsm8k-form")
"""Settings of a study that play no part where single facts are located."""
BY_SUBJECT = "facts, those of one subject together"
"""What intervals over facts resample, in words."""

# Part of every key that `prompt_task` makes: raise it when a change of the code changes numbers by more than rounding.
CODE_VERSION = 1


@dataclass(frozen=True)
class Fact:
    """One fact in one or more ``wordings``, of which the first is what is meant by the original.

    ``cluster``: facts about one subject share it, since what is located for them may depend on the subject.
    """

    id: str
    wordings: tuple[Example, ...]

    @property
    def answer(self) -> str:
        return self.wordings[0].answer

    @property
    def cluster(self) -> str:
        return self.wordings[0].subject or self.id


@dataclass(frozen=True, eq=False)
class FactSet:
    """F facts and their P prompts, fact after fact, the original wording of each first; the basis of a measurement.

    ``fact [P]`` index of a prompt's fact; ``rank [P]`` the worst rank of its answer's tokens; ``log_prob [P]`` the
    answer's; ``left_out``: what was left out and why, in sentences. ``all_wordings``: a fact counts as known only if
    the model is right under each of its wordings, which then ask for different answers (the two tasks of section 4),
    and not under the first alone.
    """

    dataset: str
    facts: Sequence[Fact]
    prompts: Sequence[TokenizedExample]
    fact: np.ndarray
    rank: np.ndarray
    log_prob: np.ndarray
    left_out: Sequence[str] = ()
    all_wordings: bool = False

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def examples(self) -> list[Example]:
        """The examples of ``prompts``, in their order."""
        return [example for fact in self.facts for example in fact.wordings]

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
        return self.only(np.arange(min(count, len(self))))

    def only(self, chosen: np.ndarray, prompts: np.ndarray | None = None, left_out: str = "") -> FactSet:
        """The facts of these numbers, in order, with all of their prompts or only those that ``prompts [P]`` marks."""
        marked = np.ones(len(self.prompts), bool) if prompts is None else prompts
        at = np.flatnonzero(np.isin(self.fact, chosen) & marked).tolist()
        examples = self.examples
        wordings: dict[int, list[Example]] = {}
        for one in at:
            wordings.setdefault(int(self.fact[one]), []).append(examples[one])
        return replace(
            self,
            facts=[Fact(self.facts[one].id, tuple(wordings[one])) for one in np.sort(chosen).tolist()],
            prompts=[self.prompts[one] for one in at],
            fact=np.unique(self.fact[at], return_inverse=True)[1],
            rank=self.rank[at],
            log_prob=self.log_prob[at],
            left_out=[*self.left_out, left_out] if left_out else self.left_out,
        )

    @property
    def wordings(self) -> int:
        """In how many wordings a fact is asked at most."""
        return int(np.bincount(self.fact).max())

    @property
    def pairs(self) -> int:
        """How many pairs these wordings make."""
        return self.wordings * (self.wordings - 1) // 2

    @property
    def data_fingerprint(self) -> str:
        tokens = [prompt.content for prompt in self.prompts]
        return fingerprint([tokens, self.fact.tolist()])[:16]

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "data_fingerprint": self.data_fingerprint,
            "facts": len(self),
            "prompts": len(self.prompts),
            "wordings": self.wordings,
            "pairs": self.pairs,
        }

    @property
    def notes(self) -> Sequence[str]:
        known, notes = int(self.known.sum()), list(self.left_out)
        if known < len(self):
            notes.append(f"{len(self) - known} of {len(self)} facts left out: the model does not know them")
        lost = int((self.known[self.fact] & ~self.right).sum())
        if lost:
            notes.append(f"{lost} further wordings of known facts left out: they change the model's answer")
        if len(self) < PAPER_FACTS:
            notes.append(f"{len(self)} facts; the paper takes {PAPER_FACTS}")
        if 1 < self.wordings < PAPER_WORDINGS and not self.all_wordings:
            pairs = f"{self.pairs} pair{'s' * (self.pairs > 1)}"
            notes.append(
                f"{self.wordings} wordings, {pairs}, of the {PAPER_WORDINGS} and {PAPER_PAIRS} printed: the records "
                "have no more"
            )
        return notes


# ------------------------------------------------------------------------------------------------ specs of fact sets


def facts_of(dataset: str, wordings: int = PAPER_WORDINGS, at_least: int = 0) -> Answered:
    """The study's facts of ``dataset`` in at most so many ``wordings`` each, at least two unless one is asked for; and
    ``at_least`` so many facts, where there are, if ``--samples`` does not say how many."""
    return Answered(FactPrompts(dataset, wordings, at_least))


@dataclass(frozen=True)
class FactPrompts(Spec[FactSet]):
    """The study's facts of ``dataset``, tokenized; what the model answers is not known yet (`facts_of`).

    NotRunError: the dataset cannot be had here, or has too few facts, or facts in one wording only.
    """

    dataset: str
    wordings: int = PAPER_WORDINGS
    at_least: int = 0

    def read(self, study: Study, entries: Iterator[Entry]) -> FactSet:
        dataset, fewest = self.dataset, min(2, self.wordings)
        try:
            everything, left_out = load_facts(dataset, study.source(dataset), study.settings.seed)
        except UnavailableDatasetError as error:
            raise NotRunError(str(error)) from error
        facts = [Fact(fact.id, tuple(islice(fact.wordings, self.wordings))) for fact in everything]
        several = [fact for fact in facts if len(fact.wordings) >= fewest]
        if not several:
            raise NotRunError(
                f"{dataset} has each of its {len(facts)} facts in one wording only, and wordings are to be compared; "
                "give facts whose wordings share a group"
            )
        single = len(facts) - len(several)
        if single:
            left_out.append(f"{single} of {len(facts)} facts of {dataset} left out: they have one wording")
        return tokenized_facts(study, dataset, several, fewest, left_out, at_least=self.at_least)


@dataclass(frozen=True)
class Answered(Spec[FactSet]):
    """Facts, with the ranks and probabilities of their answers. Raises what ``prompts`` raises."""

    prompts: Spec[FactSet]

    @property
    def title(self) -> str:
        return "answers to facts"

    def tasks(self, study: Study) -> Iterable[Task]:
        facts = study.result(self.prompts)

        def make() -> Arrays:
            ranks, log_probs = answers_known(study.weights(), facts.prompts)
            return {"rank": ranks, "log_prob": log_probs}

        yield keyed(study, "known answers", {"facts": facts.data_fingerprint}, make)

    def read(self, study: Study, entries: Iterator[Entry]) -> FactSet:
        (entry,) = entries
        answers = entry.arrays
        return replace(study.result(self.prompts), rank=answers["rank"], log_prob=answers["log_prob"])

    def flops(self, study: Study) -> float:
        return passes_flops(study, self)


@dataclass(frozen=True)
class Chosen(Spec[FactSet], ABC):
    """What is made of ``facts``, as a rule some of them."""

    facts: Spec[FactSet]

    @abstractmethod
    def choose(self, study: Study, facts: FactSet) -> FactSet: ...

    def read(self, study: Study, entries: Iterator[Entry]) -> FactSet:
        return self.choose(study, study.result(self.facts))


@dataclass(frozen=True)
class Known(Chosen):
    """All of ``facts``, if the model knows enough of them. FloorError: it does not."""

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        return require_known(study, facts)


def fewest_facts(study: Study) -> int:
    """The fewest facts that an interval is taken over: a margin of the paper."""
    return int(study.settings.margin("fewest-facts"))


def require_known(study: Study, facts: FactSet) -> FactSet:
    """``facts``, if the model knows enough of them. Raises FloorError."""
    if facts.known.sum() < fewest_facts(study):
        raise FloorError(unknown(facts))
    return facts


def unknown(facts: FactSet) -> str:
    """Why nothing can be said of facts that the model does not know."""
    return f"the model does not know the facts ({int(facts.known.sum())} of {len(facts)})"


@dataclass(frozen=True)
class FirstFacts(Chosen):
    """The first ``count`` of ``facts``, such as those that the untrained twin is asked."""

    count: int

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        return facts.head(self.count)


@dataclass(frozen=True)
class Fewer(Chosen):
    """The first ``on_cpu`` of ``facts`` on a CPU, unless ``--samples`` says how many; all on a GPU."""

    on_cpu: ClassVar[int] = CPU_FEWER_FACTS

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        asked = study.settings.samples is not None or study.settings.device != "cpu"
        return facts if asked else facts.head(study.settings.facts(self.on_cpu))


@dataclass(frozen=True)
class ForTracing(Fewer):
    """As many as an overlap of layers needs to be told from 80 %, corrected for chance: where all wordings share three
    of six layers, the interval of 40 facts still reaches it."""

    on_cpu: ClassVar[int] = 64


@dataclass(frozen=True)
class NamingSubject(Chosen):
    """The wordings in which the subject stands, of facts that have at least two, the original one among them.

    NotRunError: too few facts are left.
    """

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        named, excluded = with_subject(study.lm, facts.examples)
        if not excluded:
            return facts
        ids = {example.id for example in named}
        marked = np.array([example.id in ids for example in facts.examples])
        usable = (np.bincount(facts.fact, marked, len(facts)) > 1) & marked[facts.first]
        fewest = fewest_facts(study)
        if usable.sum() < fewest:
            raise NotRunError(
                f"{facts.dataset} names the subject in two or more wordings of {usable.sum()} of {len(facts)} facts, "
                f"and {fewest} are the fewest an interval can be taken over; give facts with subjects"
            )
        lost = len(facts.prompts) - int((usable[facts.fact] & marked).sum())
        return facts.only(
            np.flatnonzero(usable),
            marked,
            f"{lost} of {len(facts.prompts)} prompts of {facts.dataset} left out: they, or all but one wording of "
            "their fact, or its original, do not name the subject in tokens of its own",
        )


def tokenized_facts(
    study: Study,
    dataset: str,
    facts: Sequence[Fact],
    fewest_wordings: int,
    left_out: Sequence[str] = (),
    all_wordings: bool = False,
    at_least: int = 0,
) -> FactSet:
    """The first of ``facts`` that fit the model, as many as the study asks for; `Answered` fills in the answers."""
    lm, wanted = study.lm, wanted_facts(study, at_least)
    chosen: list[Fact] = []
    prompts: list[TokenizedExample] = []
    excluded: list[Exclusion] = []
    dropped = 0
    for fact in facts:
        if len(chosen) == wanted:
            break
        fitting = []
        for example in fact.wordings:
            try:
                fitting.append((example, tokenize(lm, example)))
            except UnfitError as error:
                excluded.append(Exclusion.of(example, error))
        if len(fitting) < fewest_wordings:
            dropped += 1
            continue
        chosen.append(Fact(fact.id, tuple(example for example, _ in fitting)))
        prompts += [tokenized for _, tokenized in fitting]
    fewest = fewest_facts(study)
    if len(chosen) < fewest:
        raise NotRunError(
            f"{dataset} has {len(chosen)} facts with the wordings asked for that fit {lm.name}, and {fewest} are "
            "the fewest an interval can be taken over; give more data"
        )
    left_out = [
        *left_out,
        *(f"{number} prompts of {dataset} left out: {why}" for number, why in counted(excluded)),
    ]
    if dropped:
        left_out = [
            *left_out,
            f"{dropped} facts of {dataset} left out: fewer than {fewest_wordings} wordings fit the model",
        ]
    index = np.repeat(np.arange(len(chosen)), [len(fact.wordings) for fact in chosen])
    unknown = np.zeros(len(prompts))
    return FactSet(dataset, chosen, prompts, index, unknown, unknown, left_out, all_wordings)


def wanted_facts(study: Study, at_least: int = 0) -> int:
    """How many facts a study takes: ``--samples``, or what a CPU can do but ``at_least`` so many, or the paper's 1000
    (section 3.1)."""
    settings = study.settings
    wanted = settings.facts(max(CPU_FACTS, at_least) if settings.device == "cpu" else PAPER_FACTS)
    most = settings.neuron_path_samples
    return wanted if settings.attribution.path == "layer" or most is None else min(wanted, most)


@dataclass(frozen=True)
class Unanswered(Spec[FactSet]):
    """``facts`` before the model has answered, known or not: what can be told before anything is computed."""

    facts: Spec[FactSet]

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return ()

    def read(self, study: Study, entries: Iterator[Entry]) -> FactSet:
        facts = self.facts
        if isinstance(facts, Answered):
            return study.result(facts.prompts)
        if not isinstance(facts, Chosen):
            return study.result(facts)
        candidates = study.result(Unanswered(facts.facts))
        return candidates if isinstance(facts, Known) else facts.choose(study, candidates)


def passes_flops(study: Study, facts: Spec[FactSet], passes: float = 1.0) -> float:
    """Roughly, of so many forward passes for every prompt."""
    prompts = study.result(Unanswered(facts)).prompts
    return 2.0 * study.lm.num_parameters * sum(len(prompt.input_ids) for prompt in prompts) * passes


def prompt_task(
    study: Study, control: str, what: str, depends_on: Mapping[str, Any], make: Callable[[], Arrays]
) -> Task:
    """A task for one prompt under a control, as `caploc.experiments.specs.keyed` makes them for the model itself."""
    lm = study.named(control)
    common = {
        "what": what,
        "code": CODE_VERSION,
        "model": lm.fingerprint,
        "dtype": str(lm.dtype),
        "device": study.settings.device.partition(":")[0],
    }
    return Task(fingerprint({**common, **depends_on}), lambda: (make(), {}))


# -------------------------------------------------------------------------------------------------- wordings, answers


def load_facts(
    dataset: str, path: str | None, seed: int, split: str | None = "locate"
) -> tuple[list[Fact], list[str]]:
    """All facts of ``dataset``, in a random order, those with one wording too; and what was left out, in sentences.

    ``path`` and ``split`` are those of ``load_examples``. COUNTERFACT's and zsRE's own prompt comes first; where the
    wordings of a fact share a group, as in ParaRel, none is the original, and their order is drawn. Both orders depend
    on ``seed`` and on ids alone, so that fewer facts or wordings are the first of more.

    Raises:
        DatasetError: what ``load_examples`` raises, and a group whose examples have different answers.
    """
    part = read_part(dataset, path, split)
    facts = (
        _reworded(part.examples, dataset, path, split)
        if dataset in WITH_PARAPHRASES
        else _grouped(part.examples, seed)
    )
    return sorted(facts, key=lambda fact: digest(str(seed), fact.id)), part.left_out


def _reworded(
    examples: Sequence[Example], dataset: str, path: str | None, split: str | None
) -> Iterable[Fact]:
    paraphrases = {edit.id: edit.paraphrases for edit in load_edits(dataset, path, split)}
    for one in examples:
        texts = [one.prompt, *paraphrases[one.id]]
        others = [
            Example(f"{one.id}-paraphrase-{number}", text, one.answer, one.group, one.subject)
            for number, text in enumerate(texts[1:])
            if text not in texts[: number + 1]  # the same words are no other wording
        ]
        yield Fact(one.id, (one, *others))


def _grouped(examples: Sequence[Example], seed: int) -> Iterable[Fact]:
    def name(example: Example) -> str:
        return example.group if example.group is not None else example.id

    for group, members in groupby(sorted(examples, key=name), key=name):
        wordings = sorted(members, key=lambda example: digest(str(seed), example.id))
        answers = sorted({example.answer for example in wordings})
        if len(answers) > 1:
            raise DatasetError(
                f"group {group!r} has the answers {', '.join(map(repr, answers[:3]))}: the wordings of one fact have "
                "one answer; give each fact a group of its own"
            )
        yield Fact(group, tuple(wordings))


@refused_if_too_large("the run of an example", "use a GPU with more memory or shorter examples")
def answers_known(lm: LanguageModel, examples: Sequence[TokenizedExample]) -> tuple[np.ndarray, np.ndarray]:
    """``[examples]`` the worst rank of an answer's tokens, and ``[examples]`` log P(answer | prompt), teacher forced.

    Ranks are from 1 among the whole vocabulary, each token's after those before it; 1 means that greedy decoding gives
    the answer. Ties rank the answer first.

    Raises:
        ModelError: the model's logits are not finite.
    """
    with frozen_eval(lm.model), torch.no_grad():
        found = [_answer(lm, example) for example in examples]
    return np.array([rank for rank, _ in found], np.int64), np.array([log for _, log in found], np.float64)


def _answer(lm: LanguageModel, example: TokenizedExample) -> tuple[int, float]:
    ids = example.input_ids.to(lm.device)
    logits = lm.model(input_ids=ids[None, :-1], use_cache=False).logits[0, example.answer_start - 1 :]
    if not logits.isfinite().all():
        raise ModelError(
            f"example {example.id!r}: logits of {lm.name} are not finite; {against_nan(lm.dtype)}"
        )
    answer = ids[example.answer_start :, None]
    logs = logits.double().log_softmax(1).gather(1, answer)
    return int((logits > logits.gather(1, answer)).sum(1).max()) + 1, float(logs.sum())
