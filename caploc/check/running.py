"""Run a locator on the zoo, each model in child processes of its own, and judge what it finds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from caploc.check.contract import Duty, Locate, Trial, attempt, calls
from caploc.check.isolation import Say, Stopped, in_children
from caploc.check.judging import measures
from caploc.check.results import LocatorReport, judge, planned
from caploc.errors import OptionError, UnknownNameError
from caploc.zoo import KINDS, ZooModel, load_zoo_model, zoo_names

TIMEOUT = 120.0
"""Seconds that one call may take: CNL takes about one hundredth of it."""
_JUDGING_TIMEOUT = 1800.0


def check_locator(
    locate: Locate,
    models: Sequence[str | ZooModel] | None = None,
    strict: bool = False,
    timeout: float = TIMEOUT,
    progress: bool = True,
    *,
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> LocatorReport:
    """Try a locator on models whose localization is known, and say what it finds there and what it does to them.

    Args:
        locate: ``locate(lm, examples, **options)``, any callable, an entry of ``caploc.LOCATORS`` too. It returns a
            `NeuronMask` (a set; with its ``scores`` a ranking as well), `NeuronScores`, a tensor or array ``[layers,
            neurons]`` of scores or of members, or another `Location`, whose layers are then ranked. Neurons rank by
            |score|: where a negative score speaks against a neuron, return ``scores.clamp_min(0)``. One with a
            parameter ``others`` is given examples of tasks that are not to be located.
        models: names (``caploc.zoo.zoo_names()``) or ``ZooModel`` objects of your own; None takes one of each kind.
        strict: raise where a mark is missed.
        timeout: wall-clock seconds that one call may take. It is then killed, and all that it started.
        progress: show a progress bar, on a terminal.
        options: keywords for ``locate``.
        workers: models tried at once, each with one thread; None for one a core.

    Everything runs in forked children (`caploc.check.isolation`), on copies: no model that you hold is touched. A
    locator that runs on a GPU must be checked before this process has used that GPU.

    Raises:
        LocatorCheckError: under ``strict``, naming every mark that was missed.
        OptionError: an argument that makes no sense, or two models of one name.
        UnknownNameError: no model of that name.
    """
    if not callable(locate):
        raise OptionError(
            f"a locator is a callable locate(lm, examples, **options), got {type(locate).__name__}"
        )
    start = time.monotonic()
    zoo = loaded(models)
    trials, measured = tried(locate, zoo, timeout, progress, options or {}, workers)
    judged = [
        judge(check, trials[model.name], measured[model.name])
        for number, model in enumerate(zoo)
        for check in planned(model.name, model.kind, number == 0)
    ]
    report = LocatorReport(
        name_of(locate),
        tuple(judged),
        measured,
        {model.name: model.kind for model in zoo},
        time.monotonic() - start,
    )
    if strict:
        report.raise_if_missed()
    return report


def kind_of(name: str) -> str:
    """The kind of a model of the zoo.

    Raises:
        UnknownNameError: no model of that name.
    """
    for kind in KINDS:
        if name in zoo_names(kind):
            return kind
    raise UnknownNameError(f"no model is called {name!r}; known: {', '.join(zoo_names())}")


def default_models() -> tuple[str, ...]:
    """The first of each kind; of those that were trained in also the last, of another family, size and seed."""
    chosen = [name for kind in KINDS for name in zoo_names(kind)[:1]]
    return (*chosen, *zoo_names("trained")[-1:])


def loaded(models: Sequence[str | ZooModel] | None) -> list[ZooModel]:
    """The models, those named loaded.

    Raises:
        OptionError: none, one that is neither a name nor a model, or two of one name.
        UnknownNameError: no model of that name.
    """
    if isinstance(models, str | ZooModel):
        models = [models]
    chosen = default_models() if models is None else models
    if not chosen:
        raise OptionError("no models to check a locator on; None takes one of each kind")
    zoo = []
    for one in chosen:
        if not isinstance(one, str | ZooModel):
            raise OptionError(f"models are names or ZooModel objects, got {type(one).__name__}")
        zoo.append(load_zoo_model(one) if isinstance(one, str) else one)
    names = [model.name for model in zoo]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"two models are called {twice!r}; give each a name of its own")
    return zoo


def tried(
    locate: Locate,
    zoo: Sequence[ZooModel],
    timeout: float = TIMEOUT,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    repeat: bool | None = None,
) -> tuple[dict[str, Trial], dict[str, dict[str, float]]]:
    """What a locator does on each model, and its measures, by the models' names.

    Args:
        repeat: whether a call is repeated, to see that it gives the same; None: on the first model.
    """
    if isinstance(timeout, bool) or not (
        isinstance(timeout, int | float) and math.isfinite(timeout) and timeout > 0
    ):
        raise OptionError(f"timeout must be a positive number of seconds, got {timeout!r}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise OptionError(f"workers must be a whole number of at least 1, got {workers!r}")
    at_once = workers or len(os.sched_getaffinity(0))
    again = {model.name: number == 0 if repeat is None else repeat for number, model in enumerate(zoo)}
    plans = {model.name: calls(model, again[model.name]) for model in zoo}
    total = sum(len(plan) + 1 for plan in plans.values())
    trials: dict[str, Trial] = {}
    measured: dict[str, dict[str, float]] = {}
    with tqdm(
        total=total, desc=f"check {name_of(locate)}", unit="step", disable=None if progress else True
    ) as bar:

        def step(key: str, name: str) -> None:
            bar.set_postfix_str(f"{key}, {name}")
            bar.update()

        attempts = [
            (model.name, partial(attempt, locate, model, options or {}, plans[model.name])) for model in zoo
        ]
        for name, result in in_children(attempts, at_once, timeout, step):
            trials[name] = result if isinstance(result, Trial) else stopped(result)
        judging = [(model.name, partial(_measure, model, trials[model.name])) for model in zoo]
        for name, result in in_children(judging, at_once, _JUDGING_TIMEOUT, step):
            if isinstance(result, Stopped):
                raise RuntimeError(f"measuring what was found on {name} {result.reason}")
            measured[name] = result
    return (
        {model.name: trials[model.name] for model in zoo},
        {model.name: measured[model.name] for model in zoo},
    )


def name_of(locate: Locate) -> str:
    """What a report calls a locator: its key, or the name of the function."""
    if isinstance(locate, partial):
        return name_of(locate.func)
    return str(getattr(locate, "key", None) or getattr(locate, "__name__", None) or type(locate).__name__)


def _measure(model: ZooModel, trial: Trial, say: Say) -> dict[str, float]:
    say("measuring")
    return measures(model, trial)


def stopped(ended: Stopped) -> Trial:
    """The trial of a child that gave no answer."""
    duty: Duty = "in-time" if ended.timed_out else "runs"
    return Trial(failures={duty: f"{ended.reason} (call: {ended.step})"})
