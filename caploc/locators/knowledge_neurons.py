"""KN, knowledge neurons: where integrated gradients place one fact (section 2.1, eq. 2; Dai et al., 2022).

An example's scores are eq. (7)'s with a data set of one: eq. (2) at the last token of the prompt, and for an answer of
several tokens, which is teacher forced, the mean over them (``answer_tokens=1``: the first alone). They come from the
packed engine, so they equal its oracle and captum (``caploc/tests/attribution/test_exactness.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caploc.attribution.engine import Attributor, Method, describe
from caploc.errors import OptionError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.locators.method import Arrays, Asked, FactMethod, SampleMethod, measured
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask, NeuronScores
from caploc.rows.sizing import automatic_chunk
from caploc.store import Store

_NUMBERS = (int, float, np.integer, np.floating)


def _check_fraction(name: str, value: float, whole: str) -> None:
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 < value <= 1:
        raise OptionError(f"{name} must be a fraction of {whole}, in (0, 1], got {value!r}")


@dataclass(frozen=True)
class Cut:
    """Which scores make a neuron a knowledge neuron; only positive ones ever do.

    ``threshold``: at least this fraction of the largest score (Dai et al. take 0.2, and so do we; 0.1 and 0.3 show how
    much hangs on it). ``top_k``, if given, takes the place of the threshold: the k largest scores.

    Raises:
        OptionError: a threshold outside of (0, 1], or a ``top_k`` below 1.
    """

    threshold: float = 0.2
    top_k: int | None = None

    def __post_init__(self) -> None:
        _check_fraction("threshold", self.threshold, "the largest score")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k < 1):
            raise OptionError(f"top_k must be a number of neurons of at least 1, got {self.top_k!r}")

    def locate(self, values: Float[Tensor, "layers neurons"]) -> NeuronMask:
        """The knowledge neurons by these scores: none where no score is positive; of equal ones the first go first."""
        flat = values.double().flatten()
        chosen = (flat >= self.threshold * flat.max()) & (flat > 0)
        if self.top_k is not None:
            chosen = torch.zeros_like(chosen)
            chosen[flat.argsort(descending=True, stable=True)[: self.top_k]] = True
            chosen &= flat > 0
        return NeuronMask(chosen.reshape(values.shape), scores=values.clamp_min(0))


DEFAULT_CUT = Cut()
CUTS: Mapping[str, Cut] = MappingProxyType(
    {
        "threshold 0.2": DEFAULT_CUT,
        "threshold 0.1": Cut(0.1),
        "threshold 0.3": Cut(0.3),
        "top 15": Cut(top_k=15),
    }
)
"""The cut that verdicts rest on, and those that show how much hangs on it (ambiguity ``kn-threshold``)."""


def shared(masks: Sequence[NeuronMask], share: float) -> NeuronMask:
    """The neurons in at least ``share`` of the ``masks``: Dai et al.'s refinement over the prompts of a fact (p %).

    Raises:
        OptionError: a share outside of (0, 1], or no masks.
    """
    _check_fraction("share", share, "the prompts")
    if not masks:
        raise OptionError("no masks to compare; locate with at least one prompt")
    counts = torch.stack([mask.values for mask in masks]).sum(0)
    return NeuronMask(counts.double() / len(masks) >= share)


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    threshold: float = 0.2,
    top_k: int | None = None,
    share: float | None = None,
    *,
    answer_tokens: int | None = None,
    store: Store | None = None,
    progress: bool = True,
    **options: Any,
) -> NeuronMask:
    """The knowledge neurons of one prompt, or of several prompts of one fact.

    Args:
        threshold, top_k: the cut; see ``Cut``.
        share: None: several examples are located by their mean scores. A fraction: each is located by its own, and
            the neurons are kept that at least so many of them have.
        answer_tokens: only the first so many tokens of each answer; None for all.
        store: where the scores of every example are kept, and looked up.
        options: of ``caploc.attribution.method.Method``: ``steps`` (19: 20 points), ``quadrature``, ...

    The set is empty where no score is positive, or where the prompts share no neuron.

    Raises:
        OptionError: an option that makes no sense, or no examples.
        ExampleError, ModelError: as ``caploc.attribute``.
    """
    cut, method = Cut(threshold, top_k), Method(**options)
    if share is not None:
        shared(
            [NeuronMask(torch.zeros(0, 0, dtype=torch.bool))], share
        )  # a bad share is told before any work
    if not examples:
        raise OptionError("no examples to locate with; pass at least one")
    tokenized = [tokenize(lm, example, answer_tokens) for example in examples]
    scores = example_scores(lm, tokenized, method, store, progress)
    if share is not None:
        return shared([cut.locate(one.values) for one in scores], share)
    total = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.float64)
    for one in scores:
        total += one.values
    return cut.locate(total / len(examples))


def example_scores(
    lm: LanguageModel,
    examples: Sequence[TokenizedExample],
    method: Method | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> Iterator[NeuronScores]:
    """The scores of each example, in order, float32.

    All are computed before the first is handed over. With a ``store`` they are read back from it one at a time, those
    that are there already are not computed again, and a run that was killed goes on where it was. A key hashes the
    model's weights and configuration, the tokens, the method, dtype and device type.
    """
    method = method or Method()
    title = describe(lm, examples, method, method.chunk_tokens or automatic_chunk(lm)) if progress else None
    asked = [Asked(example) for example in examples]
    found = measured(KnowledgeNeuronScores(method), lm, asked, store, title)
    return (_scores(arrays, method) for arrays in found)


@dataclass(frozen=True)
class KnowledgeNeuronScores(FactMethod, SampleMethod):
    """KN's scores of one example.

    Attributes:
        answer_tokens: only the first so many tokens of the answer; None for all.
    """

    what: ClassVar[str] = "neuron scores of one example"

    method: Method
    answer_tokens: int | None = None

    def settings(self, lm: LanguageModel) -> Mapping[str, Any]:
        """The threshold that decides."""
        return {"threshold": DEFAULT_CUT.threshold}

    @property
    def precise(self) -> bool:
        """One neuron at a time is."""
        return self.method.path == "neuron"

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """How scores are computed, and the tokens."""
        return {"method": self.method.settings, "example": self._read(asked).content}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """An ``Attributor``; scores are kept as float32."""
        with Attributor(lm, self.method) as attributor:

            def measure(asked: Asked) -> Arrays:
                sums = attributor.sums([self._read(asked)])
                arrays = {"values": sums.total.astype(np.float32), "completeness": sums.completeness}
                return {**arrays, "gap": sums.gap, "points": sums.points}

            yield measure

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, NeuronMask]:
        """By every one of ``CUTS``."""
        values = torch.from_numpy(arrays["values"])
        return {name: cut.locate(values) for name, cut in CUTS.items()}

    @property
    def how(self) -> str:
        return f"{self.what}, answer tokens: {self.answer_tokens or 'all'}"

    def _read(self, asked: Asked) -> TokenizedExample:
        if self.answer_tokens is None:
            return asked.tokens
        ids, start, name = asked.tokens.input_ids, asked.tokens.answer_start, asked.tokens.id
        return TokenizedExample(ids[: start + self.answer_tokens], start, name)


def _scores(arrays: Arrays, method: Method) -> NeuronScores:
    values, completeness, gap, points = (
        torch.from_numpy(arrays[name]) for name in ("values", "completeness", "gap", "points")
    )
    return NeuronScores(values, completeness, gap, points, 1, method.settings)
