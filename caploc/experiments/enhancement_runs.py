"""Every arm trained on one dataset and scored on all of the study's, run by run; and what a reader must know of it.

`Enhanced` names all runs of one dataset and sigma; `Trained` are those of several datasets, as tables have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from caploc.datasets import DATASETS
from caploc.evaluation import evaluate, text_loss
from caploc.experiments.enhancement_arms import (
    EPOCHS,
    GRID,
    HELD_OUT_EVERY,
    LAST,
    LOCATED,
    METHODS,
    PILOT_SHARE,
    PRINTED_RATE,
    RANDOM,
    RUNS,
    Arm,
    EnhancedArms,
    LearningRates,
    Rates,
    Run,
    TrainingExamples,
    epochs_of,
    recipe_of,
    runs_of,
    tokens_of,
    trained_at,
    training_examples,
    training_flops,
    training_key,
)
from caploc.experiments.evaluating import (
    EvaluationItems,
    GeneralText,
    Items,
    PreparedItems,
    evaluation_flops,
    in_datasets,
)
from caploc.experiments.specs import Arrays, FloorError, Need, NotRunError, Spec, Task, keyed
from caploc.experiments.study import Study, family
from caploc.findings import Cell, Measurement
from caploc.fingerprints import fingerprint
from caploc.interventions.enhancement import Recipe, enhance, enhanced
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.papers import Claim
from caploc.store import Entry

PAPER_DATASETS = ("gsm8k", "emotion", "code25k")
"""Those of Table 2."""


@dataclass(frozen=True, eq=False)
class Enhancements:
    """R runs trained on one dataset at one sigma, and scored after E epochs on the I items of each of the datasets.

    Attributes:
        runs: which arm, set and seed each is.
        score, nll: by evaluated dataset ``[R, E, I]``; nan after epochs that the arm is not scored after, on other
            datasets than the one trained on after all but the last, and from the epoch on that a diverged run did not
            reach.
        text: ``[R, E, texts]`` nats a token of general text, after the last epoch; no texts where none could be had.
        base_score, base_nll, base_text: the same of the untouched model, without runs and epochs.
        chance: by dataset, the score of guessing.
        losses: of each run, nats a token of every step.
        diverged: of each run, the step at which it was stopped; None where it was not.
        located: the located neurons.
        rates: of each arm, and how they were found.
        recipe: the settings that all runs share, of those of `Recipe.settings`.
        examples: how many were trained on; ``data_fingerprint`` is theirs.
    """

    trained_on: str
    sigma: float
    runs: Sequence[Run]
    score: Mapping[str, np.ndarray]
    nll: Mapping[str, np.ndarray]
    text: np.ndarray
    base_score: Mapping[str, np.ndarray]
    base_nll: Mapping[str, np.ndarray]
    base_text: np.ndarray
    chance: Mapping[str, float]
    losses: Sequence[np.ndarray]
    diverged: Sequence[int | None]
    located: NeuronMask
    rates: Rates
    recipe: Mapping[str, Any]
    examples: int
    data_fingerprint: str

    @property
    def datasets(self) -> list[str]:
        """Those that the runs were scored on."""
        return list(self.score)

    def indices(self, arm: str) -> list[int]:
        """The arm's runs that did not diverge; none for an arm that there is not."""
        return [
            index for index, run in enumerate(self.runs) if run.arm == arm and self.diverged[index] is None
        ]

    def of(self, arm: str, dataset: str, epoch: int, what: str = "score") -> np.ndarray:
        """``[runs, items]`` of an arm's runs after ``epoch``; ``what``: score or nll. Raises as `required`."""
        values: np.ndarray = getattr(self, what)[dataset]
        return np.asarray(values[self.required(arm), EPOCHS.index(epoch)])

    def texts_of(self, arm: str, epoch: int) -> np.ndarray:
        """``[runs, texts]`` nats a token of general text."""
        return np.asarray(self.text[self.required(arm), EPOCHS.index(epoch)])

    def required(self, arm: str) -> list[int]:
        """As `indices`. Raises FloorError where there are none, as all diverged."""
        found = self.indices(arm)
        if not found:
            raise FloorError(
                f"every run of the arm {arm!r} on {self.trained_on} diverged: the rate is too high"
            )
        return found

    @property
    def lost(self) -> list[tuple[Run, int]]:
        """The runs that diverged, each with the step at which it was stopped."""
        return [(run, step) for run, step in zip(self.runs, self.diverged, strict=True) if step is not None]


