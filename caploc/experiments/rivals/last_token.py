"""Causal tracing of prompts that have no subject: what each layer's MLP brings back at the prompt's last token."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from caploc.examples import TokenizedExample
from caploc.locators.causal_tracing.rows import Restoration, record
from caploc.locators.causal_tracing.trace import draw_noise
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.rows.clean import run_clean
from caploc.rows.reading import check_reproduced


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
