"""One model under study: its examples, its controls and their scores, each made once and kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from caploc.datasets import DATASETS, load_examples
from caploc.errors import (
    CaplocError,
    OptionError,
    TooLongError,
    UnavailableDatasetError,
    UnavailableModelError,
)
from caploc.examples import Example, Exclusion, TokenizedExample, fit
from caploc.experiments import FEWEST_SAMPLES
from caploc.experiments.scrambled import scrambled
from caploc.experiments.settings import CPU_SAMPLES, PAPER_SIGMA, StudySettings
from caploc.experiments.shards import ShardSums, sharded_sums
from caploc.fingerprints import fingerprint
from caploc.model.loading import LanguageModel, load_model, untrained_twin
from caploc.model.registry import REGISTRY, embedded_folder

__all__ = [
    "CPU_SAMPLES",
    "PAPER_SIGMA",
    "Located",
    "NotRunError",
    "Study",
    "StudySettings",
    "pairs",
    "scrambled",
]

Made = TypeVar("Made")

CONTROLS = ("", "untrained", "scrambled")


class NotRunError(CaplocError):
    """A cell cannot be measured here, through no fault of the claim; the message is a reason a user can act on."""


@dataclass(frozen=True)
class Located:
    """A dataset's locating examples for this model, with those that did not fit."""

    examples: Sequence[Example]
    tokenized: Sequence[TokenizedExample]
    excluded: Sequence[Exclusion]