@dataclass(frozen=True)
class BaseText(Spec[np.ndarray]):
    """Nats a token of general text ``[texts]`` before training."""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield GeneralText()

    def tasks(self, study: Study) -> Iterable[Task]:
        texts = study.result(GeneralText())

        def make() -> Arrays:
            return {"nll": np.asarray(text_loss(study.weights(), texts), np.float64)}

        if texts:
            yield keyed(study, "text loss", {"texts": list(texts)}, make)

    def read(self, study: Study, entries: Iterator[Entry]) -> np.ndarray:
        for entry in entries:
            return entry.arrays["nll"]
        return np.zeros(0)


@dataclass(frozen=True)
class Enhanced(Spec[Enhancements]):
    """Everything trained on a dataset with the neurons that it locates at a sigma.

    NotRunError: a dataset of the study cannot be evaluated on here. FloorError: no neuron, or every neuron, is located.
    """

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield EnhancedArms(self.dataset, self.sigma)
        yield LearningRates(self.dataset, self.sigma)
        yield TrainingExamples(self.dataset)
        yield from map(Items, study.available())
        yield BaseText()

    def _runs(self, study: Study) -> list[tuple[Run, Arm, Recipe]]:
        arms = study.result(EnhancedArms(self.dataset, self.sigma))
        rates = study.result(LearningRates(self.dataset, self.sigma)).chosen
        return [
            (run, arms[arm], recipe_of(rates[arm], epochs_of(arm), run.seed))
            for arm in trained_at(study, self.sigma)
            if arm in arms
            for run in runs_of(arm, study.settings.seed)
        ]

    def tasks(self, study: Study) -> Iterable[Task]:
        runs = self._runs(study)
        examples, texts = training_examples(study, self.dataset), study.result(GeneralText())
        tested = _tested(study)
        further = {
            "items": {name: one.fingerprint for name, one in tested.items()},
            "texts": list(texts),
            "trained on": self.dataset,
        }
        for run, arm, recipe in runs:
            mask = arm.sets[run.draw]
            key = training_key(study, "enhancement", mask, arm.zeroed, recipe, further, training=examples)
            yield Task(key, partial(self._trained, study, mask, arm.zeroed, recipe))

    def _trained(
        self, study: Study, mask: NeuronMask, zeroed: NeuronMask | None, recipe: Recipe
    ) -> tuple[Arrays, Mapping[str, Any]]:
        lm, tested, texts = study.weights(), _tested(study), study.result(GeneralText())
        trained = enhance(lm, mask, training_examples(study, self.dataset), recipe, zeroed=zeroed)
        arrays = {
            f"{what}:{name}": np.full((len(EPOCHS), len(items)), np.nan)
            for name, items in tested.items()
            for what in ("score", "nll")
        }
        arrays["text"] = np.full((len(EPOCHS), len(texts)), np.nan)
        for epoch, difference in trained.at.items():
            with enhanced(lm, difference):
                scored = tested if epoch == LAST else {self.dataset: tested[self.dataset]}
                _score(lm, scored, texts if epoch == LAST else (), arrays, EPOCHS.index(epoch))
        return {**arrays, "losses": trained.losses}, {"diverged": trained.diverged}

    def read(self, study: Study, entries: Iterator[Entry]) -> Enhancements:
        runs, found, tested = self._runs(study), list(entries), _tested(study)
        examples = training_examples(study, self.dataset)

        def stacked(what: str) -> dict[str, np.ndarray]:
            return {name: np.stack([entry.arrays[f"{what}:{name}"] for entry in found]) for name in tested}

        return Enhancements(
            trained_on=self.dataset,
            sigma=self.sigma,
            runs=[run for run, _, _ in runs],
            score=stacked("score"),
            nll=stacked("nll"),
            text=np.stack([entry.arrays["text"] for entry in found]),
            base_score={name: items.base["score"] for name, items in tested.items()},
            base_nll={name: items.base["nll"] for name, items in tested.items()},
            base_text=study.result(BaseText()),
            chance={name: items.chance for name, items in tested.items()},
            losses=[entry.arrays["losses"] for entry in found],
            diverged=[entry.meta["diverged"] for entry in found],
            located=study.result(EnhancedArms(self.dataset, self.sigma))[LOCATED].sets[0],
            rates=study.result(LearningRates(self.dataset, self.sigma)),
            recipe=runs[0][2].settings,
            examples=len(examples),
            data_fingerprint=fingerprint(tokens_of(examples)),
        )

    def flops(self, study: Study) -> float:
        found = in_datasets(study, PreparedItems)
        once = sum(evaluation_flops(study, items) for items in found.values())
        own = evaluation_flops(study, found[self.dataset]) if self.dataset in found else 0.0
        return sum(
            RUNS[arm]
            * (training_flops(study, self.dataset, LAST, arm) + once + (len(epochs_of(arm)) - 1) * own)
            for arm in trained_at(study, self.sigma)
        )


