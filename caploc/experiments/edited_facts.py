"""Facts edited at every layer, each layer alone (section 3.2): which facts, to what, how well the edits take, and which
layer counts as located.

    Editable("zsre")                which facts are edited and to what, and on which others the layer is located
    EditsByLayer("zsre")            how well every edit takes, at every layer
    FactTraces("zsre")              causal tracing of all facts that can be edited, those that are and those not

``EditsByLayer("zsre", "untrained")`` are the first few of the same edits, made to the untrained twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import harmonic_mean
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from caploc.datasets.edits import EditRequest, load_edits
from caploc.errors import ExampleError, ModelError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.experiments.facts import (
    WITH_PARAPHRASES,
    Fact,
    FactPrompts,
    FactSet,
    FirstFacts,
    facts_of,
    fewest_facts,
    passes_flops,
    prompt_task,
    require_known,
    unknown,
)
from caploc.experiments.locating_facts import PASSES, measured_task
from caploc.experiments.specs import Arrays, FloorError, NotRunError, Spec, Task, key_of
from caploc.experiments.study import Study
from caploc.fingerprints import fingerprint
from caploc.interventions.rank_one import (
    Editing,
    KeyCovariance,
    SingularCovarianceError,
    draw_prefixes,
    edit_all_layers,
    key_covariance,
    score_edit,
)
from caploc.interventions.rank_one.covariance import WORST_CONDITION, check_precise
from caploc.interventions.rank_one.prompts import Token, edit_prompts
from caploc.locators.causal_tracing.trace import Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.method import Asked
from caploc.locators.traced_layers import TracedLayers
from caploc.model.loading import LanguageModel
from caploc.papers import Claim
from caploc.statistics import defined_mean, largest_mean_p
from caploc.store import Entry
from caploc.streams import Stream, stream

CPU_EDITED, GPU_EDITED = 120, 200
"""Facts that are edited, unless ``--samples`` says how many; as many as `EDITED_SHARE` of the facts that are taken.

