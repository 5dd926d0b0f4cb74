"""Sets of equal size by every method that is compared (``caploc.locators.compared``), from means over the same samples
of a dataset.

CNL cuts by eq. (8), and as many neurons as pass are what every other method may name: those that it ranks highest. A
method that ranks layers, not neurons, gets the largest neurons of its best layer, and where that has too few, those of
the next. The size of neurons is the measure of the locator of plain magnitude, which is a rival of its own, too.

Half-split overlap is taken of every method on the same splits. Splits of one set of samples share their samples: they
are no independent repetitions, and a sign-flip test over them rejects ever more often the more of them are drawn. What
is independent is the samples. So interval and p come from a Bayesian bootstrap over samples (Rubin 1981): each resample
weighs the samples anew (Dirichlet) and splits them once, so that no sample stands in both halves, as one drawn twice in
the ordinary bootstrap would. A resample's halves hold less information than real ones and overlap less, whatever the
method: only its deviation from the mean of all is used. With one split a resample the spread is that of a single split,
wider than that of the mean over splits: of two methods that are equally good, the 95 % interval leaves out 0 in fewer
than 5 % of samples. Taking the splits' part out would make it too narrow by a third.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from caploc.errors import ModelError
from caploc.evaluation import evaluate
from caploc.experiments.evaluating import EvaluationItems, Items, PreparedItems, arrays_of, evaluation_flops
from caploc.experiments.locating import MOST_SHARDS, SCORES_AT_ONCE, Scores
from caploc.experiments.locating_facts import where
from caploc.experiments.specs import Arrays, FloorError, NotRunError, Spec, Task, keyed
from caploc.experiments.study import Study
from caploc.locators import LOCATORS, compared
from caploc.locators.method import Asked, Conditions, SampleMethod
from caploc.neurons import Threshold
from caploc.statistics import Effect, agreement, effect_of_centred_draws, sample_halves, weighted_halves
from caploc.store import Entry

CNL, SIZES = "cnl", "magnitude"
"""The locator that is compared with all others, and the one whose measure tells the size of neurons."""
CPU_SAMPLES = 32
"""On a CPU, unless ``--samples`` says how many; never more than ``MOST_SHARDS``, so that every sample is a shard."""
RESAMPLES = 1999
"""Six parts in some fifteen cells, which Holm corrects within and across, need 1,799."""
PASSES = 100.0
"""Roughly how many forward passes of a sample a method costs."""

Sets = Mapping[str, Bool[np.ndarray, "rows layers neurons"]]
"""By locator; all sets of a row are of one size."""
Overlaps = Mapping[str, Float[np.ndarray, " splits"]]


# ---------------------------------------------------------------------------------------- what each method measures


@dataclass(frozen=True)
class Evidence(Spec[np.ndarray]):
    """What a locator averages over the first samples of a dataset, ``[samples, ...]``, under a control.

    FloorError: the untouched model has nothing to lose on the dataset, so that no location is worth its hours.
    NotRunError: the dataset cannot be had here or has too few items, or the method cannot be applied to the model.
    """

    method: str
    dataset: str
    control: str = ""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Items(self.dataset)

    def tasks(self, study: Study) -> Iterable[Task]:
        floor = study.result(Items(self.dataset)).floor
        if floor is not None:
            raise FloorError(floor)
        method = method_of(study, self.method)
        lm = study.named(where(study, method, self.control))
        try:
            method.check(lm)
        except ModelError as error:
            raise NotRunError(str(error)) from error
        for one in self._asked(study):
            yield Task(method.key(lm, one), partial(self._measured, study, method, one))

    def _asked(self, study: Study) -> list[Asked]:
        wanted, device = study.settings.samples, study.settings.device
        count = CPU_SAMPLES if wanted is None and device == "cpu" else MOST_SHARDS
        tokens = Scores(self.dataset, self.control).examples(study)[:count]
        if self.control == "scrambled":  # which has no text
            return [Asked(one) for one in tokens]
        return [Asked(*pair) for pair in zip(tokens, study.located(self.dataset).examples, strict=False)]

    def _measured(self, study: Study, method: SampleMethod, one: Asked) -> tuple[Arrays, Mapping[str, Any]]:
        measure = study.hold(method, where(study, method, self.control), method.measuring)
        return measure(one), {"example": one.tokens.id}

    def read(self, study: Study, entries: Iterator[Entry]) -> np.ndarray:
        method, lm = method_of(study, self.method), study.named(self.control)
        return np.stack([method.evidence(lm, entry.arrays) for entry in entries])

    def flops(self, study: Study) -> float:
        tokens = sum(len(one.tokens.input_ids) for one in self._asked(study))
        return 2.0 * study.lm.num_parameters * tokens * PASSES


def method_of(study: Study, key: str) -> SampleMethod:
    """How a locator is averaged over samples, with the study's seed and reading of eq. (7)."""
    return LOCATORS[key].on_samples(Conditions(study.settings.seed, study.settings.attribution))


