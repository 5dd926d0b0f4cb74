"""How much less CPU time it takes to score many erased sets together than one after the other, for the same scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.erasure import Case, Sizes
from caploc.benchmarks.measuring import Operations, executed
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.tables import Spread, Table, Value
from caploc.errors import CaplocError, ModelError
from caploc.evaluation import Outcomes, evaluate
from caploc.model.loading import LanguageModel, load_model
from caploc.tests.oracles.evaluation import direct_scores

# Two tokens or labels may be equally likely but for rounding, which then decides: more scores than this never differ.
_TIES = 0.01


class Contest:
    """One case, ready to run either way."""

    def __init__(self, case: Case, sizes: Sizes) -> None:
        self.lm = load_model(case.model)
        self.prepared = case.prepared(self.lm, sizes.items)
        self.sets = case.sets(self.lm, sizes.sets)
        self._way = case.way

    def together(self) -> Outcomes:
        """As users run it: all sets."""
        return evaluate(self.lm, self.prepared, self.sets)

    def direct(self, numbers: Sequence[int]) -> np.ndarray:
        """The scores ``[numbers, items]`` of these sets, one after the other."""
        return np.stack(
            [direct_scores(self.lm, self.prepared, self.sets[number], self._way) for number in numbers]
        )


@dataclass
class Work:
    """What was executed: operations, and tokens that passed a layer's attention."""

    operations: Operations
    tokens: int = 0


@contextmanager
def counted(lm: LanguageModel) -> Iterator[Work]:
    """Count what ``lm`` executes inside; slow, so never while timing."""
    with ExitStack() as stack:
        work = Work(stack.enter_context(executed()))

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            work.tokens += inputs[0].numel() // inputs[0].shape[-1]

        for layer in lm.layers:
            projection = layer.get_submodule(lm.architecture.attention_out)
            stack.callback(projection.register_forward_pre_hook(count).remove)
        yield work


def spread_over(sets: int, timed: int, rounds: int) -> list[list[int]]:
    """For each round ``timed`` of the sets, at even distances; no set comes twice as long as there are enough."""
    timed = min(timed, sets)
    places = np.arange(timed)[None] + np.arange(rounds)[:, None] / rounds
    return (places * sets / timed).astype(int).tolist()


def measure_ratios(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each case."""
    columns = {
        "model": "model",
        "dataset": "dataset",
        "erased": "erased",
        "way": "direct way",
        "ratio": "direct / together",
        "count": "by count",
        "together": "together s",
        "direct": "direct s",
        "together_tokens": "together k tokens",
        "direct_tokens": "direct",
        "together_work": "together GFLOP",
        "direct_work": "direct",
        "score": "score %",
        "exact": "exact %",
        "differ": "scores differ",
        "sets": "sets timed",
    }
    notes = [
        (
            "together: caploc.evaluation.evaluate, which gives every item's loss beside its score; direct: "
            "caploc.benchmarks.erasure.reference, set by set with the weights zeroed, all items in one batch, the "
            "score alone"
        ),
        (
            "generate() is greedy, with its cache; labels are read off one forward pass each or, as all are one token "
            "here, off a single one of the prompts; code25k is token accuracy, teacher forced"
        ),
        (
            "the direct way is timed on sets spread over all, others in each round, and scaled by their number; "
            "--whole times all"
        ),
        (
            "by count: matrix products as executed, counted in a run of their own; tokens: those that pass a layer's "
            "attention, padding included, over the number of layers"
        ),
        (
            "score, exact: mean over all sets; exact is the share of references predicted without a wrong token, whose "
            "texts evaluate need not generate; scores differ: on the sets timed, item by item"
        ),
    ]
    title = f"CPU time of {sizes.sets} erased sets on {sizes.items} items, float32: one after the other over together"
    table = Table("ratios", title, columns, notes=notes)
    for case in tqdm(sizes.cases, desc="cases", unit="case", disable=None, leave=False):
        try:
            contest = Contest(case, sizes)
        except CaplocError as error:
            table.notes.append(f"{case.model} on {case.dataset} not measured: {error}")
            continue
        table.rows.append(_row(contest, case, sizes, options))
    yield table


def _row(contest: Contest, case: Case, sizes: Sizes, options: Options) -> dict[str, Value]:
    timed = sizes.sets if options.whole else sizes.timed
    rounds = spread_over(sizes.sets, timed, options.repeat)
    every = sorted({number for numbers in rounds for number in numbers})
    with counted(contest.lm) as fast_work:
        outcomes = contest.together()
    with counted(contest.lm) as slow_work:
        scores = contest.direct(every)
    differ = int((scores != outcomes.score[every]).sum())
    if differ > _TIES * scores.size:
        raise ModelError(
            f"{differ} of {scores.size} scores of {case.model} on {case.dataset} differ between the two ways, so their "
            "times say nothing; run `python -m pytest caploc/tests/evaluation`"
        )
    fast, slow = [], []
    for numbers in tqdm(rounds, desc=f"{case.model} {case.dataset}", unit="round", disable=None, leave=False):
        slow.append(cpu_seconds(lambda sets=numbers: contest.direct(sets)) * sizes.sets / len(numbers))  # type: ignore[misc]
        fast.append(cpu_seconds(contest.together))
    scale, layers = sizes.sets / len(every), contest.lm.num_layers
    return {
        "model": case.model,
        "dataset": case.dataset,
        "erased": f"{case.neurons} in layer {case.layer}",
        "way": case.way,
        "ratio": Spread.of([long / short for long, short in zip(slow, fast, strict=True)]),
        "count": slow_work.operations.matrix * scale / fast_work.operations.matrix,
        "together": Spread.of(fast),
        "direct": Spread.of(slow),
        "together_tokens": fast_work.tokens / layers / 1000,
        "direct_tokens": slow_work.tokens * scale / layers / 1000,
        "together_work": fast_work.operations.matrix / 1e9,
        "direct_work": slow_work.operations.matrix * scale / 1e9,
        "score": 100 * float(outcomes.score.mean()),
        "exact": 100 * float(outcomes.exact.mean()),
        "differ": f"{differ} of {scores.size}",
        "sets": f"{len(every)} of {sizes.sets}",
    }
