"""Facts in many wordings: which neurons KN locates for each prompt, what its template and last token are, and what the
sets of a fact have in common that those of unrelated facts do not.

All claims of query localization rest on one fact set, ``query_facts``, and on the same stored scores. What decides is
compared among wordings that end in one token: KN reads neurons at the last token, and two wordings that end otherwise
differ there whatever the model knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from caploc import statistics as stats
from caploc.experiments.facts import OF_EQUATION_8, Chosen, FactSet, facts_of, fewest_facts
from caploc.experiments.locating_facts import LocatedFacts, LocatedSets
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.experiments.study import Study, family
from caploc.findings import Cell, Measurement
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES
from caploc.streams import Stream, stream

WORDINGS = 7
"""In which each fact is located. CS and CS2 depend on it, so that they mean nothing without it."""
ASKED_WORDINGS = 12
"""In which each fact is asked, for the model to answer ``WORDINGS`` of them rightly."""
CPU_QUERY_FACTS = 120
"""Located on a CPU: a share of 20 % then has an interval of +- 8 points, with two facts a subject."""
SPARE_FACTS = 12
"""Asked beyond those, for the ones that the model does not know."""
PSEUDO_FACTS = 199
"""Pseudo-facts in the place of each fact: they put its 95 % point within 3 % of their distribution."""
UNSPECIFIC = 0.95
INCONSISTENT = 0.5
"""Below which mean overlap of two wordings a fact counts as inconsistent: they share less than half."""

BY_BOTH = "subjects crossed with templates"
"""What intervals over prompts resample, in words."""


# ------------------------------------------------------------------------------------------------------ which facts


def query_facts(dataset: str) -> Spec[FactSet]:
    """The facts of all claims of query localization, in ``WORDINGS`` wordings that the model answers rightly."""
    asked = facts_of(dataset, wordings=ASKED_WORDINGS, at_least=CPU_QUERY_FACTS + SPARE_FACTS)
    return InWordings(asked, WORDINGS, CPU_QUERY_FACTS)


@dataclass(frozen=True)
class InWordings(Chosen):
    """Facts that the model answers rightly in ``wordings`` wordings or more, in so many of them, which end in as few
    tokens as can be but in two where they can: of seven, four that end alike and three that end alike.

    ``on_cpu`` so many facts on a CPU, unless ``--samples`` says how many.

    Raises:
        NotRunError: the dataset asks too few facts in so many wordings.
        FloorError: the model knows too few of them.
    """

    wordings: int
    on_cpu: int

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        # a rank of 0 stands for an answer that was not asked for yet
        right, last, fewest = facts.rank <= 1, last_tokens(facts), fewest_facts(study)
        asked = np.bincount(facts.fact) >= self.wordings
        if asked.sum() < fewest:
            raise NotRunError(
                f"{facts.dataset} asks {asked.sum()} of {len(facts)} facts in {self.wordings} wordings or more, and "
                f"{fewest} are the fewest an interval can be taken over; give facts in more wordings"
            )
        known = np.flatnonzero(np.bincount(facts.fact, right, len(facts)) >= self.wordings)
        if len(known) < fewest:
            raise FloorError(
                f"the model answers {len(known)} of {len(facts)} facts rightly in {self.wordings} wordings or more, "
                f"fewer than the {fewest} that an interval is taken over"
            )
        limited = study.settings.samples is None and study.settings.device == "cpu"
        taken = known[: study.settings.facts(self.on_cpu)] if limited else known
        marked = np.zeros(len(facts.prompts), bool)
        for fact in taken.tolist():
            own = np.flatnonzero((facts.fact == fact) & right)
            marked[own[_alike(last[own], self.wordings)]] = True
        unknown = len(facts) - len(known)
        why = f"{unknown} of {len(facts)} facts left out: not answered rightly in {self.wordings} wordings"
        return facts.only(taken, marked, why if unknown else "")


def _alike(last: np.ndarray, wanted: int) -> np.ndarray:
    """Indices of ``wanted`` wordings: half of them that share the commonest last token, the rest of the next ones."""
    tokens, first, counts = np.unique(last, return_index=True, return_counts=True)
    order = sorted(range(len(tokens)), key=lambda one: (-counts[one], first[one]))
    groups = [np.flatnonzero(last == tokens[one]) for one in order]
    most = -(-wanted // 2)
    queue = [
        *np.concatenate([group[:most] for group in groups]),
        *np.concatenate([one[most:] for one in groups]),
    ]
    return np.sort(np.array(queue[:wanted]))


def last_tokens(facts: FactSet) -> np.ndarray:
    """``[P]`` the token that ends each prompt, at which neurons are located."""
    return np.array([int(one.input_ids[one.answer_start - 1]) for one in facts.prompts])


def templates(facts: FactSet) -> tuple[np.ndarray, np.ndarray]:
    """``[P]`` numbers of the prompts' templates and ``[P]`` of their relations. A template is a prompt without its
    subject; facts that are asked in one template, or through further facts, are of one relation."""
    texts = [one.prompt.replace(one.subject, "[X]") if one.subject else one.prompt for one in facts.examples]
    template = np.unique(texts, return_inverse=True)[1]
    asked = sparse.csr_matrix((np.ones(len(template)), (facts.fact, template)))
    relation = connected_components(asked @ asked.T, directed=False)[1]
    return template, relation[facts.fact]


# ------------------------------------------------------------------------------------- sets of facts in many wordings


@dataclass(frozen=True, eq=False)
class Queries:
    """P prompts of F facts with the ``sets`` located for them, by one cut.

    Attributes:
        last, template, subject, answer, relation: ``[P]`` numbers from 0 (`last_tokens`, `templates`).
    """

    facts: FactSet
    sets: LocatedSets
    last: np.ndarray
    template: np.ndarray
    subject: np.ndarray
    answer: np.ndarray
    relation: np.ndarray
    _made: dict[tuple[str, int, int], list[list[np.ndarray]]] = field(default_factory=dict, repr=False)
    """Pseudo-facts, which do not depend on the sets."""

    @classmethod
    def of(cls, facts: FactSet, sets: LocatedSets) -> Queries:
        template, relation = templates(facts)
        return cls(
            facts,
            sets,
            np.unique(last_tokens(facts), return_inverse=True)[1],
            template,
            facts.clusters[facts.fact],
            facts.answers[facts.fact],
            relation,
        )

    def with_sets(self, sets: LocatedSets) -> Queries:
        """The same prompts, and pseudo-facts, with other sets."""
        return replace(self, sets=sets)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.facts.settings

    @property
    def notes(self) -> Sequence[str]:
        return [
            *self.facts.left_out,
            f"{len(self.facts)} facts in {self.facts.wordings} wordings that the model knows",
        ]

    @property
    def fact(self) -> np.ndarray:
        return self.facts.fact

    @cached_property
    def overlap(self) -> np.ndarray:
        """``[P, P]`` eq. (9)'s overlap; 0 of two empty sets, which share nothing."""
        return np.nan_to_num(self.sets.overlap())

    @cached_property
    def pairs(self) -> Mapping[str, np.ndarray]:
        """``[P, P]`` kinds of pairs of prompts, by fact, wording and last token; other facts are of the relation and
        have another subject and another answer."""
        fact, last, template = (np.equal.outer(one, one) for one in (self.fact, self.last, self.template))
        own = fact & ~np.eye(len(fact), dtype=bool)
        other = np.equal.outer(self.relation, self.relation)
        other &= ~np.equal.outer(self.subject, self.subject) & ~np.equal.outer(self.answer, self.answer)
        return {
            "same fact": own,
            "same fact, equal last token": own & last,
            "same fact, other last token": own & ~last,
            "other fact, same wording": other & template,
            "other fact, other wording": other & ~template,
            "other fact, other wording, equal last token": other & ~template & last,
            "other fact, other wording, other last token": other & ~template & ~last,
        }

    def require(self, *kinds: str) -> None:
        """Raise NotRunError where there is no pair of a kind, as in relations of one subject."""
        for kind in kinds:
            if not self.pairs[kind].any():
                raise NotRunError(
                    f"{self.facts.dataset} has no two prompts of the kind: {kind}; give relations of several subjects "
                    "and answers, in wordings of which several end in one token"
                )

    def weights(self, seed: int) -> np.ndarray:
        """``[draws, P]`` of the bootstrap of subjects crossed with templates."""
        return stats.crossed_weights(self.subject, self.template, self.relation, seed)

    def by_fact(self, kind: str) -> np.ndarray:
        """``[F]`` each fact's mean overlap over the pairs of a kind that its prompts are in, nan without any."""
        marked = self.pairs[kind]
        total = np.bincount(self.fact, np.where(marked, self.overlap, 0).sum(1), len(self.facts))
        count = np.bincount(self.fact, marked.sum(1), len(self.facts))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def consistency(self, prompts: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """``[F]`` CS and CS2 over all wordings of each fact, or over the ``prompts [P]`` that are marked."""
        chosen = np.ones(len(self.fact), bool) if prompts is None else prompts
        return self.consistency_of(
            [np.flatnonzero((self.fact == one) & chosen) for one in range(len(self.facts))]
        )

    def consistency_of(self, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``[groups]`` CS and CS2 of groups of prompts: the share of the neurons located for any prompt of a group that
        are located for all of them, and for more than one; nan where none is located."""
        wordings = np.array([len(group) for group in groups])
        rows = sparse.csr_matrix(
            (np.ones(wordings.sum()), np.concatenate(groups), np.r_[0, wordings.cumsum()]),
            shape=(len(groups), len(self.fact)),
        )
        times = (rows @ self.sets.members).toarray()
        union = (times > 0).sum(1)
        with np.errstate(invalid="ignore"):
            every, several = (
                marked.sum(1) / np.where(union > 0, union, np.nan)
                for marked in ((times == wordings[:, None]) & (times > 0), times > 1)
            )
        return every, several

    def pseudo_facts(self, kind: str, seed: int, draws: int = PSEUDO_FACTS) -> list[list[np.ndarray]]:
        """For each fact up to ``draws`` that do not exist: the prompts of its wordings, one each, asked about other
        facts of the relation, so that no pair of the ``kind`` (``same fact``, with or without a last token) is of one
        subject or answer. Fewer, or none, where the relation has too few of them, or the fact no such pair."""
        if (kind, seed, draws) not in self._made:
            self._made[kind, seed, draws] = [
                self._pseudo(fact, kind, seed, draws) for fact in range(len(self.facts))
            ]
        return self._made[kind, seed, draws]

    def _pseudo(self, fact: int, kind: str, seed: int, draws: int) -> list[np.ndarray]:
        own = np.flatnonzero(self.fact == fact)
        paired = self.pairs[kind][np.ix_(own, own)]
        # the wordings of each last token apart: only those that are paired must be of different facts
        blocks = connected_components(sparse.csr_matrix(paired), directed=False)[1].tolist()
        asked = [
            [
                (int(self.subject[one]), int(self.answer[one]), int(one))
                for one in self.asked[int(self.template[prompt])]
            ]
            for prompt in own
        ]
        generator = stream(Stream.PSEUDO_FACTS, seed, fact)
        made = (_made_up(blocks, asked, generator) for _ in range(draws if paired.any() else 0))
        return [np.array(one) for one in made if one is not None]

    @cached_property
    def asked(self) -> Sequence[np.ndarray]:
        """The prompts of each template."""
        return [np.flatnonzero(self.template == one) for one in range(int(self.template.max()) + 1)]

    def pseudo_overlap(self, kind: str, seed: int) -> np.ndarray:
        """``[F, draws]`` the mean overlap over the pairs of a ``kind`` in pseudo-facts, nan where there are fewer."""
        found = np.full((len(self.facts), PSEUDO_FACTS), np.nan)
        for fact, made in enumerate(self.pseudo_facts(kind, seed)):
            own = np.flatnonzero(self.fact == fact)
            first, second = np.nonzero(np.triu(self.pairs[kind][np.ix_(own, own)]))
            if made:
                prompts = np.stack(made)
                found[fact, : len(made)] = self.overlap[prompts[:, first], prompts[:, second]].mean(1)
        return found


def _made_up(
    blocks: Sequence[int],
    asked: Sequence[Sequence[Sequence[int]]],
    generator: np.random.Generator,
    attempts: int = 5,
) -> list[int] | None:
    """Prompts, one of those (subject, answer, prompt) that are ``asked`` in each wording, drawn so that no two in one
    of the ``blocks`` are of one subject or answer; None where none is found."""
    for _ in range(attempts):
        taken: list[int] = []
        subjects: set[tuple[int, int]] = set()
        answers: set[tuple[int, int]] = set()
        for block, candidates in zip(blocks, asked, strict=True):
            free = [
                one
                for one in candidates
                if (block, one[0]) not in subjects and (block, one[1]) not in answers
            ]
            if not free:
                break
            subject, answer, prompt = free[int(generator.random() * len(free))]
            subjects.add((block, subject))
            answers.add((block, answer))
            taken.append(prompt)
        if len(taken) == len(blocks):
            return taken
    return None


@dataclass(frozen=True, eq=False)
class Fixed:
    """Which facts have no set of their own, and why; ``[F]``, nan where that cannot be told.

    ``overlap``: mean of two wordings; ``limit``: the point of pseudo-facts that it must exceed; ``chance``: their mean.
    """

    overlap: np.ndarray
    limit: np.ndarray
    chance: np.ndarray

    @property
    def inconsistent(self) -> np.ndarray:
        """Two wordings share less than half."""
        return self._where(self.overlap < INCONSISTENT)

    @property
    def unspecific(self) -> np.ndarray:
        """They share no more than unrelated facts in the same wordings."""
        return self._where(self.overlap <= self.limit)

    @property
    def fails(self) -> np.ndarray:
        return self._where((self.overlap < INCONSISTENT) | (self.overlap <= self.limit))

    @property
    def defined(self) -> np.ndarray:
        return np.asarray(np.isfinite(self.overlap) & np.isfinite(self.limit))

    def _where(self, what: np.ndarray) -> np.ndarray:
        return np.where(self.defined, what.astype(float), np.nan)


def fixed_sets(queries: Queries, kind: str, seed: int, fewest: int) -> Fixed:
    """Whether each fact has a set of its own, over its pairs of a ``kind``.

    Raises:
        NotRunError: too few facts have such pairs, or unrelated facts in their relation.
    """
    pseudo = queries.pseudo_overlap(kind, seed)
    told = np.isfinite(pseudo).mean(1) >= 0.5
    limit, chance = np.full((2, len(pseudo)), np.nan)
    if told.any():
        limit[told] = np.nanquantile(pseudo[told], UNSPECIFIC, axis=1)
        chance[told] = np.nanmean(pseudo[told], axis=1)
    found = Fixed(queries.by_fact(kind), limit, chance)
    if found.defined.sum() < fewest:
        raise NotRunError(
            f"{found.defined.sum()} of {len(queries.facts)} facts of {queries.facts.dataset} have pairs of the kind "
            f"{kind!r} and enough unrelated facts in their relation, and {fewest} are the fewest an interval can be "
            "taken over; give relations of several subjects and answers"
        )
    return found


# ------------------------------------------------------------------------------------------ what all claims rest on


def located_queries(cell: Cell) -> LocatedFacts:
    """What KN locates for every prompt of the cell's ``query_facts``."""
    return LocatedFacts("kn", query_facts(cell.dataset or ""))


@dataclass(frozen=True, eq=False)
class LocatedQueries:
    """The prompts with their sets by the cut that decides, and by every cut."""

    queries: Queries
    by_cut: Mapping[str, Queries]


def _found(study: Study, cell: Cell, claim: Claim) -> LocatedQueries:
    """Raises NotRunError, FloorError: there are no such facts."""
    located = located_queries(cell)
    found = study.result(located)
    queries = Queries.of(study.result(located.facts), found.sets)
    others = {name: queries.with_sets(sets) for name, sets in found.variants.items()}
    return LocatedQueries(queries, {found.cut: queries, **others})


def _completed(found: LocatedQueries, measurement: Measurement) -> Measurement:
    facts = found.queries.facts
    return replace(
        measurement,
        n=measurement.n or len(facts),
        draws=measurement.draws or RESAMPLES,
        basis=[found.queries],
        settings={"threshold": DEFAULT_CUT.threshold, **measurement.settings},
        unused=OF_EQUATION_8,
    )


on_queries = family(lambda study, cell, claim: [located_queries(cell)], _found, _completed)
"""Claims about the sets located for the wordings of facts."""
