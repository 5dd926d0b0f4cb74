"""Causal tracing of single examples (section 2.2, appendix C; Meng et al. 2022), with everything reused that a restored
state cannot change."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import nn

from caploc.errors import ExampleError
from caploc.examples import TokenizedExample
from caploc.locators.causal_tracing.rows import Restoration, probability, record
from caploc.locators.causal_tracing.trace import Trace, Tracing, draw_noise, embedding_deviation
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import wide_head
from caploc.rows.clean import run_clean
from caploc.rows.model import RowModel
from caploc.rows.reading import check_reproduced
from caploc.rows.sizing import Budget


class Tracer:
    """A model made ready for tracing; use inside ``with``, which restores it. Not for several threads at once.

    ::

        with Tracer(lm, Tracing(kind="mlp")) as tracer:
            trace = tracer.one(tokenize(lm, example), subject_tokens(lm, example))
    """

    def __init__(self, lm: LanguageModel, tracing: Tracing) -> None:
        self.lm, self.tracing = lm, tracing
        self._embedding: nn.Embedding = lm.model.get_input_embeddings()  # type: ignore[assignment]
        self._deviation = tracing.noise * embedding_deviation(self._embedding)
        self._model = RowModel(lm.model, lm.architecture)
        self._budget = Budget(lm, tracing.chunk_tokens)
        self._stack = ExitStack()

    def __enter__(self) -> Tracer:
        with ExitStack() as stack:
            stack.enter_context(wide_head(self.lm.model))
            stack.enter_context(self._model)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

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
        ids = example.input_ids[: prompt + 1 if tracing.answer == "first" else None].to(lm.device)
        clean = run_clean(lm.model, lm.architecture, ids, 1)
        embedded = self._embedding(ids[None, :-1])
        noise = draw_noise(tracing.seed, example.id, tracing.draws, len(subject), embedded.shape[-1])
        corrupted, restored, is_top = [], [], []
        for part in noise.split(max(1, self._budget.tokens // embedded.shape[1])):
            rows = embedded.repeat(1 + len(part), 1, 1)
            rows[1:, subject.start : subject.stop] += (self._deviation * part).to(rows)
            runs = record(lm, rows, ids[prompt:], tracing.kind)
            expected = runs.log_probs
            check_reproduced(
                expected[0], clean.log_probs[prompt - 1 :], lm.dtype, example.id, "the clean run"
            )
            restoration = Restoration(self._model, clean, runs, tracing, self._budget.tokens)
            found = restoration.unrestored(subject.start)
            check_reproduced(
                found, expected[:2].expand_as(found), lm.dtype, example.id, "rows of the same run"
            )
            corrupted.append(probability(expected[1:]))
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
