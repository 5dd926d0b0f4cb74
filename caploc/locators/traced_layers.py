"""Causal tracing, measured on facts at the subject's last token, and on prompts without a subject at their last token:
what each layer's MLP brings back of the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from caploc.errors import ExampleError, ModelError
from caploc.examples import TokenizedExample, subject_tokens
from caploc.locators.causal_tracing.rows import Restoration, record
from caploc.locators.causal_tracing.trace import Tracing, draw_noise
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.layers import LayerSet
from caploc.locators.method import Arrays, Asked, FactMethod, SampleMethod
from caploc.model.loading import LanguageModel
from caploc.rows.clean import run_clean
from caploc.rows.reading import check_reproduced

TOP_K = 3
"""Section 3.1's number of layers."""


@dataclass(frozen=True)
class TracedLayers(FactMethod):
    """``restored [layers]``, the answer's probability with a layer's MLP restored at the subject's last token;
    ``clean`` without noise and ``corrupted`` with it, means over draws."""

    what: ClassVar[str] = "layers by causal tracing"

    tracing: Tracing

    def check(self, lm: LanguageModel) -> None:
        """Raise ``ModelError`` unless there are more layers than are chosen."""
        if lm.num_layers <= TOP_K:
            raise ModelError(
                f"{lm.name} has {lm.num_layers} layers, and {TOP_K} are to be chosen of more; take a deeper model"
            )

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The settings, the tokens, the subject's place; and the id, from which the noise is drawn."""
        tokens, subject = asked.tokens, self._subject(lm, asked)
        place = [subject.start, subject.stop]
        return {"tracing": self.tracing.settings, "tokens": tokens.content, "subject": place, "id": tokens.id}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """A ``Tracer``."""
        with Tracer(lm, self.tracing) as tracer:

            def measure(asked: Asked) -> Arrays:
                trace = tracer.one(asked.tokens, self._subject(lm, asked))
                return {
                    "restored": trace.by_layer().numpy(),
                    "clean": np.array(trace.clean),
                    "corrupted": np.array(float(trace.corrupted.mean())),
                }

            yield measure

    def cuts(self, lm: LanguageModel, arrays: Arrays) -> Mapping[str, LayerSet]:
        """The three best layers; the best one and the two best show how much hangs on it."""
        scores = arrays["restored"].tolist()
        return {f"top {count}": LayerSet.best(scores, count) for count in (TOP_K, 1, 2)}

    @staticmethod
    def _subject(lm: LanguageModel, asked: Asked) -> range:
        if asked.example is None:
            raise ExampleError(
                f"example {asked.tokens.id!r} has only tokens; causal tracing needs its subject"
            )
        return subject_tokens(lm, asked.example)


@dataclass(frozen=True)
class LastTokenLayers(SampleMethod):
    """The answer's probability with a layer's MLP restored at the prompt's last token."""

    what: ClassVar[str] = "layers at the last prompt token"

    tracing: Tracing

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """The settings, the tokens; and the id, from which the noise is drawn."""
        return {**self.tracing.settings, "id": asked.tokens.id, "tokens": asked.tokens.content}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """A ``LastTokenTracer``."""
        tracer = LastTokenTracer(lm, self.tracing)
        with tracer:
            yield lambda asked: {"values": tracer.by_layer(asked.tokens).numpy()}

    def evidence(self, lm: LanguageModel, arrays: Arrays) -> Float[np.ndarray, " layers"]:
        """The probabilities."""
        return arrays["values"].astype(np.float64)

    def rank(self, lm: LanguageModel, means: Float[np.ndarray, "rows ..."]) -> np.ndarray:
        """The mean probabilities, layer by layer."""
        return means


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
        lm, tracing, prompt = self.lm, self.tracing, example.answer_start
        ids = example.input_ids[: prompt + 1 if tracing.answer == "first" else None].to(lm.device)
        clean = run_clean(lm.model, lm.architecture, ids, 1)
        rows = self._embedding(ids[None, :-1]).repeat(1 + tracing.draws, 1, 1)
        noise = draw_noise(tracing.seed, example.id, tracing.draws, prompt - 1, rows.shape[-1])
        rows[1:, : prompt - 1] += (self._deviation * noise).to(rows)
        runs = record(lm, rows, ids[prompt:], tracing.kind)
        check_reproduced(
            runs.log_probs[0], clean.log_probs[prompt - 1 :], lm.dtype, example.id, "the clean run"
        )
        restoration = Restoration(self._model, clean, runs, tracing, self._budget.tokens)
        found = restoration.unrestored(prompt - 1)
        check_reproduced(
            found, runs.log_probs[:2].expand_as(found), lm.dtype, example.id, "rows of the same run"
        )
        return restoration.probabilities(range(prompt - 1, prompt)).mean(0)[0]
