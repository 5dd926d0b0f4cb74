"""Evaluating a study's model: items that nothing was located on, what it makes of them, also with neurons erased.

Located sets are evaluated on every dataset, so an item must be none of the examples that any dataset of the study was
located on. Of its own dataset that would be a leak and is refused; an item whose prompt another dataset locates with
(MetaMath repeats questions of GSM8K) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from caploc import costs
from caploc.datasets import DATASETS
from caploc.errors import DatasetError, UnfitError
from caploc.evaluation import Outcomes, Prepared, evaluate, prepare, text_loss
from caploc.examples import Example, fit
from caploc.experiments.specs import Arrays, NotRunError, Result, Spec, Task, keyed
from caploc.experiments.study import Study
from caploc.fingerprints import fingerprint
from caploc.rows.sizing import shape_of
from caploc.statistics import above_chance
from caploc.store import Entry

Sets = Bool[Tensor, "sets layers neurons"]

CPU_ITEMS = 200
"""On a CPU, unless ``--samples`` says how many: enough to exclude a change of 2 points where none is seen."""
LONGEST_SECONDS = 300.0
"""Of one entry, by an estimate that may be out by a factor of two; a killed run loses no more."""
RATES: Mapping[str, float] = MappingProxyType({"cpu": 5e10, "cuda": costs.RATE})
"""Kind of device -> floating-point operations a second that long passes reach."""
WRITING_ON_CPU = 3.0
"""How many times slower a CPU writes a token than it reads one; of a GPU see `caploc.costs.held_up_flops`."""
GENERAL_TEXTS, GENERAL_DATASETS = 24, ("counterfact", "known_1000")
"""General text: sentences of facts, which none of the datasets trained on or tested holds; the first that there is."""


@dataclass(frozen=True, eq=False)
class EvaluationItems:
    """The items of ``dataset`` as ``prepared`` for a model, and what it scores on them untouched.

    ``base``: outcomes by name, each ``[items]``: ``score`` in 0 to 1, ``nll`` (nats a token of the reference answer),
    ``exact`` and ``ended`` (see `caploc.evaluation.Outcomes`); none yet of `PreparedItems`. ``clusters``: a label an
    item, shared by those that belong together. ``fingerprint`` is part of the keys of results on them. ``least_loss``:
    the smallest loss of score that counts; ``level``: at which the score must be above chance. ``left_out``: sentences.
    """

    dataset: str
    prepared: Prepared
    clusters: Sequence[str]
    base: Mapping[str, np.ndarray]
    fingerprint: str
    least_loss: float
    level: float = 0.05
    left_out: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.base["score"])

    @property
    def chance(self) -> float:
        """The guessing level of the score."""
        return float(self.prepared.chance)

    @property
    def floor(self) -> str | None:
        """The floor effect that hides any loss, in words; None where there is something to lose."""
        why = floor_effect(self.dataset, self.base["score"], self.chance, self.least_loss, self.level)
        if why is None or self.prepared.scoring.reads != "text":
            return why
        forced = f"{self.base['exact'].mean():.1%}".replace("%", " %")
        remedy = f"--scoring {self.dataset}=tokens"
        return f"{why}; teacher forced it predicts every token of {forced} of the answers ({remedy})"

    @property
    def settings(self) -> Mapping[str, Any]:
        named = {f"{name}, {self.dataset}": value for name, value in self.prepared.settings.items()}
        return {**named, f"items, {self.dataset}": self.fingerprint[:16]}

    @property
    def notes(self) -> Sequence[str]:
        items = f"{self.prepared.items} items of {self.dataset}"
        if self.dataset not in DATASETS:
            items = f"{items}, scored by {self.prepared.scoring.name}: {self.prepared.scoring.summary}"
        return [items, *self.left_out]


@dataclass(frozen=True)
class PreparedItems(Spec[EvaluationItems]):
    """A dataset's evaluation items for the study's model, tokenized, before anything was computed on them.

    Raises:
        NotRunError: the dataset cannot be had here, or has too few items.
        DatasetError: one of its items was located on.
    """

    dataset: str

    def read(self, study: Study, entries: Iterator[Entry]) -> EvaluationItems:
        dataset, margin = self.dataset, study.settings.margin
        wanted = _wanted(study, dataset)
        examples, notes = _examples(study, dataset, wanted)
        try:
            prepared = prepare(
                study.lm, dataset, examples, study.settings.scorings.get(dataset), limit=wanted
            )
        except UnfitError as error:
            raise NotRunError(str(error)) from error
        fewest = int(margin("fewest-items"))
        if prepared.items < fewest:
            raise NotRunError(
                f"{dataset} has {prepared.items} items to evaluate {study.lm.name} on ({len(prepared.excluded)} left "
                f"out), and {fewest} are the fewest an interval can be taken over; give more data"
            )
        if prepared.excluded:
            first = prepared.excluded[0].reason
            notes = [*notes, f"{len(prepared.excluded)} items of {dataset} left out, the first since {first}"]
        items = [one.tokens.content for one in prepared.all_items]
        key = fingerprint([dataset, prepared.settings, list(prepared.labels), items])
        groups = {one.id: one.group or one.id for one in examples}
        clusters = [groups[name] for name in prepared.ids]
        least, level = margin("least-loss"), margin("above-chance-level")
        return EvaluationItems(dataset, prepared, clusters, {}, key, least, level, notes)


@dataclass(frozen=True)
class Items(Spec[EvaluationItems]):
    """A dataset's evaluation items with what the untouched model makes of them. Raises as `PreparedItems`."""

    dataset: str

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield PreparedItems(self.dataset)

    def tasks(self, study: Study) -> Iterable[Task]:
        yield from outcome_tasks(study, study.result(PreparedItems(self.dataset)), None)

    def read(self, study: Study, entries: Iterator[Entry]) -> EvaluationItems:
        prepared = study.result(PreparedItems(self.dataset))
        return replace(prepared, base=outcomes_in(entries, study, prepared, None))

    def flops(self, study: Study) -> float:
        return evaluation_flops(study, study.result(PreparedItems(self.dataset)))