120 show half of seven layers equal within 10 points where one edit of ten ends otherwise, and a difference of 30
points, in at least 80 % of studies (``caploc/tests/experiments/test_reliability_rome.py``).
"""
UNTRAINED_FACTS = 4
EDITED_SHARE = 0.7

SUBJECT: Token = "last-subject"
PROMPT: Token = "last-prompt"
STORED = ("efficacy", "paraphrase", "neighbourhood", "exact", "new", "true")
SCORES = ("efficacy", "magnitude", "paraphrase", "neighbourhood", "harmonic mean")
LEAST_RIDGE = 1e-4
SEARCH_PASSES = 200.0
"""Roughly how many forward passes of a prompt an edit costs, for each layer and token."""


# --------------------------------------------------------------------------------------------- which facts, which edits


@dataclass(frozen=True)
class Prefixes(Spec[tuple[str, ...]]):
    """Texts to put in front of a prompt that is edited, drawn once for all facts from the model of a control.

    NotRunError: none can be drawn from it.
    """

    control: str = ""

    def tasks(self, study: Study) -> Iterable[Task]:
        editing = Editing(seed=study.settings.seed)
        model = study.named(self.control).fingerprint
        depends_on = {"model": model, "tokens": editing.prefix_tokens, "seed": editing.seed}
        key = key_of(study, "prefixes of edits", depends_on)
        yield Task(key, partial(self._drawn, study, editing))

    def _drawn(self, study: Study, editing: Editing) -> tuple[Arrays, Mapping[str, Any]]:
        try:
            drawn = draw_prefixes(study.weights(self.control), editing.prefix_tokens, editing.seed)
        except ModelError as error:
            raise NotRunError(str(error)) from error
        return {}, {"prefixes": list(drawn)}

    def read(self, study: Study, entries: Iterator[Entry]) -> tuple[str, ...]:
        (entry,) = entries
        return tuple(entry.meta["prefixes"])


def editing_of(study: Study, control: str = "") -> Editing:
    """ROME's way, with the prefixes of the control's model. Raises NotRunError."""
    return replace(Editing(seed=study.settings.seed), prefixes=study.result(Prefixes(control)))


@dataclass(frozen=True, eq=False)
class EditableFacts:
    """F facts in their original wordings, which name their subjects, and the F edits that may be made to them, of
    which at least ``fewest`` and at most ``most`` are."""

    facts: FactSet
    requests: Sequence[EditRequest]
    most: int
    fewest: int

    @property
    def edited(self) -> np.ndarray:
        """Numbers of the facts that are edited: the first two thirds of the known ones, ``most`` at most.

        Raises:
            FloorError: too few are known.
        """
        known, needed = np.flatnonzero(self.facts.known), round(self.fewest / EDITED_SHARE)
        if len(known) < self.fewest:
            raise FloorError(unknown(self.facts))
        if len(known) < needed:
            raise FloorError(
                f"too few facts: the model knows {len(known)} of {len(self.facts)} facts, and {needed} are "
                f"needed, {self.fewest} to edit and others to locate the layer on; give more facts"
            )
        return known[: min(int(len(known) * EDITED_SHARE), self.most)]

    @property
    def others(self) -> np.ndarray:
        """Numbers of the known facts that are not edited, on which the layer is located. Raises FloorError."""
        return np.setdiff1d(np.flatnonzero(self.facts.known), self.edited)


@dataclass(frozen=True)
class Editable(Spec[EditableFacts]):
    """The facts of ``dataset`` with their edits.

    COUNTERFACT and zsRE say what a fact is edited to; in other datasets it is the answer of the next fact that has
    another one, paraphrases are the fact's further wordings, and there are no neighbours (``zsre-edit-targets``).

    NotRunError: too few facts name their subject and fit the model, or no prefix can be drawn from it.
    """

    dataset: str

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield _facts(study, self.dataset)
        yield Prefixes()
        if self.dataset not in WITH_PARAPHRASES:
            yield FactPrompts(self.dataset)

    def read(self, study: Study, entries: Iterator[Entry]) -> EditableFacts:
        facts, lm = study.result(_facts(study, self.dataset)), study.lm
        recorded = self.dataset in WITH_PARAPHRASES
        requests = _recorded(study, facts) if recorded else _of_other_facts(_reworded(study, facts))
        editing = editing_of(study)
        kept = np.array([_fits(lm, request, editing) for request in requests], bool)
        fewest = fewest_facts(study)
        if kept.sum() < fewest:
            raise NotRunError(
                f"{self.dataset} has {kept.sum()} of {len(facts)} facts that name their subject and whose edits fit "
                f"{lm.name}, and {fewest} are the fewest an interval can be taken over; give facts with subjects"
            )
        if not kept.all():
            lost = int((~kept).sum())
            note = f"{lost} facts left out: no subject in the prompt, or a text that does not fit the model"
            facts = facts.only(np.flatnonzero(kept), left_out=note)
        chosen = [requests[one] for one in np.flatnonzero(kept)]
        return EditableFacts(facts, chosen, _most_edited(study), fewest)


def _facts(study: Study, dataset: str) -> Spec[FactSet]:
    """So many that a share of them are as many as are edited; the others locate the layer."""
    return facts_of(dataset, wordings=1, at_least=math.ceil(_most_edited(study) / EDITED_SHARE))


def _most_edited(study: Study) -> int:
    return study.settings.samples or (CPU_EDITED if study.settings.device == "cpu" else GPU_EDITED)


def _recorded(study: Study, facts: FactSet) -> list[EditRequest]:
    """What the dataset's records ask for."""
    edits = {one.id: one for one in load_edits(facts.dataset, study.source(facts.dataset), split="locate")}
    return [edits[fact.id] for fact in facts.facts]


def _reworded(study: Study, facts: FactSet) -> list[Fact]:
    """The facts with their further wordings, where they have any."""
    try:
        several = study.result(FactPrompts(facts.dataset))
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
        edit_prompts(lm, request, editing.prefixes or (), editing.token, editing.kl_token)
        for prompt, answer in [(request.prompt, true), *asked]:
            tokenize(lm, Example(request.id, prompt, answer))
    except ExampleError:
        return False
    return True


# ------------------------------------------------------------------------------------------------- edits at every layer


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


