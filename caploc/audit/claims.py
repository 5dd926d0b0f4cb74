"""How a claim becomes a test: its id in the paper's file, and the experiment that measures it.

    from caploc.audit.claims import claim, experiments

    @claim("table3-erase", experiments.erasure.erase)
    def test_score_without_located_neurons():
        \"\"\"Table 3, rows *locate*: the score once the located neurons are erased.\"\"\"

The function's name and docstring are the claim in words; the decorator makes the test, one for each cell.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.cells import CellRequest

Over = Literal["datasets", "model", "models", "facts", "print"]


@dataclass(frozen=True)
class Reference:
    """An experiment by name, so that collecting tests need not import torch. Calling it sets options of it."""

    module: str
    name: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __call__(self, **options: Any) -> Reference:
        return replace(self, options=MappingProxyType({**self.options, **options}))

    def load(self) -> Any:
        """The experiment. Raises `pytest.UsageError` where there is none of that name."""
        try:
            found = getattr(importlib.import_module(self.module), self.name)
        except (AttributeError, ModuleNotFoundError) as error:
            raise pytest.UsageError(f"there is no experiment {self.module}.{self.name}: {error}") from error
        return found.with_options(**self.options) if self.options else found


class Module:
    """A module of experiments whose attributes are references; ``Module("my.experiments").erase`` loads nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Reference:
        if name.startswith("_"):
            raise AttributeError(name)
        return Reference(self._name, name)


class _Experiments:
    """caploc's own modules of experiments, by name."""

    def __getattr__(self, name: str) -> Module:
        module = f"caploc.experiments.{name}"
        if name.startswith("_") or importlib.util.find_spec(module) is None:
            raise AttributeError(f"caploc has no experiments {name!r}")
        return Module(module)


experiments: Any = _Experiments()


@dataclass(frozen=True)
class ClaimTest:
    """What the decorator `claim` was given; see there."""

    claim: str
    experiment: Any
    over: Over = "datasets"
    dataset: str | None = None
    preferred: tuple[str, ...] = ()
    sigma: float | None = None
    all_sigmas: bool = False
    across: bool = False
    embedded: str | None = None
    by_model: Mapping[str, str] = field(default_factory=dict)

    def claim_of(self, model: str) -> str:
        """The claim that is decided for a model."""
        return self.by_model.get(model, self.claim)

    def load(self) -> Any:
        """The experiment."""
        return self.experiment.load() if isinstance(self.experiment, Reference) else self.experiment


def claim(
    claim_id: str,
    experiment: Any,
    *,
    over: Over = "datasets",
    dataset: str | None = None,
    preferred: tuple[str, ...] = (),
    sigma: float | None = None,
    all_sigmas: bool = False,
    across: bool = False,
    embedded: str | None = None,
    by_model: Mapping[str, str] | None = None,
) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Make a function that says a claim in words the test of it.

    Args:
        claim_id: the claim's id in its paper's file.
        experiment: what measures it: a `caploc.experiments.study.Experiment`, or a reference to one by name.
        over: what its cells range over. ``datasets``: model x dataset x sigma. ``model``: model x sigma, over all
            datasets. ``models``: sigma, over all models. ``facts``: model x dataset of single facts. ``print``: what
            the paper prints, without a model; the experiment then takes (paper, claim).
        dataset: the only dataset that the claim is about; with ``facts`` the one taken where the run names none.
        preferred: the datasets that the claim has cells for where a run has any of them; else all of the run.
        sigma: the only sigma that the claim is about.
        all_sigmas: one cell for all sigmas, those of the run or those that the claim names.
        across: the numbers depend on which other datasets are in the run.
        embedded: with ``facts``, the dataset taken for embedded models.
        by_model: other claims for some models, where the paper words one a model.
    """
    declared = ClaimTest(
        claim_id,
        experiment,
        over,
        dataset,
        preferred,
        sigma,
        all_sigmas,
        across,
        embedded,
        dict(by_model or {}),
    )

    def decorate(function: Callable[[], None]) -> Callable[..., None]:
        if over == "print":

            def test(audit: Auditor) -> None:
                __tracebackhide__ = True
                audit.check()
        else:

            def test(audit: Auditor, cell: CellRequest) -> None:  # type: ignore[misc]
                __tracebackhide__ = True
                audit.check()

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(test, name, getattr(function, name))
        # pytest shows where a test stands
        place = {
            "co_filename": function.__code__.co_filename,
            "co_firstlineno": function.__code__.co_firstlineno,
        }
        test.__code__ = test.__code__.replace(**place)  # type: ignore[arg-type]
        return pytest.mark.claim(declared)(test)

    return decorate


def experiment_of(declared: ClaimTest) -> str:
    """The name of a claim test's experiment, as its module and function."""
    one = declared.experiment
    if isinstance(one, Reference):
        return f"{one.module.rpartition('.')[2]}.{one.name}"
    return str(getattr(one, "name", ""))


_TRAINING = re.compile(
    r"enhancement(?!\.param_share$)"
    r"|cross_dataset\.(enhance_cross|other_models|same_type_specificity|significant_improvement)$"
)


def trains(declared: ClaimTest) -> bool:
    """Whether the claim rests on trained models, which take more memory than locating and erasing do."""
    return _TRAINING.match(experiment_of(declared)) is not None
