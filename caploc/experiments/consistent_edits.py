"""Facts edited at neurons that are chosen over their wordings: erased or updated, at several sizes, and what that does
to wordings held out, to other facts of the relation and to general text.

Numbers of neurons and the vectors that an update writes are chosen on other facts, by what all arms do together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc import statistics as stats
from caploc.experiments.evaluating import GeneralText
from caploc.experiments.facts import FactSet, passes_flops
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import Spec, Task, keyed
from caploc.experiments.study import Study
from caploc.experiments.wordings import Queries
from caploc.interventions.activations import rewritten, scaled
from caploc.locators.consistency_aware import consistency
from caploc.locators.magnitude import magnitude
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.sizing import Budget
from caploc.store import Entry
from caploc.streams import Stream, stream

LOCATING = 4
"""Wordings of a fact that locate; the others evaluate."""
CALIBRATING = 16
"""Facts on which the size of edits is chosen; none of their subjects is evaluated."""
NEIGHBOURS = 2
"""Other facts of the relation that each edit must spare, with another subject and answer."""
TEXTS = 2
"""Sentences on which each edit's perplexity is read, in turn."""
ONE, MEAN, AWARE, HALF, TWICE, UNION, LARGEST = (
    "one wording", "plain mean", "consistency-aware", "beta 0.5", "beta 2", "union of four", "largest",
)  # fmt: skip
BETAS: Mapping[str, float] = MappingProxyType({MEAN: 0.0, AWARE: 1.0, HALF: 0.5, TWICE: 2.0})
COMPARED = (ONE, MEAN, AWARE)
TIMES = (0.5, 1.0, 2.0)
"""Sizes of the arms that are compared, as multiples of k: their curves are read between them."""
ARMS = (
    *((arm, times) for arm in COMPARED for times in TIMES),
    *((arm, 1.0) for arm in (HALF, TWICE, UNION, LARGEST)),
)
"""What is edited: the arms that are compared, at three sizes; other betas; the k best of each of the four wordings
together, as the paper's second baseline; and the largest neurons, which have nothing to do with the fact."""
ERASED, UPDATED = "erased", "updated"
ERASING_SIZES = (10, 20, 40, 80, 160)
UPDATING_SIZES, WEIGHTS_OF_NEW = (5, 10, 20, 40), (2.0, 8.0)
WEIGHT_OF_OLD = 1.0
"""An update subtracts the old answer's embedding once and adds the new one's so many times; Dai et al. take 1 and 8."""
AIMED_AT = 0.5