@dataclass(frozen=True)
class GeneralText(Spec[Sequence[str]]):
    """Sentences that fit the model; none where no dataset of facts can be had here."""

    def read(self, study: Study, entries: Iterator[Entry]) -> Sequence[str]:
        for dataset in GENERAL_DATASETS:
            try:
                examples = study.drawn_from(dataset, "evaluate", GENERAL_TEXTS).examples
                fitting = {one.id for one in fit(study.lm, examples, limit=GENERAL_TEXTS)[0]}
            except (NotRunError, UnfitError):
                continue
            return [one.prompt + one.answer for one in examples if one.id in fitting]
        return []


def outcome_tasks(study: Study, items: EvaluationItems, sets: Sets | None) -> list[Task]:
    """Outcomes of ``items`` by name, ``[sets, items]``, with each set erased; ``[items]`` of the model where None. What
    takes long is several entries, of some items each."""

    def task(some: EvaluationItems) -> Task:
        def make() -> Arrays:
            return arrays_of(evaluate(study.weights(), some.prepared, sets))

        return keyed(study, "outcomes", {"items": some.fingerprint, "sets": places_of(sets)}, make)

    return [task(some) for some in _split(study, items, sets)]


def outcomes_in(
    entries: Iterator[Entry], study: Study, items: EvaluationItems, sets: Sets | None
) -> Mapping[str, np.ndarray]:
    """The outcomes by name, from the next entries, those of `outcome_tasks`."""
    found = [next(entries).arrays for _ in _split(study, items, sets)]
    return {name: np.concatenate([one[name] for one in found], axis=-1) for name in found[0]}


def _split(study: Study, items: EvaluationItems, sets: Sets | None) -> list[EvaluationItems]:
    """``items`` in parts that take `LONGEST_SECONDS` at most, as they are where they take no longer than that."""
    prepared, rate = items.prepared, RATES[study.settings.device.partition(":")[0]]
    work = evaluation_flops(study, items, 1 if sets is None else len(sets))
    parts = min(prepared.items, math.ceil(work / rate / LONGEST_SECONDS))
    if parts <= 1:
        return [items]
    cuts = [round(part * prepared.items / parts) for part in range(parts + 1)]
    return [
        replace(
            items,
            prepared=replace(prepared, all_items=prepared.all_items[first:last]),
            fingerprint=f"{items.fingerprint}, items {first} to {last}",
        )
        for first, last in pairwise(cuts)
    ]


