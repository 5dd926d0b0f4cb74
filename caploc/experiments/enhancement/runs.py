"""Trains every arm on one dataset and scores it on all of the study's, run by run through the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from caploc.evaluation import evaluate, text_loss
from caploc.examples import TokenizedExample
from caploc.experiments.endings import FloorError
from caploc.experiments.enhancement.arms import NEAREST, UNIFORM, Arm, Run, arms_of, located_mask, runs_of
from caploc.experiments.enhancement.keys import key_of, tokens_of
from caploc.experiments.enhancement.rates import Rates, rates_of, recipe_of
from caploc.experiments.evaluation_data import EvaluationItems, evaluation_items
from caploc.experiments.facts.stored import stored
from caploc.experiments.general_text import general_texts
from caploc.experiments.study import PAPER_SIGMA, NotRunError, Study
from caploc.fingerprints import fingerprint
from caploc.interventions.enhancement import Recipe, enhance, enhanced
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.store import Compute

EPOCHS = (1, 5, 10)
"""After which a run is scored (Table 2); what only stands beside the paper's methods, after the last."""
CPU_EXAMPLES = 24
"""Training examples on a CPU; on a GPU all that locate."""
PAPER_DATASETS = ("gsm8k", "emotion", "code25k")
"""Those of Table 2."""


@dataclass(frozen=True, eq=False)
class Enhancements:
    """R runs trained on one dataset at one sigma, and scored after E epochs on the I items of each of the datasets.

    Attributes:
        study: of the model that was trained, the early checkpoint of an embedded one.
        runs: which arm, set and seed each is.
        score, nll: by evaluated dataset ``[R, E, I]``; nan from the epoch on that a diverged run did not reach.
        text: ``[R, E, texts]`` nats a token of general text; no texts where none could be had.
        base_score, base_nll, base_text: the same of the untouched model, without runs and epochs.
        chance: by dataset, the score of guessing.
        losses: of each run, nats a token of every step.
        diverged: of each run, the step at which it was stopped; None where it was not.
        located: the located neurons.
        rates: of each arm, and how they were found.
        recipe: the settings that all runs share, of those of `Recipe.settings`.
        examples: how many were trained on; ``data_fingerprint`` is theirs.
    """

    study: Study
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


def epochs_of(arm: str) -> tuple[int, ...]:
    """After which epochs an arm is scored; elsewhere its outcomes are nan."""
    return EPOCHS[-1:] if arm in (UNIFORM, NEAREST) else EPOCHS


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


def all_enhancements(study: Study, sigma: float) -> dict[str, Enhancements]:
    """By dataset trained on, those of `trained_datasets`."""
    return {name: enhancements(study, name, sigma) for name in trained_datasets(study.early)}


def enhancements(study: Study, trained_on: str, sigma: float) -> Enhancements:
    """Everything trained on ``trained_on`` with the neurons located at ``sigma``; made once, and stored run by run.

    An embedded model's final weights leave nothing to learn: its early checkpoint is located and trained instead.

    Raises:
        NotRunError, FloorError: a dataset cannot be had here; no neuron, or every neuron, is located.
    """
    early = study.early
    return early.once(("enhancements", trained_on, sigma), lambda: _enhancements(early, trained_on, sigma))


