"""How much less CPU time tracing takes than one run of the whole sequence for each state, for the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor, nn
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.attribution.ratios import sample_pairs
from caploc.benchmarks.attribution.sizes import random_example
from caploc.benchmarks.attribution.work import executed
from caploc.benchmarks.tables import Spread, Table, Value, at_least
from caploc.benchmarks.timing import cpu_seconds
from caploc.benchmarks.tracing.cases import MODELS, SUBJECT_TOKENS, Case
from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.locators.causal_tracing.reference import reference_trace
from caploc.locators.causal_tracing.trace import Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.models import LanguageModel

# Far above float32's rounding (1e-7 to 1e-6 of the largest probability), far below any real difference.
_SAME = 1e-5

State = tuple[int, int]


class Contest:
    """One case, ready to run either way."""

    def __init__(self, case: Case) -> None:
        self.lm: LanguageModel = MODELS[case.family](case.layers, case.width)
        self.example: TokenizedExample = random_example(case.tokens, 1)
        self.subject = case.subject
        self.tracing = Tracing(case.kind, window=case.window)
        embedding: nn.Embedding = self.lm.model.get_input_embeddings()  # type: ignore[assignment]
        noise = draw_noise(0, self.example.id, self.tracing.draws, SUBJECT_TOKENS, embedding.embedding_dim)
        self._noise = self.tracing.noise * embedding_deviation(embedding) * noise

    def traced(self) -> Tensor:
        """As users run it: ``[draws, tokens, layers]``, all states."""
        with Tracer(self.lm, self.tracing) as tracer:
            return tracer.one(self.example, self.subject).restored_by_draw

    def direct(self, states: Sequence[State]) -> Tensor:
        """The reference, for these (token, layer) states; nan for the others."""
        example = self.example
        return reference_trace(
            self.lm, example.input_ids, example.answer_start, self.subject, self._noise, self.tracing, states
        )


def measure_ratios(cases: Sequence[Case], options: Options) -> Iterator[Table]:
    """One table, a row for each case."""
    columns = {
        "model": "model",
        "tokens": "tokens",
        "start": "subject at",
        "kind": "state",
        "ratio": "direct / traced",
        "count": "by count",
        "asked": "asked",
        "met": "met",
        "traced": "traced s",
        "direct": "direct s",
        "traced_work": "traced GFLOP",
        "direct_work": "direct",
        "error": "error",
        "states": "states timed",
    }
    notes = [
        (
            "direct: caploc.locators.causal_tracing.reference, for every (token, layer) one run of the whole sequence "
            "in a batch of the clean row and 10 corrupted ones, as in ROME's own code"
        ),
        (
            f"models have random weights in float32; the subject has {SUBJECT_TOKENS} tokens; tokens in front of it "
            "cost tracing nothing, so that a subject at token 1 is the hardest; a fifth into the prompt is the mean of "
            "COUNTERFACT, zsRE, known_1000 and ParaRel"
        ),
        (
            "all states cost the direct way the same, so a sample is timed (in every round each layer once, tokens "
            "spread over the prompt) and scaled by their number; --whole times all"
        ),
        "by count: matrix products as executed, counted in a run of their own",
        "error: largest difference between the two over the largest probability, on the states timed",
    ]
    table = Table("ratios", "CPU time of the direct way over causal tracing's", columns, notes=notes)
    for case in tqdm(cases, desc="cases", unit="case", disable=None, leave=False):
        table.rows.append(_row(case, options))
    yield table


def _row(case: Case, options: Options) -> dict[str, Value]:
    contest, total = Contest(case), case.tokens * case.layers
    every = [(token, layer) for token in range(case.tokens) for layer in range(case.layers)]
    sample: list[list[State]] = [[*pairs] for pairs in sample_pairs(case.layers, case.tokens, options.repeat)]
    rounds = [every] * options.repeat if options.whole else sample
    with executed() as fast_work:
        expected = contest.traced()
    with executed() as slow_work:
        contest.direct(every[:1])
    fast, slow, error = [], [], 0.0
    for states in rounds:
        before = cpu_seconds(contest.traced)
        seconds, found = _timed(partial(contest.direct, states))
        slow.append(seconds * total / len(states))
        fast.append((before + cpu_seconds(contest.traced)) / 2)
        error = max(error, float((found - expected)[~found.isnan()].abs().max() / expected.max()))
    _refuse(error, case)
    ratio = Spread.of([long / short for long, short in zip(slow, fast, strict=True)])
    return {
        "model": f"{case.family} {case.layers} x {case.width}",
        "tokens": case.tokens,
        "start": case.start,
        "kind": case.kind if case.window == 1 else f"{case.kind}, window {case.window}",
        "ratio": ratio,
        "count": slow_work.matrix * total / fast_work.matrix,
        **at_least(ratio, case.least_ratio),
        "traced": Spread.of(fast),
        "direct": Spread.of(slow),
        "traced_work": fast_work.matrix / 1e9,
        "direct_work": slow_work.matrix * total / 1e9,
        "error": error,
        "states": f"{len({state for states in rounds for state in states})} of {total}",
    }


def _timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    kept: list[Tensor] = []
    return cpu_seconds(lambda: kept.append(call())), kept[0]


def _refuse(error: float, case: Case) -> None:
    if not error <= _SAME:
        raise ModelError(
            f"causal tracing and the direct way differ by {error:.2g} of the largest probability on {case.family} "
            f"(rounding is below {_SAME:g}), so their times say nothing; run `python -m pytest caploc/tests/locators`"
        )