@dataclass(frozen=True, eq=False)
class Edits:
    """F facts edited at each of A ``ARMS``.

    Attributes:
        first, held: ``[F, A]`` and ``[F, A, W]`` success on the first locating wording and on those held out: a wrong
            answer where erased, the new one where updated.
        kept: ``[F, A]`` share of other facts of the relation still answered rightly.
        cost: ``[F, A]`` nats of log P that they lose.
        text: ``[F, A]`` nats a token that general text loses; nan where there is none.
        fact: ``[F]`` which of the facts they are. ``clusters``: numbers of their subjects.
        chosen: k, and the weight of the new answer (0 where erased).
    """

    first: np.ndarray
    held: np.ndarray
    kept: np.ndarray
    cost: np.ndarray
    text: np.ndarray
    fact: np.ndarray
    clusters: np.ndarray
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.fact)

    @cached_property
    def general(self) -> np.ndarray:
        """``[F, A]`` success over the wordings held out."""
        return np.asarray(self.held.mean(2))

    @property
    def average(self) -> np.ndarray:
        """``[F, A]`` mean of reliability, generalization and locality."""
        return np.asarray((self.first + self.general + self.kept) / 3)

    def more(self, outcome: np.ndarray, arm: str, other: str, allowed: float = 0.0) -> stats.Effect:
        """By how much an arm's outcome lies above another's at k neurons, ``allowed`` added, paired by fact."""
        one, second = (outcome[:, ARMS.index((name, 1.0))] for name in (arm, other))
        return stats.compare_pairs(one + allowed, second, clusters=self.clusters)

    def more_at_equal(
        self, outcome: np.ndarray, by: np.ndarray, arm: str, other: str, seed: int, allowed: float = 0.0
    ) -> stats.Effect:
        """The same at as many neurons of each as make both reach the same ``by`` on average: that of ``other`` at k, or
        the most that both reach. Between sizes, from no neuron on, curves are straight. Facts are resampled by
        subject."""
        weights = np.concatenate([np.ones((1, len(self))), stats.cluster_weights(self.clusters, seed)])
        weights = weights / weights.sum(1, keepdims=True)
        curves = {}
        for name in (arm, other):
            at = [ARMS.index((name, times)) for times in TIMES]
            start = np.zeros((len(weights), 1))
            reached = np.maximum.accumulate(np.hstack([start, weights @ by[:, at]]), axis=1)
            curves[name] = reached, np.hstack([start, weights @ outcome[:, at]])
        own = 1 + TIMES.index(1.0)
        goal = np.minimum(
            curves[other][0][:, own], np.minimum(curves[arm][0][:, -1], curves[other][0][:, -1])
        )
        values = [
            np.array([np.interp(*row) for row in zip(goal, *curves[name], strict=True)])
            for name in (arm, other)
        ]
        difference = values[0] - values[1] + allowed
        estimate, draws = float(difference[0]), difference[1:]
        p = (1 + int((draws <= 0).sum())) / (1 + len(draws))
        return stats.effect_of_draws(estimate, draws, p, len(self))

    def numbers(self) -> dict[str, float]:
        """What stands behind the differences, arm by arm at k neurons."""
        found = {"neurons": float(self.chosen[0])}
        outcomes = (
            ("reliability", self.first), ("generalization", self.general), ("locality", self.kept),
            ("nats lost on other facts", self.cost), ("nats lost on text", self.text),
        )  # fmt: skip
        for arm, times in ARMS:
            if times == 1.0:
                at = ARMS.index((arm, times))
                found |= {f"{name}, {arm}": float(values[:, at].mean()) for name, values in outcomes}
        return found


@dataclass(frozen=True)
class EditedFacts(Spec[Edits]):
    """Every one of ``facts`` but those that sizes are chosen on, ``ERASED`` or ``UPDATED`` at each of ``ARMS``."""

    facts: Spec[FactSet]
    how: str

    @property
    def title(self) -> str:
        return f"facts {self.how} at neurons chosen over wordings"

    @property
    def located(self) -> LocatedFacts:
        return LocatedFacts("kn", self.facts)

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self.facts, self.located, GeneralText())

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, settings, texts = study.result(self.facts), study.settings, study.result(GeneralText())
        depends_on = {
            "facts": facts.data_fingerprint,
            "how": self.how,
            "texts": list(texts),
            "method": settings.attribution.settings,
            "seed": settings.seed,
            "design": [LOCATING, CALIBRATING, NEIGHBOURS, TEXTS, list(ARMS), dict(BETAS), AIMED_AT],
            "sizes": [ERASING_SIZES, UPDATING_SIZES, WEIGHTS_OF_NEW, WEIGHT_OF_OLD],
        }
        yield keyed(
            study, "edits by consistency", depends_on, lambda: vars(self._edited(study, facts, texts))
        )

    def read(self, study: Study, entries: Iterator[Entry]) -> Edits:
        (entry,) = entries
        return Edits(**{one.name: entry.arrays[one.name] for one in fields(Edits)})

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, 2.0 * len(ARMS))

    def _edited(self, study: Study, facts: FactSet, texts: Sequence[str]) -> Edits:
        entries = study.settings.store.compute_all(study.tasks(self.located))
        scores = np.stack([entry.arrays["values"] for entry in entries])
        queries = Queries.of(facts, study.result(self.located).sets)
        lm = study.weights()
        editing = Editing(lm, queries, scores, texts, study.settings.seed)
        usable = [fact for fact in range(len(facts)) if editing.can(fact, self.how)]
        calibrating, evaluated = ([one for one in part if one in usable] for part in _apart(facts))
        if not calibrating or not evaluated:
            empty, none = np.zeros((0, len(ARMS))), np.zeros(0, int)
            return Edits(empty, empty[..., None], empty, empty, empty, none, none, np.zeros(2))
        with frozen_eval(lm.model):
            size, weight = self._choose(editing, calibrating)
            outcomes = [editing.outcomes(fact, size, weight, ARMS) for fact in evaluated]
        first, held, kept, cost, text = (np.stack(column) for column in zip(*outcomes, strict=True))
        who = np.array(evaluated), facts.clusters[evaluated]
        return Edits(first, held, kept, cost, text, *who, np.array([size, weight]))

    def _choose(self, editing: Editing, facts: Sequence[int]) -> tuple[int, float]:
        """k and the new answer's weight at which the arms that are compared succeed together on nearest to half of the
        wordings held out; of equal ones the first."""
        erases = self.how == ERASED
        options = [
            (size, weight)
            for weight in ((0.0,) if erases else WEIGHTS_OF_NEW)
            for size in (ERASING_SIZES if erases else UPDATING_SIZES)
        ]
        arms = [(arm, 1.0) for arm in COMPARED]
        success = [
            np.mean([editing.outcomes(fact, *one, arms, spare=False)[1].mean() for fact in facts])
            for one in options
        ]
        return options[int(np.argmin(np.abs(np.array(success) - AIMED_AT)))]


