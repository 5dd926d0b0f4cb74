"""Did an edit take, where it should and only there? Efficacy, paraphrase and neighbourhood scores and their harmonic
mean (Meng et al. 2022, section 3.2 and 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from caploc.datasets.edits import EditRequest
from caploc.errors import OptionError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.clean import target_log_probs
from caploc.rows.sizing import Budget

_CHUNK_TOKENS = 4096


class AnswerScore(NamedTuple):
    """How a model, teacher forced, takes an answer: log p in nats, the mean over the answer's tokens, and whether each
    token is the most probable one."""

    log_prob: float
    greedy: bool


@dataclass(frozen=True)
class EditScore:
    """What a model makes of one request, edited or not. Shares in [0, 1]; None where the request says too little.

    One answer is *more probable* than another if the mean log-probability of its tokens is higher, as ROME counts it.

    Attributes:
        id: the request's.
        efficacy: 1 if the new answer is more probable than the true one at the prompt, else 0.
        paraphrase: the share of paraphrases at which it is.
        neighbourhood: the share of neighbours whose own answer is more probable than the new one.
        exact: 1 if greedy decoding gives the new answer at the prompt, else 0.
        recalled: whether it gives the true one; of an unedited model, whether it knows the fact.
        new, true: log p of the answers at the prompt, nats per token.
    """

    id: str
    efficacy: float | None
    paraphrase: float | None
    neighbourhood: float | None
    exact: float
    recalled: bool | None
    new: float
    true: float | None

    @property
    def harmonic(self) -> float | None:
        """Harmonic mean of efficacy, paraphrase and neighbourhood."""
        return _harmonic(self.efficacy, self.paraphrase, self.neighbourhood)


@dataclass(frozen=True)
class EditSummary:
    """Means over requests, each over those that have the score; ``counts`` tells how many did."""

    efficacy: float | None
    paraphrase: float | None
    neighbourhood: float | None
    exact: float
    counts: dict[str, int]

    @property
    def harmonic(self) -> float | None:
        """Harmonic mean of the three means, ROME's S; None if one is missing."""
        return _harmonic(self.efficacy, self.paraphrase, self.neighbourhood)


def score_edit(lm: LanguageModel, request: EditRequest) -> EditScore:
    """Ask ``lm``, as it is, all prompts of ``request``. Call it inside an edit, or outside for the floor.

    Raises:
        ExampleError: a prompt or answer that cannot be tokenized, or is too long.
    """
    new, true = request.target_new, request.target_true
    asked: list[tuple[str, str]] = [(request.prompt, new)]
    if true is not None:
        asked += [
            (prompt, answer) for prompt in (request.prompt, *request.paraphrases) for answer in (new, true)
        ][1:]
    asked += [pair for neighbour in request.neighbours for pair in (neighbour, (neighbour.prompt, new))]
    found = iter(answer_scores(lm, [Example(request.id, prompt, answer) for prompt, answer in asked]))
    at_new = next(found)
    at_true = next(found) if true is not None else None
    rewritten = [next(found).log_prob > next(found).log_prob for _ in request.paraphrases if at_true]
    kept = [next(found).log_prob > next(found).log_prob for _ in request.neighbours]
    return EditScore(
        id=request.id,
        efficacy=None if at_true is None else float(at_new.log_prob > at_true.log_prob),
        paraphrase=_mean(rewritten),
        neighbourhood=_mean(kept),
        exact=float(at_new.greedy),
        recalled=None if at_true is None else at_true.greedy,
        new=at_new.log_prob,
        true=None if at_true is None else at_true.log_prob,
    )


def summarize_edits(scores: Sequence[EditScore]) -> EditSummary:
    """Means over requests.

    Raises:
        OptionError: no score.
    """
    if not scores:
        raise OptionError("there is no score of an edit to summarize; edit at least one fact")
    names = ("efficacy", "paraphrase", "neighbourhood", "exact")
    given = {
        name: [value for score in scores if (value := getattr(score, name)) is not None] for name in names
    }
    efficacy, paraphrase, neighbourhood = (_mean(given[name]) for name in names[:3])
    counts = {name: len(values) for name, values in given.items()}
    return EditSummary(efficacy, paraphrase, neighbourhood, fmean(given["exact"]), counts)


@torch.no_grad()
def answer_scores(lm: LanguageModel, examples: Sequence[Example]) -> list[AnswerScore]:
    """The answer of each example at its prompt, in batches.

    Raises:
        ExampleError: an example that cannot be tokenized, or is too long.
        ModelError: not even one example fits into the GPU's memory.
    """
    tokenized = [tokenize(lm, example) for example in examples]
    longest = max((len(example.input_ids) for example in tokenized), default=1)
    budget = Budget(lm, _CHUNK_TOKENS, gradients=False)
    refusal = "one answer to be scored does not fit into the GPU's memory; use a GPU with more memory"
    with frozen_eval(lm.model):
        batches = budget.in_parts(tokenized, lambda batch: list(_scores(lm, batch)), refusal, cost=longest)
    return [score for batch in batches for score in batch]


def _scores(lm: LanguageModel, batch: Sequence[TokenizedExample]) -> Iterator[AnswerScore]:
    # padded on the right, where nothing that is read looks: no mask is needed
    fed = pad_sequence([example.input_ids[:-1] for example in batch], batch_first=True).to(lm.device)
    logits = lm.model(input_ids=fed, use_cache=False).logits
    for row, example in zip(logits, batch, strict=True):
        targets = example.answer_ids.to(lm.device)
        own: Tensor = row[example.answer_start - 1 : len(example.input_ids) - 1]
        log_prob = target_log_probs(own, targets).double().mean()
        yield AnswerScore(float(log_prob), bool((own.argmax(-1) == targets).all()))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _harmonic(*values: float | None) -> float | None:
    given = [value for value in values if value is not None]
    return harmonic_mean(given) if len(given) == len(values) else None