@dataclass(frozen=True, eq=False)
class Samples:
    """What all methods measured on the same K samples.

    Attributes:
        evidence: by locator ``[K, ...]``; CNL's first.
        ranks: by locator, how high its means, one a row, rank each neuron or each layer.
        left_out: the locators that cannot be applied to the model -> why.
    """

    evidence: Mapping[str, np.ndarray]
    ranks: Mapping[str, Callable[[np.ndarray], np.ndarray]]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """K."""
        return len(self.evidence[CNL])

    def only(self, evidence: np.ndarray) -> Samples:
        """CNL alone, on other evidence."""
        return Samples({CNL: evidence}, self.ranks)

    def located(self, weights: Float[np.ndarray, "rows samples"], threshold: Threshold) -> Sets:
        """What each method locates by means with the ``weights`` of a row."""
        normal = weights / weights.sum(1, keepdims=True)

        def ranked(key: str) -> np.ndarray:
            values = self.evidence[key]
            means = normal @ values.reshape(len(values), -1)
            return self.ranks[key](means.reshape(-1, *values.shape[1:]))

        found = {CNL: threshold.locate(ranked(CNL))}
        others = [key for key in self.evidence if key != CNL]
        if not others:
            return found
        counts, sizes = found[CNL].sum((1, 2)), ranked(SIZES)
        for key in others:
            ranks = sizes if key == SIZES else ranked(key)
            take = largest_in_best if ranks.ndim == 2 else largest
            found[key] = take(sizes, ranks, counts)
        return found


@dataclass(frozen=True)
class AllSamples(Spec[Samples]):
    """Every locator's evidence on a dataset. Raises what CNL's and plain magnitude's `Evidence` do."""

    dataset: str

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Evidence(key, self.dataset) for key in compared())

    def read(self, study: Study, entries: Iterator[Entry]) -> Samples:
        evidence = {CNL: study.result(Evidence(CNL, self.dataset))}
        left_out = {}
        for key in compared():
            try:
                evidence[key] = study.result(Evidence(key, self.dataset))
            except NotRunError as error:
                if key == SIZES:
                    raise
                left_out[key] = str(error)
        ranks = {key: partial(method_of(study, key).rank, study.lm) for key in evidence}
        return Samples(evidence, ranks, left_out)


# ------------------------------------------------------------------------------------------------ sets of equal size


