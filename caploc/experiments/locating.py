"""Locating on a study's datasets: scores in shards, masks of many subsets of them, magnitudes, scrambled text.

Scores are summed shard by shard, in the store, so that a run resumes, processes share the work, and halves, curves and
bootstraps are recombinations of shards: one pass over a dataset feeds them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from caploc.attribution.engine import Attributor, packed_flops
from caploc.datasets import DATASETS
from caploc.examples import TokenizedExample, counted
from caploc.experiments.specs import Arrays, Spec, Task, keyed
from caploc.experiments.study import Located, Study
from caploc.fingerprints import fingerprint
from caploc.locators.magnitude import Magnitude, magnitude
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask, ScoreSums, Threshold
from caploc.statistics import Shards
from caploc.statistics.splits import SMALLEST_HALF
from caploc.store import Entry
from caploc.streams import Stream, stream

# Part of every key of scores: raise it when a change of the engine changes numbers by more than rounding.
CODE_VERSION = 1
# Splits, curves and partitions recombine shards, so there must be many; each is a file of two float64 per neuron. Of as
# many examples as a CPU takes each is one of its own: halves by answer, say, are blurred where shards hold several.
MOST_SHARDS = 320
# Controls take as many of the examples as a doubling curve has that begins here; the model is compared with them at
# that number. Of twins it is their spread that counts, which examples add little to; scrambled text stands alone.
TWIN_EXAMPLES, SCRAMBLED_EXAMPLES = 40, 80
SCORES_AT_ONCE = (
    1 << 20
)  # float64: what a core's cache holds; larger pieces take twice the time in page faults


@dataclass(frozen=True, eq=False)
class ShardSums:
    """The scores of one set of examples, in K shards.

    ``totals [K, layers * neurons]`` float64 sums of scores, ``counts [K]`` examples in each, ``members`` the indices of
    each shard's examples. ``whole`` is the sum over all.
    """

    totals: np.ndarray
    counts: np.ndarray
    members: tuple[tuple[int, ...], ...]
    whole: ScoreSums

    @property
    def layers(self) -> int:
        return self.whole.total.shape[0]

    @property
    def neurons(self) -> int:
        """Neurons per layer."""
        return self.whole.total.shape[1]

    @classmethod
    def of(cls, parts: Sequence[ScoreSums], members: Sequence[Sequence[int]]) -> ShardSums:
        """From the sums of every shard. They are merged in their order: no result depends on who computed which."""
        return cls(
            np.stack([part.total.ravel() for part in parts]),
            np.array([part.count for part in parts]),
            tuple(map(tuple, members)),
            ScoreSums.merge(parts),
        )


def shard_members(examples: int) -> list[range]:
    """The examples of each shard, neighbours; one in each where that keeps the shards at ``MOST_SHARDS`` or fewer."""
    size = max(1, math.ceil(examples / MOST_SHARDS))
    return [range(begin, min(begin + size, examples)) for begin in range(0, examples, size)]


def control_examples(examples: int, control: str) -> int:
    """Of so many, how many a control takes: the least of the model's own curve (`caploc.statistics.growing`) that is
    not below what it needs, or all of fewer."""
    needed = SCRAMBLED_EXAMPLES if control == "scrambled" else TWIN_EXAMPLES
    members = shard_members(examples)
    count, size = len(members), len(members[0])
    while count // 2 >= 2 * SMALLEST_HALF and count // 2 * size >= needed:
        count //= 2
    return min(examples, count * size)


@dataclass(frozen=True)
class Scores(Spec[ShardSums]):
    """Eq. (7) on a dataset's locating examples, in shards, under a control (`caploc.experiments.study.Study`): of a
    control, on the first `control_examples` of them.

    All of the study's datasets are read and tokenized first: a bad record in the last of them is not found out after
    hours of work on the first.
    """

    dataset: str
    control: str = ""

    def examples(self, study: Study) -> Sequence[TokenizedExample]:
        """What is attributed."""
        study.available()
        tokenized = study.located(self.dataset).tokenized
        if self.control:
            tokenized = tokenized[: control_examples(len(tokenized), self.control)]
        if self.control == "scrambled":
            return scrambled(tokenized, study.settings.seed, study.lm.tokenizer.bos_token_id)
        return tokenized

    def tasks(self, study: Study) -> Iterable[Task]:
        examples, method = self.examples(study), study.settings.attribution
        lm = study.named(self._where(study))
        for shard in shard_members(len(examples)):
            chosen = [examples[index] for index in shard]
            key = {
                "what": "score sums",
                "code": CODE_VERSION,
                "model": lm.fingerprint,
                "dtype": str(lm.dtype),
                "device": lm.device.type,
                "method": method.settings,
                "examples": [example.content for example in chosen],
            }
            yield Task(fingerprint(key), partial(self._sums, study, chosen))

    def _where(self, study: Study) -> str:
        """One neuron at a time is attributed in float32."""
        return study.precise(self.control) if study.settings.attribution.path == "neuron" else self.control

    def _sums(self, study: Study, chosen: Sequence[TokenizedExample]) -> tuple[Arrays, Mapping[str, Any]]:
        method = study.settings.attribution

        def attach(lm: LanguageModel) -> Attributor:
            return Attributor(lm, method)

        sums = study.hold(method, self._where(study), attach).sums(chosen)
        return sums.arrays(), {"examples": [example.id for example in chosen]}

    def read(self, study: Study, entries: Iterator[Entry]) -> ShardSums:
        parts = [ScoreSums.from_arrays(entry.arrays) for entry in entries]
        return ShardSums.of(parts, shard_members(sum(part.count for part in parts)))

    def flops(self, study: Study) -> float:
        tokenized = study.located(self.dataset).tokenized
        taken = tokenized[: control_examples(len(tokenized), self.control)] if self.control else tokenized
        return packed_flops(study.lm, taken, study.settings.attribution)

    def size(self, study: Study) -> float:
        """Sums and sums of squares of every shard."""
        neurons = study.lm.num_layers * study.lm.num_neurons
        return 16.0 * neurons * sum(1 for _ in shard_members(len(study.located(self.dataset).tokenized)))


@dataclass(frozen=True)
class Magnitudes(Spec[Magnitude]):
    """How large every neuron is on all of a dataset's locating examples (`caploc.locators.magnitude`)."""

    dataset: str

    def tasks(self, study: Study) -> Iterable[Task]:
        tokenized = study.located(self.dataset).tokenized

        def make() -> Arrays:
            return {"values": magnitude(study.weights(), tokenized).values.numpy()}

        yield keyed(study, "magnitude", {"examples": [one.content for one in tokenized]}, make)

    def read(self, study: Study, entries: Iterator[Entry]) -> Magnitude:
        (entry,) = entries
        return Magnitude(torch.from_numpy(np.array(entry.arrays["values"])))

    def flops(self, study: Study) -> float:
        tokens = sum(len(one.input_ids) for one in study.located(self.dataset).tokenized)
        return 2.0 * study.lm.num_parameters * tokens