def trained_datasets(study: Study) -> list[str]:
    """What is trained on: the datasets of Table 2 that the study has, or else all that it has.

    Raises:
        NotRunError: none can be had here.
    """
    names = study.available()
    found = [name for name in PAPER_DATASETS if name in names] or names
    if not found:
        raise NotRunError("none of the run's datasets can be had here; give another --dataset or --data-root")
    return found


@dataclass(frozen=True, eq=False)
class Trained:
    """What was trained at one sigma, by dataset trained on, as the basis of a measurement on ``study``.

    An embedded model's final weights leave nothing to learn: its early checkpoint is located and trained instead.
    """

    study: Study
    by_dataset: Mapping[str, Enhancements]
    left_out: Sequence[str] = ()

    @staticmethod
    def needs(study: Study, cell: Cell, claim: Claim) -> Iterator[Need]:
        """What `of` reads."""
        yield from (Need(study.early, one) for one in _trainings(study, cell))

    @classmethod
    def of(cls, study: Study, cell: Cell, claim: Claim) -> Trained:
        """On every one of `trained_datasets`. Raises as `Enhanced`."""
        return cls(study, {one.dataset: study.early.result(one) for one in _trainings(study, cell)})

    def beside(self, found: Measurement) -> Measurement:
        """A measurement on them, with base scores on all datasets, and how many neurons each dataset trained on
        locates."""
        base = {f"base, {name}": float(score.mean()) for name, score in self._one.base_score.items()}
        located = {f"located on {name}": float(one.located.count) for name, one in self.by_dataset.items()}
        asides = {**found.asides, **base, **located}
        return replace(found, asides=asides, n=self.items, draws=RUNS[RANDOM], basis=[self])

    @property
    def items(self) -> int:
        """How many items all datasets trained on have."""
        return sum(len(one.base_score[name]) for name, one in self.by_dataset.items())

    def has(self, arm: str) -> bool:
        """Whether the arm was trained on every dataset, and not all of its runs diverged."""
        return all(one.indices(arm) for one in self.by_dataset.values())

    def divergence(self, *arms: str) -> str | None:
        """Why a measurement that rests on ``arms`` is uninformative: some of their runs diverged. They are left out,
        and leaving out what went wrong favours the arm."""
        lost = [
            f"{run.arm} on {name}"
            for name, one in self.by_dataset.items()
            for run, _ in one.lost
            if run.arm in arms
        ]
        if not lost:
            return None
        return (
            f"training diverged in {len(lost)} runs ({', '.join(dict.fromkeys(lost))}): the rate is too high"
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            **checkpoint(self.study),
            "trained_on": list(self.by_dataset),
            "evaluated_on": self._one.datasets,
            "optimizer": "Adam, constant rate, no decay",
            "trained_weights": "rows into the MLP, column out of it",
            "training_examples": {name: one.examples for name, one in self.by_dataset.items()},
            "runs": {arm: len(self._one.indices(arm)) for arm in RUNS},
            "learning_rates": {name: dict(one.rates.chosen) for name, one in self.by_dataset.items()},
            "data_fingerprint": fingerprint([one.data_fingerprint for one in self.by_dataset.values()])[:16],
            **{name: value for name, value in self._one.recipe.items() if name not in ("lr", "seed")},
        }
        if self._one.rates.pilots:
            found["rate_grid"] = list(GRID)
            found["rate_pilots"] = {name: one.rates.pilots for name, one in self.by_dataset.items()}
            found["pilot_of_located_at_printed_rate"] = {
                name: one.rates.printed for name, one in self.by_dataset.items()
            }
        return found

    @property
    def notes(self) -> Sequence[str]:
        early, notes = self.study.early, list(self.left_out)
        if early is not self.study:
            notes.append(
                f"{early.model}, an early checkpoint, is located and trained in place of {self.study.model}, which "
                "leaves nothing to learn"
            )
        if self._one.rates.pilots:
            notes.append(
                f"the printed rate {PRINTED_RATE:g} hardly moves so small a model: each arm has that rate of the grid "
                f"with the lowest loss on every {HELD_OUT_EVERY}th locating example in a pilot of as many updates on a "
                f"{PILOT_SHARE}th of the examples"
            )
        for name, one in self.by_dataset.items():
            paper = DATASETS[name].paper_samples if name in DATASETS else None
            if paper is not None and one.examples < paper:
                notes.append(
                    f"trained on {one.examples} examples of {name}, the paper on {paper} (section 5.3)"
                )
            for run, step in one.lost:
                notes.append(
                    f"diverged on {name}: {run.arm}, set {run.draw}, seed {run.seed}, at step {step}"
                )
        if not set(PAPER_DATASETS) <= set(self.by_dataset):
            notes.append(f"trained on {', '.join(self.by_dataset)}; Table 2 has {', '.join(PAPER_DATASETS)}")
        runs = ", ".join(f"{RUNS[arm]} of {arm}" for arm in METHODS)
        notes.append(f"training runs: {runs}; the paper prints one of each")
        absent = [arm for arm in RUNS if arm not in METHODS and not self.has(arm)]
        if absent:
            notes.append(f"not trained here, though nothing rests on it: {'; '.join(absent)}")
        return notes

    @property
    def _one(self) -> Enhancements:
        return next(iter(self.by_dataset.values()))


def _trainings(study: Study, cell: Cell) -> list[Enhanced]:
    return [Enhanced(name, float(cell.sigma or 0)) for name in trained_datasets(study.early)]


on_trained = family(Trained.needs, Trained.of, Trained.beside)
"""Claims about what was trained."""


def checkpoint(study: Study) -> dict[str, Any]:
    """Which weights are located and trained in a study."""
    early = study.early
    found: dict[str, Any] = {"checkpoint": early.model}
    return found if early is study else {**found, "model_fingerprint": early.lm.fingerprint[:16]}


def _tested(study: Study) -> dict[str, EvaluationItems]:
    """The items of all of the study's datasets. Raises NotRunError where one has none."""
    return {name: study.result(Items(name)) for name in study.available()}


def _score(
    lm: LanguageModel,
    tested: Mapping[str, EvaluationItems],
    texts: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    place: int,
) -> None:
    """Fills in what the model as it is now makes of everything, after the epoch at ``place``."""
    for name, items in tested.items():
        outcomes = evaluate(lm, items.prepared)
        arrays[f"score:{name}"][place], arrays[f"nll:{name}"][place] = outcomes.score, outcomes.nll
    if texts:
        arrays["text"][place] = text_loss(lm, texts)