def largest(sizes: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """In each row the ``counts [rows]`` highest of ``ranks [rows, layers, neurons]``, as a mask; of equal ones, as
    where methods vote, the larger by ``sizes``."""
    flat, flat_sizes = (values.reshape(len(values), -1) for values in (ranks, sizes))
    chosen = np.zeros(flat.shape, dtype=bool)
    for row, count in enumerate(counts):
        if count:
            least = np.partition(flat[row], -count)[-count]
            chosen[row] = flat[row] > least
            tied = np.flatnonzero(flat[row] == least)
            order = np.argsort(-flat_sizes[row, tied], kind="stable")
            chosen[row, tied[order[: count - chosen[row].sum()]]] = True
    return chosen.reshape(ranks.shape)


def largest_in_best(sizes: np.ndarray, layers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """In each row the ``counts [rows]`` largest of ``sizes [rows, layers, neurons]``, layer by layer, those of the
    highest ``layers [rows, layers]`` first; of equal layers the lower."""
    chosen = np.zeros(sizes.shape, dtype=bool)
    order = np.argsort(-layers, axis=1, kind="stable")
    for row, count in enumerate(counts):
        left = int(count)
        for layer in order[row]:
            take = min(left, sizes.shape[2])
            if not take:
                break
            chosen[row, layer, np.argpartition(sizes[row, layer], -take)[-take:]] = True
            left -= take
    return chosen


@dataclass(frozen=True)
class EqualSets(Spec[Mapping[str, Bool[np.ndarray, "layers neurons"]]]):
    """What each method locates on all samples of a dataset, as many neurons as pass a sigma. FloorError: none does."""

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield AllSamples(self.dataset)

    def read(
        self, study: Study, entries: Iterator[Entry]
    ) -> Mapping[str, Bool[np.ndarray, "layers neurons"]]:
        samples = study.result(AllSamples(self.dataset))
        whole = samples.located(np.ones((1, len(samples))), study.settings.threshold(self.sigma))
        if not whole[CNL].any():
            raise FloorError(f"floor effect: no neuron passes sigma {self.sigma:g} on the whole set")
        return {key: found[0] for key, found in whole.items()}


@dataclass(frozen=True, eq=False)
class WithoutSets:
    """Outcomes on ``items``, those of the dataset that was located on, by the method whose set is erased: ``score`` in
    0 to 1 and ``nll`` in nats a token of the reference answer."""

    items: EvaluationItems
    score: Mapping[str, Float[np.ndarray, " items"]]
    nll: Mapping[str, Float[np.ndarray, " items"]]


@dataclass(frozen=True)
class EqualSetsErased(Spec[WithoutSets]):
    """What the model still scores where each method's neurons are erased. Raises as `EqualSets`."""

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (EqualSets(self.dataset, self.sigma), Items(self.dataset))

    def tasks(self, study: Study) -> Iterable[Task]:
        items = study.result(Items(self.dataset))
        sets = torch.from_numpy(np.stack(list(study.result(EqualSets(self.dataset, self.sigma)).values())))

        def make() -> Arrays:
            return arrays_of(evaluate(study.weights(), items.prepared, sets))

        places = [one.nonzero().tolist() for one in sets]
        yield keyed(study, "outcomes", {"items": items.fingerprint, "sets": places}, make)

    def read(self, study: Study, entries: Iterator[Entry]) -> WithoutSets:
        (entry,) = entries
        keys = study.result(EqualSets(self.dataset, self.sigma))
        score, nll = (dict(zip(keys, entry.arrays[name], strict=True)) for name in ("score", "nll"))
        return WithoutSets(study.result(Items(self.dataset)), score, nll)

    def flops(self, study: Study) -> float:
        return evaluation_flops(study, study.result(PreparedItems(self.dataset)), len(compared()))


# ------------------------------------------------------------------------------------------------- half-split overlap


def half_splits(samples: Samples, threshold: Threshold, draws: int, seed: int) -> Overlaps:
    """``[draws]`` overlap of the halves' sets by every method, on the same random splits; nan where CNL locates nothing
    in a half."""
    first = sample_halves(len(samples), draws, seed)
    return _overlaps(samples, threshold, np.ones(first.shape), first)


def resampled(samples: Samples, threshold: Threshold, seed: int) -> Overlaps:
    """``[RESAMPLES]`` the same, each split with the samples weighed anew."""
    return _overlaps(samples, threshold, *weighted_halves(len(samples), RESAMPLES, seed))


def overlap_effect(splits: Overlaps, resamples: Overlaps, method: str, samples: int) -> Effect:
    """CNL's half-split overlap minus that of ``method``: the mean over splits, interval and p over ``samples``
    samples."""
    difference, other = (found[CNL] - found[method] for found in (splits, resamples))
    return effect_of_centred_draws(difference, other, samples)


def _overlaps(samples: Samples, threshold: Threshold, weights: np.ndarray, first: np.ndarray) -> Overlaps:
    """Of each row of ``weights [rows, samples]``, its samples split into the ``first`` half and the other."""
    at_once = max(1, SCORES_AT_ONCE // samples.evidence[CNL][0].size)
    parts: dict[str, list[np.ndarray]] = {}
    for begin in range(0, len(weights), at_once):
        rows = slice(begin, begin + at_once)
        one, other = (
            samples.located(weights[rows] * half, threshold) for half in (first[rows], ~first[rows])
        )
        for key in one:
            parts.setdefault(key, []).append(agreement(one[key], other[key]).overlap)
    return {key: np.concatenate(values) for key, values in parts.items()}