class Study:
    """A model with its controls, loaded when first needed.

    ``shards(dataset, control)`` gives scores on the locating part of a dataset:

    ============== =====================================================================================
    ``""``         the model itself
    ``untrained``  its untrained twin (same architecture, fresh weights) on the same text
    ``scrambled``  the model on text without meaning: each prompt's tokens shuffled, answers dealt out anew
                   among the examples and their tokens shuffled
    ============== =====================================================================================
    """

    def __init__(self, model: str, settings: StudySettings, lm: LanguageModel | None = None) -> None:
        self.model, self.settings = model, settings
        self._given = lm
        self._located: dict[str, Located | NotRunError] = {}
        self._shards: dict[tuple[str, str], ShardSums] = {}
        self._made: dict[Hashable, Any] = {}

    @cached_property
    def lm(self) -> LanguageModel:
        """The model. Raises NotRunError where it cannot be had here: gated, absent, no network."""
        if self._given is not None:
            return self._given
        try:
            return load_model(self.model, self.settings.device, self.settings.dtype)
        except UnavailableModelError as error:
            raise NotRunError(str(error)) from error

    @cached_property
    def untrained(self) -> LanguageModel:
        return untrained_twin(self.lm, self.settings.seed)

    @cached_property
    def early(self) -> Study:
        """The study of the model's early checkpoint under the same settings, or this study where there is none."""
        snapshot = REGISTRY[self.model].early if self.model in REGISTRY else ""
        return Study(snapshot, self.settings) if snapshot else self

    def located(self, dataset: str) -> Located:
        """The locating examples of ``dataset``, tokenized.

        Raises:
            NotRunError: the dataset cannot be had here, or too few of its examples fit the model.
        """
        if dataset not in self._located:
            try:
                self._located[dataset] = self._load(dataset)
            except NotRunError as error:
                self._located[dataset] = error
        found = self._located[dataset]
        if isinstance(found, NotRunError):
            raise found
        return found

    def shards(self, dataset: str, control: str = "") -> ShardSums:
        """Scores on ``dataset``; raises what ``located`` and ``sharded_sums`` raise.

        All of the study's datasets are read and tokenized first: a bad record in the last of them is not found out
        after hours of work on the first.
        """
        if control not in CONTROLS:
            raise OptionError(f"unknown control {control!r}; choose one of {', '.join(map(repr, CONTROLS))}")
        self.available()
        key = (dataset, control)
        if key not in self._shards:
            tokenized = self.located(dataset).tokenized
            lm = self.model_for(control)
            if control == "scrambled":
                tokenized = scrambled(tokenized, self.settings.seed, lm.tokenizer.bos_token_id)
            self._shards[key] = sharded_sums(lm, tokenized, self.settings.attribution, self.settings.store)
        return self._shards[key]

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` gave for ``key`` the first time, for results that several experiments need."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def model_for(self, control: str = "") -> LanguageModel:
        """The model, or for the control ``untrained`` its twin. A GPU holds one of the two at a time: it was asked to
        have room for one."""
        device = self.settings.device
        if device == "cpu":
            return self.untrained if control == "untrained" else self.lm
        if control == "untrained":
            self.lm.move("cpu")
            wanted = self.untrained  # the first time it is made beside the model, on the CPU
        else:
            wanted = self.lm
            if "untrained" in vars(self):
                self.untrained.move("cpu")
        wanted.move(device)
        return wanted

    def available(self) -> list[str]:
        """The study's datasets that can be had here, in order."""
        found = []
        for dataset in self.settings.datasets:
            try:
                self.located(dataset)
            except NotRunError:
                continue
            found.append(dataset)
        return found

    def record(self, dataset: str | None = None) -> dict[str, Any]:
        """What a finding says of how it came about."""
        settings = self.settings
        method = settings.attribution
        record: dict[str, Any] = {
            **settings.reading.settings,
            **method.settings,
            "seed": settings.seed,
            "dtype": settings.dtype,
            "device": settings.device,
            "model_fingerprint": self.lm.fingerprint[:16],
        }
        if method.path == "neuron":
            record["neuron_path_samples"] = settings.neuron_path_samples
        if dataset is not None:
            whole = self.shards(dataset).whole
            record["data_fingerprint"] = fingerprint(
                [example.content for example in self.located(dataset).tokenized]
            )[:16]
            record["completeness_error"] = [float(value) for value in whole.completeness / whole.count]
            record["completeness_gap"] = [float(value) for value in whole.gap / whole.count]
            record["points"] = [float(value) for value in whole.points / whole.count]
        return record

    def _load(self, dataset: str) -> Located:
        settings = self.settings
        try:
            examples = load_examples(
                dataset,
                self.source(dataset),
                split="locate",
                limit=self._samples(dataset),
                seed=settings.seed,
                form=settings.reading.gsm8k_form if dataset == "gsm8k" else "free",
            )
        except UnavailableDatasetError as error:
            raise NotRunError(str(error)) from error
        try:
            tokenized, excluded = fit(self.lm, examples)
        except TooLongError as error:
            raise NotRunError(str(error)) from error
        if len(tokenized) < FEWEST_SAMPLES:
            raise NotRunError(
                f"{dataset} has {len(tokenized)} examples that fit {self.lm.name} ({len(excluded)} too long), and "
                f"{FEWEST_SAMPLES} are the fewest that can be halved; give more data"
            )
        left_out = {exclusion.id for exclusion in excluded}
        return Located([example for example in examples if example.id not in left_out], tokenized, excluded)

    def source(self, dataset: str) -> str | None:
        """Where a dataset's records are read from, the ``path`` of ``load_examples``; None for the hub."""
        settings = self.settings
        if dataset in settings.files:
            return settings.files[dataset]
        if settings.data_root is not None:
            return settings.data_root
        if self.model in REGISTRY and REGISTRY[self.model].embedded:
            return str(embedded_folder(self.model).parents[1] / "data")
        return None

    def _samples(self, dataset: str) -> int | None:
        wanted, most = self._wanted_samples(dataset), self.settings.neuron_path_samples
        if self.settings.attribution.path == "layer" or most is None:
            return wanted
        return most if wanted is None else min(wanted, most)

    def _wanted_samples(self, dataset: str) -> int | None:
        if self.settings.samples is not None:
            return self.settings.samples
        if self.settings.device == "cpu":
            return CPU_SAMPLES
        return DATASETS[dataset].paper_samples if dataset in DATASETS else None


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """All unordered pairs, in order."""
    return list(itertools.combinations(names, 2))
