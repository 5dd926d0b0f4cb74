"""What an experiment needs of a method: measured on one example at a time, kept in the store, located from there.

Experiments never call a method's ``locate``. They ask its registry entry (``caploc.locators.Locator``) for a
``Measure``, which can be pickled and knows the key of each of its results; ``measured`` computes what the store lacks.
What is located follows from the stored arrays alone:

============  ============================================================================================
fact          ``FactMethod.cuts``: the locations of one prompt, under the cut that decides and under others
dataset       ``SampleMethod.evidence`` of each example, whose weighted mean ``rank`` turns into an order of
              neurons, or of layers where the method names no neurons; sets of any size are then taken
============  ============================================================================================

A locator that has only ``locate`` takes part through ``EachAlone``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from caploc.attribution.engine import Method
from caploc.errors import OptionError
from caploc.examples import Example, TokenizedExample
from caploc.fingerprints import fingerprint
from caploc.locators.causal_tracing.trace import Kind
from caploc.metrics import Location
from caploc.model.loading import LanguageModel
from caploc.store import Compute, Store

Arrays = Mapping[str, np.ndarray]


class Asked(NamedTuple):
    """A prompt with its answer, as a method is given it; ``example`` is None for text that has only tokens."""

    tokens: TokenizedExample
    example: Example | None = None


@dataclass(frozen=True)
class Conditions:
    """What a run sets for all methods alike: the seed of their noise, how eq. (7) is read, and the state that causal
    tracing restores."""

    seed: int = 0
    attribution: Method = field(default_factory=Method)
    restored: Kind = "hidden"


class Measure(ABC):
    """What a method measures on one example. Subclasses are frozen dataclasses: equal where they measure the same.

    Attributes:
        what: names the measurement, in the store's keys and in progress bars.
        code: part of every key: raise it when a change of the code changes numbers by more than rounding.
    """

    what: ClassVar[str]
    code: ClassVar[int] = 1

    @property
    def precise(self) -> bool:
        """Whether half precision cannot tell apart what is measured, so that the model is taken in float32."""
        return False

    def check(self, lm: LanguageModel) -> None:  # noqa: B027  most methods apply to every model
        """Raise ``ModelError`` if the method cannot be applied to ``lm``, whatever the example."""

    @abstractmethod
    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """What the measurement depends on, beside the model's weights, dtype and device. Reads no weight."""

    @abstractmethod
    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """The model made ready: inside ``with`` a function from an example to what is kept of it."""

    def key(self, lm: LanguageModel, asked: Asked) -> str:
        """By what the store finds the measurement."""
        return fingerprint(
            {
                "what": self.what,
                "code": self.code,
                "model": lm.fingerprint,
                "dtype": str(lm.dtype),
                "device": lm.device.type,
                **self.content(lm, asked),
            }
        )


class FactMethod(Measure):
    """A measure that locates the fact behind one prompt."""

    def settings(self, lm: LanguageModel) -> Mapping[str, Any]:
        """How facts are measured in ``lm`` and cut, for whoever repeats it."""
        return {}

    @abstractmethod
    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, Location]:
        """What is located, by the name of the cut; the first one decides, the others show how much hangs on it.

        ``arrays`` are those of one example; for measures that are scores, also their mean over several. Of ``lm`` only
        its shape is read.
        """


class SampleMethod(Measure):
    """A measure whose mean over the examples of a dataset locates."""

    @property
    def how(self) -> str:
        """What is measured on an example, in words, for whoever repeats it."""
        return self.what

    def evidence(self, lm: LanguageModel, arrays: Arrays) -> Float[np.ndarray, ...]:
        """What is averaged over examples, float64: the array ``values``, unless the method says otherwise."""
        return arrays["values"].astype(np.float64)

    def rank(
        self, lm: LanguageModel, means: Float[np.ndarray, "rows ..."]
    ) -> Float[np.ndarray, "rows layers neurons"] | Float[np.ndarray, "rows layers"]:
        """From means, one a row, how high each neuron ranks, or each layer, for a method that names no neurons: the
        means, unless the method says otherwise."""
        return means


def measured(
    measure: Measure,
    lm: LanguageModel,
    asked: Sequence[Asked],
    store: Store | None = None,
    title: str | None = None,
) -> Iterator[Arrays]:
    """What ``measure`` gives for each example, in order.

    All are computed before the first is handed over. With a ``store`` they are read back from it one at a time, those
    that are there already are not computed again, and a run that was killed goes on where it was.

    Args:
        title: of a progress bar, shown on terminals; None for none.
    """
    with ExitStack() as stack:
        opened: list[Callable[[Asked], Arrays]] = []

        def compute(one: Asked) -> Arrays:
            if not opened:  # at the first missing example: a warm run touches no weight
                opened.append(stack.enter_context(measure.measuring(lm)))
            return opened[0](one)

        def task(one: Asked) -> Compute:
            return lambda: (compute(one), {"example": one.tokens.id})

        if store is None:
            bar = tqdm(asked, desc=title, unit="example", disable=None if title else True)
            return iter([compute(one) for one in bar])
        tasks = [(measure.key(lm, one), task(one)) for one in asked]
        return (entry.arrays for entry in store.compute_all(tasks, progress=title))


@dataclass(frozen=True)
class EachAlone(FactMethod, SampleMethod):
    """Any ``locate(lm, [example], **options)`` as a measure: what it locates for each example by itself.

    Over a dataset, a neuron (or layer) ranks by the share of examples that it is located for.

    Attributes:
        locator: the registry's key.
        version: of the locator's code, which a key cannot see.
        places: the kind of location that ``locate`` returns.
    """

    what: ClassVar[str] = "location of one example"

    locator: str
    locate: Callable[..., Location]
    places: type[Location]
    version: int = 1
    options: tuple[tuple[str, Any], ...] = ()

    def settings(self, lm: LanguageModel) -> Mapping[str, Any]:
        """The options."""
        return dict(self.options)

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The locator, its version and options, and the example."""
        example = self._example(asked)
        return {
            "locator": self.locator,
            "version": self.version,
            "options": dict(self.options),
            "tokens": asked.tokens.content,
            "id": example.id,
            "subject": example.subject,
        }

    def measuring(self, lm: LanguageModel) -> AbstractContextManager[Callable[[Asked], Arrays]]:
        """``locate``, and the location's arrays."""

        def measure(asked: Asked) -> Arrays:
            return self.locate(lm, [self._example(asked)], **dict(self.options)).to_arrays()

        return nullcontext(measure)

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, Location]:
        """The one location there is."""
        return {self.locator: self.places.from_arrays(arrays)}

    def evidence(self, lm: LanguageModel, arrays: Arrays) -> Float[np.ndarray, ...]:
        """The location's votes."""
        return self.places.from_arrays(arrays).votes

    def _example(self, asked: Asked) -> Example:
        if asked.example is None:
            raise OptionError(
                f"locator {self.locator!r} locates examples with a text, and example {asked.tokens.id!r} has only "
                "tokens; give the locator a SampleMethod of its own"
            )
        return asked.example
