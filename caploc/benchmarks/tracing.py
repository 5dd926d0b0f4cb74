"""The causal tracing benchmark: how much faster is it than one run of the whole sequence for each state, for the same
numbers?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Pair, Rounds, all_pairs, check_same, executed, sample_pairs
from caploc.benchmarks.models import random_example, random_gptj, random_llama
from caploc.benchmarks.tables import Table, Value, at_least
from caploc.examples import TokenizedExample
from caploc.locators.causal_tracing.trace import Kind, Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.model.loading import LanguageModel
from caploc.tests.oracles.causal_tracing import reference_trace

SUBJECT_TOKENS = 4

# Far above float32's rounding (1e-7 to 1e-6 of the largest probability), far below any real difference.
_SAME = 1e-5

MODELS: Mapping[str, Callable[[int, int], LanguageModel]] = MappingProxyType(
    {"llama": random_llama, "gptj": random_gptj}
)


@dataclass(frozen=True)
class Case:
    """One model, prompt and kind of state.

    Attributes:
        tokens: of the prompt.
        start: the subject's first token. Tokens in front of it cost nothing, so 1, right after a beginning-of-sequence
            token, is the hardest place, and where most facts of COUNTERFACT, known_1000 and ParaRel have their
            subject. Those of zsRE have it halfway; the mean over the four is a fifth of the prompt.
        least_ratio: what caploc promises; None where nothing is promised.
    """

    family: str
    layers: int
    width: int
    tokens: int
    start: int
    kind: Kind
    window: int = 1
    least_ratio: float | None = None


FULL = (
    Case("llama", 6, 256, 30, 6, "mlp", least_ratio=6.0),
    Case("llama", 6, 256, 30, 6, "hidden", least_ratio=6.0),
    Case("llama", 6, 256, 30, 6, "attention", window=3),
    Case("llama", 6, 256, 30, 1, "mlp"),
    Case("gptj", 6, 256, 30, 6, "mlp", least_ratio=6.0),
    Case("llama", 12, 256, 40, 8, "mlp"),
    Case("llama", 6, 256, 30, 6, "mlp", window=10),  # ROME's own default
)

QUICK = (Case("llama", 3, 32, 9, 2, "mlp", window=2), Case("gptj", 2, 32, 7, 1, "hidden"))


class Contest:
    """One case, ready to run either way."""

    def __init__(self, case: Case) -> None:
        self.lm: LanguageModel = MODELS[case.family](case.layers, case.width)
        self.example: TokenizedExample = random_example(case.tokens, 1)
        self.subject = range(case.start, case.start + SUBJECT_TOKENS)
        self.tracing = Tracing(case.kind, window=case.window)
        embedding: nn.Embedding = self.lm.model.get_input_embeddings()  # type: ignore[assignment]
        noise = draw_noise(0, self.example.id, self.tracing.draws, SUBJECT_TOKENS, embedding.embedding_dim)
        self._noise = self.tracing.noise * embedding_deviation(embedding) * noise

    def traced(self) -> Tensor:
        """As users run it: ``[draws, tokens, layers]``, all states."""
        with Tracer(self.lm, self.tracing) as tracer:
            return tracer.one(self.example, self.subject).restored_by_draw

    def direct(self, states: Sequence[tuple[int, int]]) -> Tensor:
        """The oracle, for these (token, layer) states; nan for the others."""
        example = self.example
        return reference_trace(
            self.lm, example.input_ids, example.answer_start, self.subject, self._noise, self.tracing, states
        )


def measure_ratios(cases: Sequence[Case], options: Options) -> Iterator[Table]:
    """One table, a row for each case."""
    notes = [
        (
            "direct: caploc.tests.oracles.causal_tracing, for every (token, layer) one run of the whole sequence "
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
    table = Table("ratios", "CPU time of the direct way over causal tracing's", notes=notes)
    for case in tqdm(cases, desc="cases", unit="case", disable=None, leave=False):
        table.rows.append(_row(case, options))
    yield table


def _row(case: Case, options: Options) -> dict[str, Value]:
    contest, total = Contest(case), case.tokens * case.layers
    parts: list[list[Pair]] = sample_pairs(case.layers, case.tokens, options.repeat)
    if options.whole:
        parts = [all_pairs(case.layers, case.tokens)] * options.repeat
    with executed() as fast_work:
        expected = contest.traced()
    with executed() as slow_work:
        contest.direct([Pair(0, 0)])
    rounds, error = Rounds(), 0.0
    for states in rounds.over(parts, f"{case.family} {case.kind}"):
        rounds.time("traced", contest.traced, 0.5)
        found = rounds.time("direct", partial(contest.direct, states), total / len(states))
        rounds.time("traced", contest.traced, 0.5)
        error = max(error, float((found - expected)[~found.isnan()].abs().max() / expected.abs().max()))
    ways = "causal tracing and the direct way"
    check_same(error, _SAME, ways, f"of the largest probability on {case.family}", "locators")
    ratio = rounds.ratio("direct", "traced")
    return {
        "model": f"{case.family} {case.layers} x {case.width}",
        "tokens": case.tokens,
        "subject at": case.start,
        "state": case.kind if case.window == 1 else f"{case.kind}, window {case.window}",
        "direct / traced": ratio,
        "by count": slow_work.matrix * total / fast_work.matrix,
        **at_least(ratio, case.least_ratio),
        "traced s": rounds.seconds("traced"),
        "direct s": rounds.seconds("direct"),
        "traced GFLOP": fast_work.matrix / 1e9,
        "direct GFLOP": slow_work.matrix * total / 1e9,
        "error": error,
        "states timed": f"{len({state for states in parts for state in states})} of {total}",
    }
