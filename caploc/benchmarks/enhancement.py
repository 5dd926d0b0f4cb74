"""The enhancement benchmark: how much less time and memory does training a few neurons take than fine-tuning the whole
model with masked gradients?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Rounds, check_same
from caploc.benchmarks.models import random_examples, random_llama
from caploc.benchmarks.tables import Spread, Table, Value, at_least, at_most
from caploc.examples import TokenizedExample
from caploc.interventions.enhancement.batches import Batches
from caploc.interventions.enhancement.difference import TrainableRows
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.enhancement.training import Trainer
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.oracles.enhancement import MaskedFineTuning

# Far above float32's rounding, far below what another batch or a missing update makes.
_SAME = 1e-4


@dataclass(frozen=True)
class Case:
    """A set of neurons: ``share`` of all, at random in the layers from ``lowest`` on.

    ``least_ratio`` (masked over rows, time of a step) and ``most_memory`` (rows over masked) are what caploc promises;
    None where nothing is promised.
    """

    name: str
    share: float
    lowest: int = 0
    least_ratio: float | None = None
    most_memory: float | None = None

    def mask(self, layers: int, neurons: int) -> NeuronMask:
        """The neurons of a model of that shape, at least one, one of them in the lowest layer."""
        drawn = np.zeros((layers, neurons), dtype=bool)
        part = drawn[self.lowest :]
        part[0, 0] = True
        count = round(self.share * layers * neurons) - 1
        others = np.random.default_rng(0).permutation(np.arange(1, part.size))
        part.ravel()[others[: max(0, count)]] = True
        return NeuronMask(torch.from_numpy(drawn))


@dataclass(frozen=True)
class Sizes:
    """A Llama, batches of ``batch`` examples of ``prompt + answer`` tokens, and what is trained."""

    layers: int
    width: int
    neurons: int
    batch: int
    prompt: int
    answer: int
    cases: tuple[Case, ...]
    shares: tuple[float, ...]

    def model(self) -> LanguageModel:
        """With random weights in float32."""
        return random_llama(self.layers, self.width, intermediate_size=self.neurons)

    def examples(self) -> list[TokenizedExample]:
        """One batch of random tokens, all of one length, so that no way pays for padding."""
        return random_examples(self.batch, self.prompt, self.answer)


FULL = Sizes(
    layers=8,
    width=512,
    neurons=1376,
    batch=8,
    prompt=48,
    answer=16,
    cases=(
        Case("0.15 %", 0.0015, least_ratio=1.5, most_memory=0.01),
        Case("0.15 %, upper half", 0.0015, lowest=4, least_ratio=1.5, most_memory=0.01),
        Case("5 %", 0.05),
        Case("99.85 %", 0.9985),
    ),
    shares=(0.0015, 0.003, 0.03, 0.3, 0.6, 1.0),
)

QUICK = Sizes(
    layers=3,
    width=32,
    neurons=40,
    batch=2,
    prompt=6,
    answer=3,
    cases=(Case("few", 0.03), Case("few, upper", 0.03, lowest=1), Case("most", 0.9)),
    shares=(0.05, 0.1, 1.0),
)


class Contest:
    """One set of neurons, trained both ways from the same weights."""

    def __init__(self, sizes: Sizes, case: Case) -> None:
        lm = sizes.model()
        self.mask = case.mask(lm.num_layers, lm.num_neurons)
        self.examples = sizes.examples()
        recipe = Recipe(batch_size=sizes.batch)
        self.masked = MaskedFineTuning(lm, self.mask, recipe)
        self.rows = Trainer(lm, self.mask, recipe)
        self._batches = Batches(lm, self.examples, recipe)

    def masked_step(self) -> float:
        """One step of masked fine-tuning; the loss before it."""
        loss = self.masked.gradients(self.examples)
        self.masked.update()
        return loss

    def rows_step(self) -> float:
        """One step on the chosen rows; the loss before it."""
        loss = self.rows.gradients(self._batches, np.arange(len(self._batches)))
        self.rows.update()
        return loss


def rows_bytes(trainer: Trainer) -> int:
    """`held_bytes` of a trainer, which on a CPU holds them beside the model."""
    rows, optimizer = trainer.rows, trainer.optimizer
    assert isinstance(rows, TrainableRows) and isinstance(optimizer, torch.optim.Optimizer)
    return held_bytes(rows.parameters, optimizer)


def held_bytes(parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the parameters' gradients and of the optimizer's state, as they lie there."""
    state = [value for held in optimizer.state.values() for value in held.values()]
    gradients = [parameter.grad for parameter in parameters]
    tensors = [tensor for tensor in (*state, *gradients) if isinstance(tensor, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_steps(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each set of neurons."""
    notes = [
        (
            "masked: caploc.tests.oracles.enhancement, gradients of all parameters times a mask, torch's "
            "Adam on all; rows: caploc.interventions.enhancement; a step is forward, backward and update of one batch"
        ),
        "memory: gradients and optimizer state, bytes of the tensors after a step; MB = 10^6 bytes",
        (
            "rows runs the last layer's MLP and the head at the answer's tokens only, masked at all, as a plain "
            f"training loop does; batches of {sizes.batch} with {sizes.prompt} + {sizes.answer} tokens, no padding"
        ),
        "error: largest difference between the two ways' losses, nats a token, over all steps",
    ]
    title = f"CPU time and memory of a training step, Llama of {sizes.layers} layers, width {sizes.width}"
    table = Table("steps", title, notes=notes)
    for case in tqdm(sizes.cases, desc="cases", unit="case", disable=None, leave=False):
        table.rows.append(step_row(sizes, case, options.repeat))
    yield table


def step_row(sizes: Sizes, case: Case, repeat: int) -> dict[str, Value]:
    """One set of neurons."""
    contest, rounds = Contest(sizes, case), Rounds()
    with contest.rows:
        # untimed: the first steps make the optimizers' state
        losses = [(contest.masked_step(), contest.rows_step())]
        for _ in rounds.over(range(repeat), case.name):
            masked = rounds.time("masked", contest.masked_step)
            losses.append((masked, rounds.time("rows", contest.rows_step)))
    error = max(abs(masked - rows) for masked, rows in losses)
    ways = "training rows and masked fine-tuning"
    check_same(error, _SAME, ways, f"nats a token on {case.name}", "interventions")
    few = rows_bytes(contest.rows)
    many = held_bytes(contest.masked.model.parameters(), contest.masked.optimizer)
    ratio, share = rounds.ratio("masked", "rows"), few / many
    most = case.most_memory
    memory = at_most(Spread.of([100 * share]), None if most is None else 100 * most)
    return {
        "neurons trained": f"{case.name} ({contest.mask.count})",
        "lowest layer": case.lowest,
        "masked / rows": ratio,
        **at_least(ratio, case.least_ratio),
        "rows s": rounds.seconds("rows"),
        "masked s": rounds.seconds("masked"),
        "memory %": 100 * share,
        **{f"memory {key}": value for key, value in memory.items()},
        "rows MB": few / 1e6,
        "masked MB": many / 1e6,
        "error": error,
    }


def measure_memory(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each share of all neurons: gradients and optimizer state grow with the neurons that are
    trained, not with the model."""
    lm, recipe = sizes.model(), Recipe()
    batches = Batches(lm, sizes.examples()[:1], recipe)
    table = Table(
        "memory",
        f"Gradients and optimizer state by neurons trained, Llama of {sizes.layers} layers, width {sizes.width}",
        notes=[
            "bytes of the tensors after one step; a neuron has a gate row, an up row and a column, "
            f"{lm.parameters_per_neuron:,} weights, each with a gradient and Adam's two moments of 4 bytes"
        ],
    )
    for share in sizes.shares:
        mask = Case("", share).mask(lm.num_layers, lm.num_neurons)
        with Trainer(lm, mask, recipe) as trainer:
            trainer.gradients(batches, np.array([0]))
            trainer.update()
        held = rows_bytes(trainer)
        row: dict[str, Value] = {
            "neurons trained": mask.count,
            "of all %": 100 * mask.ratio,
            "MB": held / 1e6,
            "bytes a neuron": held / mask.count,
        }
        table.rows.append(row)
    yield table
