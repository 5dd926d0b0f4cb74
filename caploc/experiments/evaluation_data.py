"""On what a study evaluates a model: items that nothing was located on, prepared once, and what it makes of them.

Located sets are evaluated on every dataset, so an item must be none of the examples that any dataset of the study was
located on. Of its own dataset that would be a leak and is refused; an item whose prompt another dataset locates with
(MetaMath repeats questions of GSM8K) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from caploc.datasets import DATASETS, load_examples
from caploc.errors import DatasetError, TooLongError, UnavailableDatasetError
from caploc.evaluation import Outcomes, Prepared, evaluate, prepare
from caploc.examples import Example
from caploc.experiments.facts.stored import stored
from caploc.experiments.study import NotRunError, Study
from caploc.fingerprints import fingerprint
from caploc.statistics import bootstrap_mean

CPU_ITEMS = 40
CPU_LABELLED_ITEMS = 64
"""Where labels are read off one pass (task "language"): so many that, if none of them changes, a change of 5 points can
be excluded at level .05."""
FEWEST_ITEMS = 10
"""Below this, an interval over items means little."""
LEVEL = 0.05
LEAST_LOSS = 0.05
"""The smallest loss of score that counts as one (claims of group G: equivalence margin)."""


@dataclass(frozen=True, eq=False)
class EvaluationItems:
    """The items of ``dataset`` as ``prepared`` for a model, and what it scores on them untouched.

    ``base``: outcomes by name, each ``[items]``: ``score`` in 0 to 1, ``nll`` (nats a token of the reference answer),
    ``exact`` and ``ended`` (see `caploc.evaluation.Outcomes`). ``clusters``: a label an item, shared by those that
    belong together. ``fingerprint`` is part of the keys of results on them; ``notes`` say what was left out.
    """

    dataset: str
    prepared: Prepared
    clusters: Sequence[str]
    base: Mapping[str, np.ndarray]
    fingerprint: str
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.base["score"])

    @property
    def chance(self) -> float:
        """The guessing level of the score."""
        return float(self.prepared.chance)

    @property
    def floor(self) -> str | None:
        """The floor effect that hides any loss, in words; None where there is something to lose."""
        return floor_effect(self.dataset, self.base["score"], self.chance)


def evaluation_items(study: Study, dataset: str) -> EvaluationItems:
    """The study's evaluation items of ``dataset``; made once, the base outcomes stored.

    Raises:
        NotRunError: the dataset cannot be had here, or has too few items.
        DatasetError: one of its items was located on.
    """

    def make() -> EvaluationItems | NotRunError:
        try:
            return _evaluation_items(study, dataset)
        except NotRunError as error:
            return error

    found = study.once(("evaluation items", dataset), make)
    if isinstance(found, NotRunError):
        raise found
    return found


def arrays_of(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Outcomes by name, to be stored: ``score`` and ``nll`` float64, ``exact`` and ``ended`` bool."""
    floats = {name: np.asarray(getattr(outcomes, name), np.float64) for name in ("score", "nll")}
    return {**floats, **{name: np.asarray(getattr(outcomes, name), bool) for name in ("exact", "ended")}}


def above_chance(score: np.ndarray, chance: float, seed: int = 0) -> bool:
    """Whether the mean of ``score [items]`` is above ``chance``, at level .05, one-sided.

    Right or wrong: the exact binomial test. Shares in between: the lower end of the 90 % bootstrap interval.
    """
    if np.isin(score, (0, 1)).all():
        return bool(stats.binomtest(int(score.sum()), score.size, chance, "greater").pvalue < LEVEL)
    return bool(bootstrap_mean(score, 1 - 2 * LEVEL, seed=seed).low > chance)


def floor_effect(dataset: str, score: np.ndarray, chance: float) -> str | None:
    """Why no loss of score can show on a dataset, in words; None where one can.

    The base must be above chance, and by more than the least loss that counts: 0.38 % right leave nothing to lose.
    """
    base = f"floor effect: the untouched model scores {score.mean():.1%} on {dataset}"
    if not above_chance(score, chance):
        return f"{base}, not above chance ({chance:.1%}), so no loss can show".replace("%", " %")
    if score.mean() - chance <= LEAST_LOSS:
        return (
            f"{base}, not {100 * LEAST_LOSS:g} points above chance ({chance:.1%}), so no loss that counts can show"
        ).replace("%", " %")
    return None


def _evaluation_items(study: Study, dataset: str) -> EvaluationItems:
    examples, notes = _examples(study, dataset)
    lm = study.model_for()
    try:
        prepared = prepare(lm, dataset, examples)
    except TooLongError as error:
        raise NotRunError(str(error)) from error
    if prepared.items < FEWEST_ITEMS:
        raise NotRunError(
            f"{dataset} has {prepared.items} items to evaluate {lm.name} on ({len(prepared.excluded)} left out), and "
            f"{FEWEST_ITEMS} are the fewest an interval can be taken over; give more data"
        )
    if prepared.excluded:
        first = prepared.excluded[0].reason
        notes = [*notes, f"{len(prepared.excluded)} items of {dataset} left out, the first since {first}"]
    items = [one.tokens.content for one in prepared.all_items]
    key = fingerprint([dataset, prepared.settings, list(prepared.labels), items])
    base = stored(study, "outcomes", {"items": key, "sets": None}, lambda: arrays_of(evaluate(lm, prepared)))
    groups = {one.id: one.group or one.id for one in examples}
    return EvaluationItems(dataset, prepared, [groups[name] for name in prepared.ids], base, key, notes)


def _examples(study: Study, dataset: str) -> tuple[list[Example], list[str]]:
    """What can be evaluated on, and notes of what was left out."""
    try:
        examples = load_examples(
            dataset,
            study.source(dataset),
            split="evaluate",
            limit=_wanted(study, dataset),
            seed=study.settings.seed,
            form=study.settings.reading.gsm8k_form if dataset == "gsm8k" else "free",
        )
    except UnavailableDatasetError as error:
        raise NotRunError(str(error)) from error
    own = study.located(dataset).examples
    check_disjoint(dataset, own, examples)
    elsewhere = {
        one.prompt for other in study.available() if other != dataset for one in study.located(other).examples
    }
    kept = [one for one in examples if one.prompt not in elsewhere]
    lost = len(examples) - len(kept)
    return kept, [f"{lost} items of {dataset} left out: another dataset locates with them"] if lost else []


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


def _wanted(study: Study, dataset: str) -> int | None:
    """How many items: ``--samples``, or what a CPU can do, or at most the paper's number (section 5.3)."""
    settings, known = study.settings, DATASETS.get(dataset)
    if settings.device != "cpu":
        return settings.samples or (known.paper_samples if known else None)
    most = CPU_LABELLED_ITEMS if known is not None and known.task == "language" else CPU_ITEMS
    return min(settings.samples or most, most)