def _apart(facts: FactSet) -> tuple[list[int], list[int]]:
    """The facts of the first subjects, about ``CALIBRATING``, but a quarter of all at most; and those of the others."""
    wanted, chosen = min(CALIBRATING, len(facts) // 4), set[int]()
    for cluster in facts.clusters.tolist():
        if np.isin(facts.clusters, list(chosen)).sum() >= wanted:
            break
        chosen.add(cluster)
    first = np.isin(facts.clusters, list(chosen))
    return np.flatnonzero(first).tolist(), np.flatnonzero(~first).tolist()


class Editing:
    """Edits of facts with ``scores [P, layers, neurons]`` of their prompts, in one model."""

    def __init__(
        self, lm: LanguageModel, queries: Queries, scores: np.ndarray, texts: Sequence[str], seed: int
    ) -> None:
        self.lm, self.queries, self.scores, self.seed = lm, queries, scores, seed
        facts = queries.facts
        self.facts, self.first = facts, facts.first
        self.sizes = magnitude(lm, [facts.prompts[one] for one in self.first]).values.numpy(force=True)
        self.texts = [torch.tensor(lm.tokenizer(one).input_ids) for one in texts]
        self.embeddings = lm.model.get_output_embeddings().weight.detach()
        self._others: dict[int, tuple[list[int], int | None]] = {}

    def can(self, fact: int, how: str) -> bool:
        """Whether the fact's relation has other facts to spare and, to update it, another answer to write."""
        spared, new = self._spared(fact)
        return len(spared) == NEIGHBOURS and (how == ERASED or new is not None)

    def _spared(self, fact: int) -> tuple[list[int], int | None]:
        """Prompts of other facts that an edit must spare, and the answer that it writes, of none of them."""
        if fact not in self._others:
            queries, own = self.queries, self.first[fact]
            fits = (queries.relation == queries.relation[own]) & (queries.subject != queries.subject[own])
            fits &= queries.answer != queries.answer[own]
            order = stream(Stream.OTHER_FACTS, self.seed, fact).permutation(np.flatnonzero(fits)).tolist()
            spared: list[int] = []
            for prompt in order:
                if len(spared) < NEIGHBOURS and queries.fact[prompt] not in queries.fact[spared]:
                    spared.append(prompt)
            answers = {self._answer(prompt) for prompt in (*spared, own)}
            new = next((self._answer(one) for one in order if self._answer(one) not in answers), None)
            self._others[fact] = spared, new
        return self._others[fact]

    def _answer(self, prompt: int) -> int:
        return int(self.facts.prompts[prompt].answer_ids[0])

    def masks(self, fact: int, size: int, arms: Sequence[tuple[str, float]]) -> Tensor:
        """``[1 + arms, layers, neurons]``, in front of them a set without a neuron."""
        values = self.scores[self.queries.fact == fact][:LOCATING].astype(np.float64)
        found = []
        for arm, times in arms:
            count = max(1, round(times * size))
            if arm == UNION:
                found.append(np.any([_top(one, count) for one in values], axis=0))
            elif arm == ONE:
                found.append(_top(values[0], count))
            else:
                found.append(_top(self.sizes if arm == LARGEST else consistency(values, BETAS[arm]), count))
        return torch.from_numpy(np.stack([np.zeros_like(found[0]), *found])).to(self.lm.device)

    def outcomes(
        self, fact: int, size: int, weight: float, arms: Sequence[tuple[str, float]], spare: bool = True
    ) -> tuple[np.ndarray, ...]:
        """What `Edits` keeps of a fact edited at each of ``arms``: erased where the ``weight`` of the new answer is 0;
        ``spare``: and what that costs others."""
        own = np.flatnonzero(self.queries.fact == fact)
        evaluated = [own[0], *own[LOCATING:]]
        spared, new = self._spared(fact)
        prompts = [self.facts.prompts[one].prompt_ids for one in (*evaluated, *(spared if spare else ()))]
        right = torch.tensor([self._answer(one) for one in (*evaluated, *spared)])[: len(prompts)]
        masks = self.masks(fact, size, arms)
        added = None
        if weight:
            assert new is not None
            added = (weight * self.embeddings[new] - WEIGHT_OF_OLD * self.embeddings[right[0]])[None]
        last = [(number, len(one) - 1) for number, one in enumerate(prompts)]
        logs = self._logs(prompts, masks, added, last)  # [1 + arms, prompts, vocabulary]
        best = logs.argmax(-1)
        success = (best.eq(new) if new is not None and weight else best.ne(right)).double()[
            1:, : len(evaluated)
        ]
        cost = kept = text = torch.zeros(len(arms))
        if spare:
            of_right = logs.gather(2, right.expand(len(logs), -1)[..., None])[..., 0]
            cost = (of_right[0] - of_right[1:])[:, len(evaluated) :].mean(1)
            kept = (best == right)[1:, len(evaluated) :].double().mean(1)
            text = self._text_lost(fact, masks, added)
        return success[:, 0].numpy(), success[:, 1:].numpy(), kept.numpy(), cost.numpy(), text.numpy()

    def _text_lost(self, fact: int, masks: Tensor, added: Tensor | None) -> Tensor:
        """``[arms]`` nats a token that ``TEXTS`` sentences lose; nan where there are none."""
        if not self.texts:
            return torch.full((len(masks) - 1,), torch.nan)
        chosen = [self.texts[(TEXTS * fact + one) % len(self.texts)] for one in range(TEXTS)]
        read = [(number, place) for number, one in enumerate(chosen) for place in range(len(one) - 1)]
        following = torch.cat([one[1:] for one in chosen])
        logs = self._logs(chosen, masks, added, read)
        of_text = logs.gather(2, following.expand(len(logs), -1)[..., None])[..., 0]
        return (of_text[0] - of_text[1:]).mean(1)

    @torch.no_grad()
    def _logs(
        self,
        sequences: Sequence[Tensor],
        masks: Tensor,
        added: Tensor | None,
        read: Sequence[tuple[int, int]],
    ) -> Tensor:
        """``[sets, read, vocabulary]`` log probabilities at (sequence, token), with each set of neurons erased, or with
        ``added`` to what they write. Sequences are filled up on the right, where causal attention does not look."""
        width = max(map(len, sequences))
        ids = torch.zeros(len(sequences), width, dtype=torch.long)
        for row, one in zip(ids, sequences, strict=True):
            row[: len(one)] = one
        which, where = (torch.tensor(column) for column in zip(*read, strict=True))

        def logs(part: Tensor) -> Tensor:
            rows = part.repeat_interleave(len(ids), 0)
            edit = scaled(self.lm, rows, 0.0, at=None) if added is None else rewritten(self.lm, rows, added)
            with edit:
                logits = self.lm.model(
                    input_ids=ids.to(self.lm.device).repeat(len(part), 1), use_cache=False
                ).logits
            chosen = logits.unflatten(0, (len(part), -1))[:, which, where]
            return chosen.double().log_softmax(-1).cpu()

        refusal = "the prompts of one fact do not fit into the GPU's memory; use a GPU with more memory"
        budget = Budget(self.lm, gradients=False)
        return torch.cat(budget.in_parts(masks, logs, refusal, cost=ids.numel()))


def _top(values: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` highest of ``values [layers, neurons]``, of equal ones the first: as many, whatever their sign."""
    chosen = np.zeros(values.size, bool)
    chosen[np.argsort(-values.ravel(), kind="stable")[:count]] = True
    return chosen.reshape(values.shape)
