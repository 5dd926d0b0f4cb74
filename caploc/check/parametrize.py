"""Checks of locators as pytest tests, one test a check, in any repository that has installed caploc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caploc.check.results import Check, LocatorCheckError, judge, planned
from caploc.check.running import TIMEOUT, default_models, kind_of, loaded, name_of, tried
from caploc.errors import OptionError

if TYPE_CHECKING:
    from caploc.check.contract import Locate, Trial
    from caploc.zoo import ZooModel


def parametrize_with_locator_checks(
    locators: Sequence[Locate],
    models: Sequence[str | ZooModel] | None = None,
    timeout: float = TIMEOUT,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrize a test over locators and checks; arguments as of `caploc.check_locator`.

    ::

        @parametrize_with_locator_checks([my_locate, caploc.LOCATORS["cnl"]])
        def test_locators(locate, check):
            check(locate)

    A test fails with `LocatorCheckError` and the reason, and is skipped where nothing can be judged, such as the
    ranking of a locator that gives sets. A locator is run on a model when the first check of the pair is, and not
    again. Nothing is loaded while tests are collected.

    Raises:
        OptionError: no locators, or one that cannot be called.
    """
    import pytest

    if callable(locators) or not locators:
        raise OptionError("pass a list of at least one locator: parametrize_with_locator_checks([locate])")
    wrong = next((one for one in locators if not callable(one)), None)
    if wrong is not None:
        raise OptionError(
            f"a locator is a callable locate(lm, examples, **options), got {type(wrong).__name__}"
        )
    if isinstance(models, str):
        models = [models]
    chosen = default_models() if models is None else tuple(models)
    parameters = []
    for locate in locators:
        for number, model in enumerate(chosen):
            name, kind = (model, kind_of(model)) if isinstance(model, str) else (model.name, model.kind)
            pair = _Pair(locate, model, timeout, options or {}, number == 0)
            parameters += [
                pytest.param(locate, PairCheck(pair, check), id=f"{name_of(locate)}-{check}")
                for check in planned(name, kind, number == 0)
            ]
    return pytest.mark.parametrize(("locate", "check"), parameters)


class _Pair:
    """A locator on a model, tried once."""

    def __init__(
        self, locate: Locate, model: str | ZooModel, timeout: float, options: Mapping[str, Any], repeat: bool
    ) -> None:
        self.locate, self._model, self._timeout, self._options = locate, model, timeout, options
        self._repeat = repeat
        self._tried: tuple[Trial, dict[str, float]] | None = None

    def result(self) -> tuple[Trial, dict[str, float]]:
        """What it did, and its measures."""
        if self._tried is None:
            zoo = loaded([self._model])
            trials, measured = tried(
                self.locate, zoo, self._timeout, options=self._options, repeat=self._repeat
            )
            self._tried = trials[zoo[0].name], measured[zoo[0].name]
        return self._tried


class PairCheck:
    """One check, called with the locator that it was made for."""

    def __init__(self, pair: _Pair, check: Check) -> None:
        self._pair, self.check = pair, check

    def __call__(self, locate: Locate) -> None:
        """Raise `LocatorCheckError` where it is missed, skip where it cannot be judged.

        Raises:
            OptionError: ``locate`` is another locator than the parameter beside it.
        """
        import pytest

        if locate is not self._pair.locate:
            raise OptionError(
                f"this check was made for {name_of(self._pair.locate)}; call it with the parameter `locate` of the test"
            )
        judged = judge(self.check, *self._pair.result())
        if judged.outcome == "missed":
            raise LocatorCheckError(str(judged))
        if judged.outcome == "not judged":
            pytest.skip(judged.reason)

    def __repr__(self) -> str:
        return f"{name_of(self._pair.locate)}-{self.check}"