@dataclass(frozen=True)
class EditsByLayer(Spec[LayerEdits]):
    """The edits of a dataset's facts, at the subject's last token, ROME's, and at the prompt's last.

    To the untrained twin only the first few are made, at the subject's last token.

    NotRunError: the model cannot be edited. FloorError: too few facts are known.
    """

    dataset: str
    control: str = ""

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Those whose keys are edited."""
        return (SUBJECT,) if self.control else (SUBJECT, PROMPT)

    def chosen(self, study: Study) -> np.ndarray:
        """Numbers of the facts that are edited. Raises FloorError."""
        edited = study.result(Editable(self.dataset)).edited
        return edited[:UNTRAINED_FACTS] if self.control else edited

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Editable(self.dataset), Prefixes(self.control))

    def tasks(self, study: Study) -> Iterable[Task]:
        chosen, requests = self.chosen(study), study.result(Editable(self.dataset)).requests
        editing, texts = editing_of(study, self.control), _corpus(study, self.dataset)
        try:
            check_precise(study.named(study.precise(self.control)))
        except ModelError as error:
            raise NotRunError(str(error)) from error
        depends_on = {
            "editing": editing.settings,
            "tokens": list(self.tokens),
            "corpus": fingerprint(texts),
            "ridge": ridge_of(study.named(self.control)),
        }
        for request in (requests[number] for number in chosen):
            make = partial(self._edited, study, request, editing, texts)
            what = "edits at every layer"
            yield prompt_task(
                study, study.precise(self.control), what, {**depends_on, "request": request}, make
            )

    def read(self, study: Study, entries: Iterator[Entry]) -> LayerEdits:
        rows = [entry.arrays for entry in entries]
        scores = {token: np.stack([one[token] for one in rows]) for token in self.tokens}
        clusters = study.result(Editable(self.dataset)).facts.clusters[self.chosen(study)]
        editing, ridge = editing_of(study, self.control), ridge_of(study.named(self.control))
        return LayerEdits(scores, clusters, {"editing": editing.settings, "ridge": ridge})

    def flops(self, study: Study) -> float:
        most = _most_edited(study)
        facts = FactPrompts(self.dataset, 1, math.ceil(most / EDITED_SHARE))
        edited = FirstFacts(facts, min(most, UNTRAINED_FACTS) if self.control else most)
        return passes_flops(study, edited, SEARCH_PASSES * study.lm.num_layers * len(self.tokens))

    def _edited(self, study: Study, request: EditRequest, editing: Editing, texts: Sequence[str]) -> Arrays:
        def attach(lm: LanguageModel) -> nullcontext[tuple[LanguageModel, KeyCovariance]]:
            return nullcontext(
                (lm, key_covariance(lm, texts, ridge=ridge_of(lm), store=study.settings.store))
            )

        try:
            held, control = ("key covariance", fingerprint(texts)), study.precise(self.control)
            lm, covariance = study.hold(held, control, attach)
            before = _scores(lm, request)
            rows: dict[Token, list[np.ndarray]] = {token: [before] for token in self.tokens}
            for token in self.tokens:
                edits = edit_all_layers(lm, request, covariance, editing=replace(editing, token=token))
                for edit in edits.values():
                    with edit.applied(lm):
                        rows[token].append(_scores(lm, request))
        except (ModelError, SingularCovarianceError) as error:
            raise NotRunError(str(error)) from error
        return {token: np.stack(row) for token, row in rows.items()}


def ridge_of(lm: LanguageModel) -> float:
    """What is added to a covariance's diagonal, in means of it: so much that it can be inverted with sense whatever
    the corpus, since no eigenvalue exceeds their sum, ``neurons`` times the diagonal's mean."""
    return max(LEAST_RIDGE, 2 * lm.num_neurons / WORST_CONDITION)


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


# ------------------------------------------------------------------------------------------------- the located layer


@dataclass(frozen=True, eq=False)
class TracedFacts:
    """Causal tracing of F facts in their original wordings; D draws of the noise.

    Attributes:
        restored: ``[F, layers]`` P(answer's first token) with noise on the subject and the layer's clean state at the
            subject's last token put back, mean over draws.
        corrupted: ``[F]`` the same with noise alone.
        right: ``[F]`` whether the answer's first token is the most probable one without noise.
        right_noised: ``[F, D]`` the same with each draw of the noise on the subject.
        right_elsewhere: ``[F, D]`` the same with noise on as many other tokens of the prompt, all of them where there
            are no more.
    """

    restored: np.ndarray
    corrupted: np.ndarray
    right: np.ndarray
    right_noised: np.ndarray
    right_elsewhere: np.ndarray


@dataclass(frozen=True)
class FactTraces(Spec[TracedFacts]):
    """Traces of all of a dataset's facts that can be edited, known or not. FloorError: the model knows too few."""

    dataset: str

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Editable(self.dataset)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts = require_known(study, study.result(Editable(self.dataset)).facts)
        method = TracedWithNoise(Tracing(study.settings.restored, seed=study.settings.seed))
        for tokens, example in zip(facts.prompts, facts.examples, strict=True):
            yield measured_task(study, method, Asked(tokens, example))

    def read(self, study: Study, entries: Iterator[Entry]) -> TracedFacts:
        rows = [entry.arrays for entry in entries]
        return TracedFacts(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})

    def flops(self, study: Study) -> float:
        facts = FactPrompts(self.dataset, 1, math.ceil(_most_edited(study) / EDITED_SHARE))
        return passes_flops(study, facts, PASSES["rome"])


