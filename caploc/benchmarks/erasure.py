"""The erasure benchmark: how much faster are many erased sets scored together, sharing what they have in common, than
one after the other, for the same scores?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import caploc
from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Operations, Rounds, disagreement, executed, spread_over
from caploc.benchmarks.models import DATA
from caploc.benchmarks.tables import Table, Value
from caploc.evaluation import Outcomes, evaluate, prepare
from caploc.locators.magnitude import random_sets
from caploc.model.loading import LanguageModel, load_model
from caploc.neurons import NeuronMask
from caploc.tests.oracles.evaluation import Way, direct_scores

# Two tokens or labels may be equally likely but for rounding, which then decides: more scores than this never differ.
_TIES = 0.01


@dataclass(frozen=True)
class Case:
    """One model and dataset, ``neurons`` random ones of ``layer`` in each set, and how the direct way scores.

    Attributes:
        layer: 0 is the hardest, as only what lies below a set's lowest layer is shared; it is also where nearly all
            neurons lie that are located in the embedded models, 15 to 27 at sigma 6.
        neurons: the more, the more texts go wrong and must be generated; with 384 of 512 nearly all.
    """

    model: str
    dataset: str
    way: Way
    neurons: int = 20
    layer: int = 0


@dataclass(frozen=True)
class Sizes:
    """``sets`` of neurons x ``items`` for each case; in every round ``timed`` sets are evaluated directly."""

    sets: int
    items: int
    timed: int
    cases: tuple[Case, ...]


_FAMILIES = ("tiny-llama", "tiny-gptj")

FULL = Sizes(
    sets=100,
    items=40,
    timed=3,
    cases=(
        *(Case(model, "gsm8k", "generate()") for model in _FAMILIES),
        Case("tiny-llama", "gsm8k", "generate()", layer=3),
        Case("tiny-llama", "gsm8k", "generate()", neurons=384),
        *(Case(model, "emotion", "forward per label") for model in _FAMILIES),
        *(Case(model, "emotion", "one forward") for model in _FAMILIES),
        *(Case(model, "code25k", "one forward") for model in _FAMILIES),
    ),
)

QUICK = Sizes(
    sets=3,
    items=3,
    timed=1,
    cases=(
        Case("tiny-llama", "gsm8k", "generate()", neurons=384),
        Case("tiny-llama", "emotion", "forward per label", layer=1),
        Case("tiny-llama", "emotion", "one forward"),
        Case("tiny-llama", "code25k", "one forward", layer=5),
    ),
)


class Contest:
    """One case, ready to run either way: the dataset's first evaluation items, and the sets of neurons."""

    def __init__(self, case: Case, sizes: Sizes) -> None:
        self.lm = lm = load_model(case.model)
        examples = caploc.load_examples(case.dataset, path=DATA, split="evaluate", limit=sizes.items)
        self.prepared = prepare(lm, case.dataset, examples)
        chosen = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
        chosen[case.layer, : case.neurons] = True
        self.sets = random_sets(NeuronMask(chosen), sizes.sets, seed=0)
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


def measure_ratios(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each case."""
    notes = [
        (
            "together: caploc.evaluation.evaluate, which gives every item's loss beside its score; direct: "
            "caploc.tests.oracles.evaluation, set by set with the weights zeroed, all items in one batch, the "
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
    table = Table("ratios", title, notes=notes)
    for case in tqdm(sizes.cases, desc="cases", unit="case", disable=None, leave=False):
        contest = table.made(f"{case.model} on {case.dataset}", partial(Contest, case, sizes))
        if contest is not None:
            table.rows.append(_row(contest, case, sizes, options))
    yield table


def _row(contest: Contest, case: Case, sizes: Sizes, options: Options) -> dict[str, Value]:
    parts = spread_over(sizes.sets, sizes.sets if options.whole else sizes.timed, options.repeat)
    every = sorted({number for numbers in parts for number in numbers})
    with counted(contest.lm) as fast_work:
        outcomes = contest.together()
    with counted(contest.lm) as slow_work:
        scores = contest.direct(every)
    differ = int((scores != outcomes.score[every]).sum())
    if differ > _TIES * scores.size:
        what = f"{differ} of {scores.size} scores of {case.model} on {case.dataset}"
        raise disagreement(f"{what} differ between the two ways", "evaluation")
    rounds = Rounds()
    for numbers in rounds.over(parts, f"{case.model} {case.dataset}"):
        rounds.time("direct", partial(contest.direct, numbers), sizes.sets / len(numbers))
        rounds.time("together", contest.together)
    scale, layers = sizes.sets / len(every), contest.lm.num_layers
    return {
        "model": case.model,
        "dataset": case.dataset,
        "erased": f"{case.neurons} in layer {case.layer}",
        "direct way": case.way,
        "direct / together": rounds.ratio("direct", "together"),
        "by count": slow_work.operations.matrix * scale / fast_work.operations.matrix,
        "together s": rounds.seconds("together"),
        "direct s": rounds.seconds("direct"),
        "together k tokens": fast_work.tokens / layers / 1000,
        "direct k tokens": slow_work.tokens * scale / layers / 1000,
        "together GFLOP": fast_work.operations.matrix / 1e9,
        "direct GFLOP": slow_work.operations.matrix * scale / 1e9,
        "score %": 100 * float(outcomes.score.mean()),
        "exact %": 100 * float(outcomes.exact.mean()),
        "scores differ": f"{differ} of {scores.size}",
        "sets timed": f"{len(every)} of {sizes.sets}",
    }
