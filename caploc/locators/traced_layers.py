"""Causal tracing, measured on facts at the subject's last token, and on prompts without a subject at their last token:
what each layer's clean state brings back of the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from caploc.errors import ExampleError, ModelError
from caploc.examples import TokenizedExample, subject_tokens
from caploc.locators.causal_tracing.trace import Tracing, draw_noise
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.layers import LayerSet
from caploc.locators.method import Arrays, Asked, FactMethod, SampleMethod
from caploc.model.loading import LanguageModel

TOP_K = 3
"""Section 3.1's number of layers."""


@dataclass(frozen=True)
class TracedLayers(FactMethod):
    """``restored [layers]``, the answer's probability with a layer's state restored at the subject's last token;
    ``clean`` without noise and ``corrupted`` with it, means over draws; ``gain``: `gain_of_the_best`."""

    what: ClassVar[str] = "layers by causal tracing"
    code: ClassVar[int] = 2

    tracing: Tracing

    def check(self, lm: LanguageModel) -> None:
        """Raise ``ModelError`` unless there are more layers than are chosen."""
        if lm.num_layers <= TOP_K:
            raise ModelError(
                f"{lm.name} has {lm.num_layers} layers, and {TOP_K} are to be chosen of more; take a deeper model"
            )

    def settings(self, lm: LanguageModel) -> Mapping[str, Any]:
        """How many layers are taken, and how they are traced."""
        return {"top_k": TOP_K, **self.tracing.settings}

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The settings, the tokens, the subject's place; and the id, from which the noise is drawn."""
        tokens, subject = asked.tokens, self.subject(lm, asked)
        place = [subject.start, subject.stop]
        return {"tracing": self.tracing.settings, "tokens": tokens.content, "subject": place, "id": tokens.id}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """A ``Tracer``."""
        with Tracer(lm, self.tracing) as tracer:

            def measure(asked: Asked) -> Arrays:
                trace = tracer.one(asked.tokens, self.subject(lm, asked))
                return {
                    "restored": trace.by_layer().numpy(),
                    "clean": np.array(trace.clean),
                    "corrupted": np.array(float(trace.corrupted.mean())),
                    "gain": np.array(
                        gain_of_the_best(
                            trace.restored_by_draw[:, trace.subject[-1]].numpy(), trace.corrupted.numpy()
                        )
                    ),
                }

            yield measure

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, LayerSet]:
        """The three best layers; the best one and the two best show how much hangs on it."""
        scores = arrays["restored"].tolist()
        return {f"top {count}": LayerSet.best(scores, count) for count in (TOP_K, 1, 2)}

    @staticmethod
    def subject(lm: LanguageModel, asked: Asked) -> range:
        """The subject's tokens. Raises ``ExampleError`` where only tokens are known."""
        if asked.example is None:
            raise ExampleError(
                f"example {asked.tokens.id!r} has only tokens; causal tracing needs its subject"
            )
        return subject_tokens(lm, asked.example)


def gain_of_the_best(restored: np.ndarray, corrupted: np.ndarray) -> float:
    """What the best layer's clean state adds to the answer's probability ``corrupted [draws]``, from ``restored [draws,
    layers]``: the layer is chosen on half of the draws of the noise and scored on the other, and the halves change
    places. So it is 0 on average where layers differ by their noise alone; nan for a single draw."""
    if len(corrupted) < 2:
        return float("nan")
    gains = restored - corrupted[:, None]
    one, other = gains[::2].mean(0), gains[1::2].mean(0)
    return float(other[one.argmax()] + one[other.argmax()]) / 2


@dataclass(frozen=True)
class LastTokenLayers(SampleMethod):
    """The answer's probability with a layer's MLP output restored at the prompt's last token, whose whole state would
    bring back everything that comes before it."""

    what: ClassVar[str] = "layers at the last prompt token"

    tracing: Tracing

    @property
    def how(self) -> str:
        return "noise on all prompt tokens but the last, restored at the last"

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The settings, the tokens; and the id, from which the noise is drawn."""
        return {**self.tracing.settings, "id": asked.tokens.id, "tokens": asked.tokens.content}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """A ``LastTokenTracer``."""
        tracer = LastTokenTracer(lm, self.tracing)
        with tracer:
            yield lambda asked: {"values": tracer.by_layer(asked.tokens).numpy()}


class LastTokenTracer(Tracer):
    """A ``Tracer`` that noises all prompt tokens but the last and restores at the last alone; use inside ``with``.

    Equals the last token of a ``Trace`` whose subject is all that stands before it, at a fraction of the cost: a row
    for every layer and draw has one column, not all of the prompt.
    """

    @torch.no_grad()
    def by_layer(self, example: TokenizedExample) -> Float64[Tensor, " layers"]:
        """The answer's probability with each layer's clean output put back, mean over draws.

        Raises:
            ModelError: the rows do not reproduce the model, or its probabilities are not numbers.
        """
        tracing, last = self.tracing, example.answer_start - 1
        ids, clean = self._clean(example)
        rows = self._embedding(ids[None, :-1]).repeat(1 + tracing.draws, 1, 1)
        noise = draw_noise(tracing.seed, example.id, tracing.draws, last, rows.shape[-1])
        rows[1:, :last] += (self._deviation * noise).to(rows)
        _, restoration = self._restoration(example, ids, clean, rows, last)
        return restoration.probabilities(range(last, last + 1)).mean(0)[0]