@dataclass(frozen=True)
class TracedWithNoise(TracedLayers):
    """As for locating layers, with what the noise alone does: the arrays of `TracedFacts`, without F."""

    what: ClassVar[str] = "traces of edited facts"

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """A ``Tracer``."""
        with Tracer(lm, self.tracing) as tracer:

            def measure(asked: Asked) -> Arrays:
                subject = self.subject(lm, asked)
                trace = tracer.one(asked.tokens, subject)
                elsewhere = noised_elsewhere(lm, asked.tokens, subject, self.tracing)
                return {
                    "restored": trace.by_layer().numpy(),
                    "corrupted": np.array(float(trace.corrupted.mean())),
                    "right": np.array(trace.clean_is_top),
                    "right_noised": trace.corrupted_is_top.numpy(),
                    "right_elsewhere": elsewhere.numpy(),
                }

            yield measure


@torch.no_grad()
def noised_elsewhere(
    lm: LanguageModel, prompt: TokenizedExample, subject: range, tracing: Tracing
) -> Bool[Tensor, " draws"]:
    """Whether the answer's first token is the most probable one with each draw of the subject's noise added to as many
    other tokens of the prompt, drawn at random; special tokens are spared."""
    special = set(lm.tokenizer.all_special_ids)
    ids = prompt.prompt_ids
    others = [
        place for place, token in enumerate(ids.tolist()) if place not in subject and token not in special
    ]
    order = stream(Stream.NOISED_ELSEWHERE, tracing.seed, *ids.tolist()).permutation(others)[: len(subject)]
    embedding: nn.Embedding = lm.model.get_input_embeddings()  # type: ignore[assignment]
    embedded = embedding(ids[None].to(lm.device))
    noise = draw_noise(tracing.seed, prompt.id, tracing.draws, len(subject), embedded.shape[-1])
    rows = embedded.repeat(tracing.draws, 1, 1)
    rows[:, order.astype(int)] += (
        tracing.noise * embedding_deviation(embedding) * noise[:, : len(order)]
    ).to(rows)
    logits = lm.model(inputs_embeds=rows, use_cache=False).logits[:, -1]
    return (logits.argmax(-1) == int(prompt.answer_ids[0])).cpu()


@dataclass(frozen=True, eq=False)
class LocatedLayer:
    """The layer that counts as located, counted from 0.

    Attributes:
        restored: ``[layers]`` what tracing restores, mean over the facts that are not edited.
        corrupted: the answer's probability with noise alone, the same mean.
        p: of the best layer's restoring no more than noise alone does, the choice of the layer taken into account.
        note: why this layer.
        floor: why no layer counts as located; None where one does.
    """

    layer: int
    restored: np.ndarray
    corrupted: float
    p: float
    note: str
    floor: str | None = None


def locate_layer(
    model: str, claim: Claim, found: EditableFacts, traces: TracedFacts, seed: int
) -> LocatedLayer:
    """The layer that counts as located, by a rule fixed beforehand: the printed one, where the paper's model is edited.

    Other models have other depths: there it is the layer whose clean state, put back at the subject's last token,
    restores the most probability, mean over known facts that are not edited; of equal layers the first. So no outcome
    of an edit, and no fact that is edited, has a say in the choice. It counts only if it restores more than noise alone
    leaves: over facts, each with noise of its own, so that the draws' variation is in the facts'.

    Raises:
        FloorError: too few facts are known to set some aside.
    """
    others = found.others
    own, without = traces.restored[others], traces.corrupted[others]
    restored, corrupted = own.mean(0), float(without.mean())
    traced = int(restored.argmax())
    p = largest_mean_p(own - without[:, None], found.facts.clusters[others], seed)
    seen = (
        f"put back in layer {traced}, the clean state gives the answer P {restored[traced]:.3g}, against "
        f"{corrupted:.3g} with noise alone and {np.sort(restored)[-2]:.3g} in the next best layer (mean over "
        f"{len(others)} known facts that are not edited; p {p:.2g} that no layer restores more than noise alone, signs "
        "flipped by subject, one-sided)"
    )
    printed = claim.margins.get(f"edited-layer-{model}")
    if printed is not None:
        note = f"layer {printed:g} is the printed one and counts as located; by tracing, {seen}"
        return LocatedLayer(int(printed), restored, corrupted, p, note)
    if p < claim.level:
        note = f"layer {traced} counts as located, since the paper names none for this model: {seen}"
        return LocatedLayer(traced, restored, corrupted, p, note)
    nothing = f"causal tracing locates no layer whose edits could be compared: {seen}"
    return LocatedLayer(traced, restored, corrupted, p, nothing, nothing)
