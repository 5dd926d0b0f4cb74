"""Causal tracing of single examples (section 2.2, appendix C; Meng et al. 2022), with everything reused that a restored
state cannot change."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from caploc.errors import ExampleError
from caploc.examples import TokenizedExample
from caploc.locators.causal_tracing.rows import Recording, Restoration, probability, record
from caploc.locators.causal_tracing.trace import Trace, Tracing, draw_noise, embedding_deviation
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import Borrower, wide_head
from caploc.rows.clean import CleanPass, check_reproduced, run_clean
from caploc.rows.model import RowModel
from caploc.rows.sizing import Budget


class Tracer(Borrower):
    """A model made ready for tracing; use inside ``with``, which restores it. Not for several threads at once.

    ::

        with Tracer(lm, Tracing(kind="hidden")) as tracer:
            trace = tracer.one(tokenize(lm, example), subject_tokens(lm, example))
    """

    def __init__(self, lm: LanguageModel, tracing: Tracing) -> None:
        self.lm, self.tracing = lm, tracing
        self._embedding: nn.Embedding = lm.model.get_input_embeddings()  # type: ignore[assignment]
        self._deviation = tracing.noise * embedding_deviation(self._embedding)
        self._model = RowModel(lm.model, lm.architecture)
        self._budget = Budget(lm, tracing.chunk_tokens)

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(wide_head(self.lm.model))
        stack.enter_context(self._model)

    def one(self, example: TokenizedExample, subject: range) -> Trace:
        """The trace of ``example``, whose tokens ``subject`` are noised (``caploc.examples.subject_tokens``).

        On CUDA, passes that do not fit into memory are tried again with half the tokens.

        Raises:
            ExampleError: ``subject`` is empty or not part of the prompt.
            ModelError: the rows do not reproduce the model, its probabilities are not numbers, or nothing fits.
        """
        if not (subject.step == 1 and 0 <= subject.start < subject.stop <= example.answer_start):
            raise ExampleError(
                f"example {example.id!r}: the subject's tokens {subject} are no part of the prompt's "
                f"{example.answer_start}; take those of caploc.examples.subject_tokens"
            )
        refusal = (
            f"example {example.id!r} does not fit into the GPU's memory even row by row; use a GPU with more memory or "
            "shorter prompts"
        )
        return self._budget.fitting(lambda: self._trace(example, subject), refusal)

    @torch.no_grad()
    def _trace(self, example: TokenizedExample, subject: range) -> Trace:
        lm, tracing, prompt = self.lm, self.tracing, example.answer_start
        ids, clean = self._clean(example)
        embedded = self._embedding(ids[None, :-1])
        noise = draw_noise(tracing.seed, example.id, tracing.draws, len(subject), embedded.shape[-1])
        corrupted, restored, is_top = [], [], []
        for part in noise.split(max(1, self._budget.tokens // embedded.shape[1])):
            rows = embedded.repeat(1 + len(part), 1, 1)
            rows[1:, subject.start : subject.stop] += (self._deviation * part).to(rows)
            runs, restoration = self._restoration(example, ids, clean, rows, subject.start)
            corrupted.append(probability(runs.log_probs[1:]))
            restored.append(restoration.probabilities(range(subject.start, prompt)))
            is_top.append(runs.is_top.cpu())
        without = torch.cat(corrupted)
        before = without[:, None, None].expand(-1, subject.start, lm.num_layers)
        return Trace(
            id=example.id,
            token_ids=tuple(example.prompt_ids.tolist()),
            subject=subject,
            clean=float(probability(clean.log_probs[prompt - 1 :])),
            corrupted=without,
            restored_by_draw=torch.cat([before, torch.cat(restored)], dim=1),
            clean_is_top=bool(is_top[0][0]),
            corrupted_is_top=torch.cat([part[1:] for part in is_top]),
            settings={**tracing.settings, "deviation": self._deviation},
        )

    def _clean(self, example: TokenizedExample) -> tuple[Int[Tensor, " tokens"], CleanPass]:
        """The tokens that are read, and the run without noise."""
        stop = example.answer_start + 1 if self.tracing.answer == "first" else None
        ids = example.input_ids[:stop].to(self.lm.device)
        return ids, run_clean(self.lm.model, self.lm.architecture, ids, 1)

    def _restoration(
        self,
        example: TokenizedExample,
        ids: Int[Tensor, " tokens"],
        clean: CleanPass,
        rows: Float[Tensor, "runs tokens width"],
        first: int,
    ) -> tuple[Recording, Restoration]:
        """The runs of ``rows``, the first of which has no noise and the others none before token ``first``, and what
        can be restored in them; checked against the model."""
        lm, prompt = self.lm, example.answer_start
        runs = record(lm, rows, ids[prompt:], self.tracing.kind)
        expected = runs.log_probs
        check_reproduced(expected[0], clean.log_probs[prompt - 1 :], lm.dtype, example.id, "the clean run")
        restoration = Restoration(self._model, clean, runs, self.tracing, self._budget.tokens)
        found = restoration.unrestored(first)
        check_reproduced(found, expected[:2].expand_as(found), lm.dtype, example.id, "rows of the same run")
        return runs, restoration
