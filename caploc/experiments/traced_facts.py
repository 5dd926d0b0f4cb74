"""Causal tracing of facts that are edited, and the layer that counts as located (section 2.2, appendix C).

``FactTraces("zsre")`` names the traces of all facts that can be edited, those that are and those that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from caploc.examples import TokenizedExample
from caploc.experiments.edited_facts import Editable, EditableFacts
from caploc.experiments.facts import FactPrompts, passes_flops, require_known
from caploc.experiments.locating_facts import PASSES
from caploc.experiments.specs import Arrays, Spec, Task
from caploc.experiments.study import Study
from caploc.locators.causal_tracing.trace import Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.locators.method import Asked
from caploc.locators.traced_layers import TracedLayers
from caploc.model.loading import LanguageModel
from caploc.store import Entry
from caploc.streams import Stream, stream

PRINTED_LAYER: Mapping[str, int] = MappingProxyType({"gptj-6b": 5})
"""The layer that section 3.2 edits, and ROME's code, counted from 0, of the one model that it is printed for."""


@dataclass(frozen=True, eq=False)
class TracedFacts:
    """Causal tracing of F facts in their original wordings; D draws of the noise.

    Attributes:
        restored: ``[F, layers]`` P(answer's first token) with noise on the subject and the layer's MLP output at the
            subject's last token put back, mean over draws.
        right: ``[F]`` whether the answer's first token is the most probable one without noise.
        right_noised: ``[F, D]`` the same with each draw of the noise on the subject.
        right_elsewhere: ``[F, D]`` the same with noise on as many other tokens of the prompt, all of them where there
            are no more.
    """

    restored: np.ndarray
    right: np.ndarray
    right_noised: np.ndarray
    right_elsewhere: np.ndarray


@dataclass(frozen=True)
class FactTraces(Spec[TracedFacts]):
    """Traces of all of a dataset's facts that can be edited, known or not. FloorError: the model knows too few."""

    dataset: str

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Editable(self.dataset)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts = require_known(study, study.result(Editable(self.dataset)).facts)
        method = TracedWithNoise(Tracing(seed=study.settings.seed))
        for tokens, example in zip(facts.prompts, facts.examples, strict=True):
            asked = Asked(tokens, example)
            yield Task(method.key(study.lm, asked), partial(self._traced, study, method, asked))

    def _traced(
        self, study: Study, method: TracedWithNoise, asked: Asked
    ) -> tuple[Arrays, Mapping[str, Any]]:
        return study.hold(method, "", method.measuring)(asked), {"example": asked.tokens.id}

    def read(self, study: Study, entries: Iterator[Entry]) -> TracedFacts:
        rows = [entry.arrays for entry in entries]
        return TracedFacts(**{name: np.stack([row[name] for row in rows]) for name in rows[0]})

    def flops(self, study: Study) -> float:
        return passes_flops(study, FactPrompts(self.dataset, 1), PASSES["rome"])


@dataclass(frozen=True)
class TracedWithNoise(TracedLayers):
    """As for locating layers, with what the noise alone does: the arrays of `TracedFacts`, without F."""

    what: ClassVar[str] = "traces of edited facts"

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """A ``Tracer``."""
        with Tracer(lm, self.tracing) as tracer:

            def measure(asked: Asked) -> Arrays:
                subject = self.subject(lm, asked)
                trace = tracer.one(asked.tokens, subject)
                elsewhere = noised_elsewhere(lm, asked.tokens, subject, self.tracing)
                return {
                    "restored": trace.by_layer().numpy(),
                    "right": np.array(trace.clean_is_top),
                    "right_noised": trace.corrupted_is_top.numpy(),
                    "right_elsewhere": elsewhere.numpy(),
                }

            yield measure


@torch.no_grad()
def noised_elsewhere(
    lm: LanguageModel, prompt: TokenizedExample, subject: range, tracing: Tracing
) -> Bool[Tensor, " draws"]:
    """Whether the answer's first token is the most probable one with each draw of the subject's noise added to as many
    other tokens of the prompt, drawn at random; special tokens are spared."""
    special = set(lm.tokenizer.all_special_ids)
    ids = prompt.prompt_ids
    others = [
        place for place, token in enumerate(ids.tolist()) if place not in subject and token not in special
    ]
    order = stream(Stream.NOISED_ELSEWHERE, tracing.seed, *ids.tolist()).permutation(others)[: len(subject)]
    embedding: nn.Embedding = lm.model.get_input_embeddings()  # type: ignore[assignment]
    embedded = embedding(ids[None].to(lm.device))
    noise = draw_noise(tracing.seed, prompt.id, tracing.draws, len(subject), embedded.shape[-1])
    rows = embedded.repeat(tracing.draws, 1, 1)
    rows[:, order.astype(int)] += (
        tracing.noise * embedding_deviation(embedding) * noise[:, : len(order)]
    ).to(rows)
    logits = lm.model(inputs_embeds=rows, use_cache=False).logits[:, -1]
    return (logits.argmax(-1) == int(prompt.answer_ids[0])).cpu()


@dataclass(frozen=True, eq=False)
class LocatedLayer:
    """``layer``, from 0; ``restored [layers]`` what tracing restores, mean over the facts that are not edited;
    ``note``: why this layer."""

    layer: int
    restored: np.ndarray
    note: str


def locate_layer(model: str, found: EditableFacts, traces: TracedFacts) -> LocatedLayer:
    """The layer that counts as located, by a rule fixed beforehand: the printed one, where the paper's model is edited.

    Other models have other depths: there it is the layer whose MLP output, put back at the subject's last token,
    restores the most probability, mean over known facts that are not edited. So no outcome of an edit, and no fact that
    is edited, has a say in the choice; of equal layers the first is taken.

    Raises:
        FloorError: too few facts are known to set some aside.
    """
    restored = traces.restored[found.others].mean(0)
    traced = int(restored.argmax())
    if model in PRINTED_LAYER:
        layer = PRINTED_LAYER[model]
        return LocatedLayer(
            layer, restored, f"layer {layer} is the printed one; tracing names layer {traced}"
        )
    note = (
        f"layer {traced} stands for the printed layer 5 of GPT-J: causal tracing names it on {len(found.others)} known "
        f"facts that are not edited (restored P {restored[traced]:.3g}, {np.sort(restored)[-2]:.3g} in the next best)"
    )
    return LocatedLayer(traced, restored, note)