def _enhancements(study: Study, trained_on: str, sigma: float) -> Enhancements:
    mask = located_mask(study, trained_on, sigma)
    examples = training_examples(study, trained_on)
    arms = arms_of(study, trained_on, mask)
    rates = _rates(study, trained_on, arms)
    evaluation = {name: evaluation_items(study, name) for name in study.available()}
    texts = general_texts(study)
    runs = [run for arm in arms for run in runs_of(arm, study.settings.seed)]
    recipes = [recipe_of(rates.chosen[run.arm], epochs_of(run.arm), run.seed) for run in runs]
    tasks = [
        _task(study, run, arms[run.arm], recipe, examples, evaluation, texts)
        for run, recipe in zip(runs, recipes, strict=True)
    ]
    entries = list(study.settings.store.compute_all(tasks, progress=f"{study.model} trained on {trained_on}"))

    def stacked(what: str) -> dict[str, np.ndarray]:
        return {name: np.stack([entry.arrays[f"{what}:{name}"] for entry in entries]) for name in evaluation}

    return Enhancements(
        study=study,
        trained_on=trained_on,
        sigma=sigma,
        runs=runs,
        score=stacked("score"),
        nll=stacked("nll"),
        text=np.stack([entry.arrays["text"] for entry in entries]),
        base_score={name: items.base["score"] for name, items in evaluation.items()},
        base_nll={name: items.base["nll"] for name, items in evaluation.items()},
        base_text=_base_text(study, texts),
        chance={name: items.chance for name, items in evaluation.items()},
        losses=[entry.arrays["losses"] for entry in entries],
        diverged=[entry.meta["diverged"] for entry in entries],
        located=mask,
        rates=rates,
        recipe=recipes[0].settings,
        examples=len(examples),
        data_fingerprint=fingerprint(tokens_of(examples)),
    )


def _rates(study: Study, dataset: str, arms: Mapping[str, Arm]) -> Rates:
    """The rates of all sigmas, found with the sets of the paper's; with ``arms`` where nothing passes that."""
    with suppress(FloorError):
        arms = arms_of(study, dataset, located_mask(study, dataset, PAPER_SIGMA))
    examples, trained = study.located(dataset).tokenized, len(training_examples(study, dataset))
    return rates_of(study, examples, trained, arms, EPOCHS[-1])


def training_examples(study: Study, dataset: str) -> Sequence[TokenizedExample]:
    """The locating examples, the first ``CPU_EXAMPLES`` of them on a CPU."""
    examples = study.located(dataset).tokenized
    return examples[:CPU_EXAMPLES] if study.settings.device == "cpu" else examples


def _task(
    study: Study,
    run: Run,
    arm: Arm,
    recipe: Recipe,
    examples: Sequence[TokenizedExample],
    evaluation: Mapping[str, EvaluationItems],
    texts: Sequence[str],
) -> tuple[str, Compute]:
    mask = arm.sets[run.draw]
    further = {"items": {name: items.fingerprint for name, items in evaluation.items()}, "texts": list(texts)}

    def compute() -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
        lm = study.model_for()
        trained = enhance(lm, mask, examples, recipe, zeroed=arm.zeroed)
        arrays = _unreached(evaluation, texts)
        for epoch, difference in trained.at.items():
            with enhanced(lm, difference):
                _score(lm, evaluation, texts, arrays, EPOCHS.index(epoch))
        return {**arrays, "losses": trained.losses}, {"diverged": trained.diverged}

    return key_of(study, "enhancement", mask, arm.zeroed, recipe, further, training=examples), compute


def _unreached(evaluation: Mapping[str, EvaluationItems], texts: Sequence[str]) -> dict[str, np.ndarray]:
    arrays = {
        f"{what}:{name}": np.full((len(EPOCHS), len(items)), np.nan)
        for name, items in evaluation.items()
        for what in ("score", "nll")
    }
    return {**arrays, "text": np.full((len(EPOCHS), len(texts)), np.nan)}


def _score(
    lm: LanguageModel,
    evaluation: Mapping[str, EvaluationItems],
    texts: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    place: int,
) -> None:
    for name, items in evaluation.items():
        outcomes = evaluate(lm, items.prepared)
        arrays[f"score:{name}"][place], arrays[f"nll:{name}"][place] = outcomes.score, outcomes.nll
    if texts:
        arrays["text"][place] = text_loss(lm, texts)


def _base_text(study: Study, texts: Sequence[str]) -> np.ndarray:
    if not texts:
        return np.zeros(0)

    def make() -> dict[str, np.ndarray]:
        return {"nll": np.asarray(text_loss(study.model_for(), texts), np.float64)}

    return stored(study, "text loss", {"texts": list(texts)}, make)["nll"]