def text_task(study: Study, texts: Sequence[str], sets: Sets | None) -> Task:
    """Nats a token of general ``texts``, as ``nats [sets, texts]``, with each set erased; one row where None."""

    def make() -> Arrays:
        return {"nats": np.atleast_2d(text_loss(study.weights(), texts, sets))}

    return keyed(study, "text loss", {"texts": list(texts), "sets": places_of(sets)}, make)


def evaluation_flops(study: Study, items: EvaluationItems, sets: int = 1) -> float:
    """Of one teacher-forced pass of every item for each set; a token that is written counts for as many as could be
    read meanwhile. A text ends half-way to the longest that it may be."""
    lm, prepared = study.lm, items.prepared
    tokens = sum(len(one.tokens.input_ids) for one in prepared.all_items)
    written = prepared.items * prepared.max_new_tokens / 2 if prepared.scoring.reads == "text" else 0.0
    if study.settings.device == "cpu" or not written:
        return 2.0 * lm.num_parameters * (tokens + WRITING_ON_CPU * written) * sets
    context = tokens / prepared.items + prepared.max_new_tokens
    held_up = costs.held_up_flops(shape_of(lm), lm.dtype.itemsize, context)
    return (2.0 * lm.num_parameters * tokens + held_up * written) * sets


def in_datasets(study: Study, spec: Callable[[str], Spec[Result]]) -> dict[str, Result]:
    """The result of ``spec``, such as `Items`, for every dataset of the study that can be located and evaluated on."""
    found = {}
    for dataset in study.available():
        with suppress(NotRunError):
            found[dataset] = study.result(spec(dataset))
    return found


def places_of(sets: Tensor | None) -> list[list[int]] | None:
    """Each set's neurons, numbered through the layers."""
    return None if sets is None else [one.ravel().nonzero()[:, 0].tolist() for one in sets]


def arrays_of(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Outcomes by name, to be stored: ``score`` and ``nll`` float64, ``exact`` and ``ended`` bool."""
    floats = {name: np.asarray(getattr(outcomes, name), np.float64) for name in ("score", "nll")}
    return {**floats, **{name: np.asarray(getattr(outcomes, name), bool) for name in ("exact", "ended")}}


def floor_effect(
    dataset: str, score: np.ndarray, chance: float, least_loss: float, level: float = 0.05
) -> str | None:
    """Why no loss of score can show on a dataset, in words; None where one can.

    The base must be above chance, and by more than the least loss that counts: 0.38 % right leave nothing to lose.
    """
    base = f"floor effect: the untouched model scores {score.mean():.1%} on {dataset}"
    if not above_chance(score, chance, level=level):
        return f"{base}, not above chance ({chance:.1%}), so no loss can show".replace("%", " %")
    if score.mean() - chance <= least_loss:
        return (
            f"{base}, not {100 * least_loss:g} points above chance ({chance:.1%}), so no loss that counts can show"
        ).replace("%", " %")
    return None


def check_disjoint(dataset: str, locating: Sequence[Example], evaluating: Sequence[Example]) -> None:
    """Refuse items that were located on, by id or by prompt.

    Raises:
        DatasetError: names the first of them.
    """
    ids, prompts = {one.id for one in locating}, {one.prompt for one in locating}
    for one in evaluating:
        if one.id in ids or one.prompt in prompts:
            raise DatasetError(
                f"{dataset}: item {one.id!r} is evaluated on and was located on; separate the two parts, "
                f"{dataset}_train and {dataset}_test"
            )


def _examples(study: Study, dataset: str, wanted: int | None) -> tuple[list[Example], list[str]]:
    """What ``wanted`` items can be drawn from, and notes of what was left out."""
    part = study.drawn_from(dataset, "evaluate", wanted)
    check_disjoint(dataset, study.located(dataset).examples, part.examples)
    elsewhere = {
        one.prompt for other in study.available() if other != dataset for one in study.located(other).examples
    }
    kept = [one for one in part.examples if one.prompt not in elsewhere]
    lost = len(part.examples) - len(kept)
    note = [f"{lost} items of {dataset} left out: another dataset locates with them"] if lost else []
    return kept, [*part.left_out, *note]


def _wanted(study: Study, dataset: str) -> int | None:
    """How many items: ``--samples``, or what a CPU can do, or at most the paper's number (section 5.3)."""
    settings, known = study.settings, DATASETS.get(dataset)
    if settings.samples is not None or settings.device == "cpu":
        return settings.samples or CPU_ITEMS
    return known.paper_samples if known else None