def located_mask(study: Study, dataset: str, sigma: float, control: str = "") -> NeuronMask:
    """Eq. (8) at ``sigma`` on all of the dataset's locating examples. Raises NotRunError."""
    return NeuronMask(
        torch.from_numpy(whole_mask(study.result(Scores(dataset, control)), study.settings.threshold(sigma)))
    )


def mean_scores(shards: ShardSums, chosen: Sequence[np.ndarray]) -> np.ndarray:
    """``[subsets, layers * neurons]`` mean scores over each subset of shards; repeats count as often as they stand."""
    weights = np.zeros((len(chosen), len(shards.counts)))
    for row, subset in zip(weights, chosen, strict=True):
        np.add.at(row, subset, 1.0)
    return (weights @ shards.totals) / (weights @ shards.counts)[:, None]


def masks(shards: ShardSums, chosen: Sequence[np.ndarray], threshold: Threshold) -> np.ndarray:
    """``[subsets, layers, neurons]`` bool: eq. (8) on each subset's mean scores."""
    at_once = max(1, SCORES_AT_ONCE // shards.totals.shape[1])
    parts = []
    for begin in range(0, len(chosen), at_once):
        scores = mean_scores(shards, chosen[begin : begin + at_once])
        parts.append(threshold.locate(scores.reshape(-1, shards.layers, shards.neurons)))
    return np.concatenate(parts)


def whole_mask(shards: ShardSums, threshold: Threshold) -> np.ndarray:
    """``[layers, neurons]`` bool: eq. (8) on all examples."""
    mask: np.ndarray = masks(shards, [np.arange(len(shards.counts))], threshold)[0]
    return mask


def whole_ratio(shards: ShardSums, threshold: Threshold) -> float:
    """The neuron ratio (eq. 9) on all examples: located over all neurons."""
    return float(whole_mask(shards, threshold).mean())


def to_split(shards: ShardSums, threshold: Threshold) -> Shards:
    """The shards as what splits and resamples are made of, with eq. (8) as the way to locate."""
    return Shards(len(shards.counts), lambda chosen: masks(shards, chosen, threshold))


def scrambled(
    examples: Sequence[TokenizedExample], seed: int, first_token: int | None = None
) -> list[TokenizedExample]:
    """Text without meaning but with the same tokens: prompts shuffled inside, answers dealt out anew and shuffled.

    A prompt that begins with ``first_token``, the beginning-of-sequence token, keeps it in its place.
    """
    generator = stream(Stream.SCRAMBLED, seed)
    longest = max(len(example.input_ids) for example in examples)
    dealt = generator.permutation(len(examples))
    result = []
    for example, donor in zip(examples, (examples[index] for index in dealt), strict=True):
        fixed = int(example.input_ids[0] == first_token) if first_token is not None else 0
        order = fixed + generator.permutation(example.answer_start - fixed)
        prompt = example.prompt_ids[torch.from_numpy(np.concatenate([np.arange(fixed), order]))]
        answer = donor.answer_ids[torch.from_numpy(generator.permutation(donor.num_answer_tokens))]
        answer = answer[: longest - len(prompt)]  # never beyond what fitted the context
        result.append(TokenizedExample(torch.cat([prompt, answer]), len(prompt), f"{example.id}-scrambled"))
    return result


@dataclass(frozen=True)
class LocatedOn:
    """A dataset's locating examples as a measurement's basis: with their scores' completeness, where there are any."""

    located: Located
    scores: ShardSums | None = None

    @classmethod
    def of(cls, study: Study, dataset: str) -> LocatedOn:
        """The dataset with the scores of the model itself."""
        return cls(study.located(dataset), study.result(Scores(dataset)))

    @property
    def settings(self) -> Mapping[str, Any]:
        if self.scores is None:
            return {}
        whole = self.scores.whole
        named = {
            "completeness_error": whole.completeness,
            "completeness_gap": whole.gap,
            "points": whole.points,
        }
        means = {name: [float(value) for value in values / whole.count] for name, values in named.items()}
        return {"data_fingerprint": self.located.fingerprint, **means}

    @property
    def notes(self) -> Sequence[str]:
        dataset, count = self.located.dataset, len(self.located.tokenized)
        paper = DATASETS[dataset].paper_samples if dataset in DATASETS else None
        notes = []
        if paper is not None and count < paper:
            notes.append(
                f"{count} examples of {dataset}, the paper locates with {paper} (section 5.3); "
                "overlap grows with their number"
            )
        lost = counted(self.located.excluded)
        notes += [f"{number} examples of {dataset} left out: {why}" for number, why in lost]
        return [*notes, *self.located.left_out]
