"""Causal tracing of the facts that are edited and of those that the layer is located on (section 2.2, appendix C)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from caploc.examples import TokenizedExample, subject_tokens
from caploc.experiments.fidelity.prompts import for_each_prompt
from caploc.experiments.reliability.rome_facts import RomeFacts
from caploc.experiments.study import Study
from caploc.locators.causal_tracing.trace import Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.model.loading import LanguageModel
from caploc.streams import Stream, stream


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


def traced_facts(study: Study, found: RomeFacts) -> TracedFacts:
    """Traces of all facts, known or not; made once."""
    return study.once(("rome traces", found.facts.data_fingerprint), lambda: _traced(study, found))


def _traced(study: Study, found: RomeFacts) -> TracedFacts:
    lm, tracing, prompts = study.model_for(), Tracing(seed=study.settings.seed), found.facts.prompts
    subjects = [subject_tokens(lm, fact.wordings[0]) for fact in found.facts.facts]
    with ExitStack() as stack:
        entered: list[Tracer] = []

        def make(number: int) -> Mapping[str, np.ndarray]:
            if not entered:  # at the first missing prompt: a warm run touches no weight
                entered.append(stack.enter_context(Tracer(lm, tracing)))
            trace = entered[0].one(prompts[number], subjects[number])
            elsewhere = noised_elsewhere(lm, prompts[number], subjects[number], tracing)
            return {
                "restored": trace.by_layer().numpy(),
                "right": np.array(trace.clean_is_top),
                "right_noised": trace.corrupted_is_top.numpy(),
                "right_elsewhere": elsewhere.numpy(),
            }

        keys = [
            {
                "tracing": tracing.settings,
                "tokens": prompt.content,
                "subject": [subject.start, subject.stop],
                "id": prompt.id,  # the noise is drawn from it
            }
            for prompt, subject in zip(prompts, subjects, strict=True)
        ]
        arrays = [*for_each_prompt(study, lm, "traces of edited facts", keys, make)]
    return TracedFacts(**{name: np.stack([one[name] for one in arrays]) for name in arrays[0]})


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
