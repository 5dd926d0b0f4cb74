"""How much less time and memory a step takes than one of fine-tuning the whole model with masked gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.enhancement import Case, Sizes
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.tables import Spread, Table, Value, at_least, at_most
from caploc.errors import ModelError
from caploc.interventions.enhancement.batches import Batches
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.enhancement.training import Trainer
from caploc.tests.oracles.enhancement import MaskedFineTuning

# Far above float32's rounding, far below what another batch or a missing update makes.
_SAME = 1e-4


def held_bytes(parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the parameters' gradients and of the optimizer's state, as they lie there."""
    state = [value for held in optimizer.state.values() for value in held.values()]
    gradients = [parameter.grad for parameter in parameters]
    tensors = [tensor for tensor in (*state, *gradients) if isinstance(tensor, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


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


def measure_steps(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each set of neurons."""
    columns = {
        "neurons": "neurons trained",
        "lowest": "lowest layer",
        "ratio": "masked / rows",
        "asked": "asked",
        "met": "met",
        "rows": "rows s",
        "masked": "masked s",
        "share": "memory %",
        "asked_share": "asked",
        "met_share": "met",
        "rows_memory": "rows MB",
        "masked_memory": "masked MB",
        "error": "error",
    }
    notes = [
        (
            "masked: caploc.interventions.enhancement.reference, gradients of all parameters times a mask, torch's "
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
    table = Table("steps", title, columns, notes=notes)
    for case in tqdm(sizes.cases, desc="cases", unit="case", disable=None, leave=False):
        table.rows.append(_row(sizes, case, options.repeat))
    yield table


def _row(sizes: Sizes, case: Case, rounds: int) -> dict[str, Value]:
    contest = Contest(sizes, case)
    fast, slow, losses = [], [], []

    def timed(step: int, rows: bool) -> float:
        work = contest.rows_step if rows else contest.masked_step
        return cpu_seconds(lambda: losses.append((step, work())))

    with contest.rows:
        for step in range(rounds + 1):  # the first warms up, and makes the optimizers' state
            slow.append(timed(step, rows=False))
            fast.append(timed(step, rows=True))
    error = max(abs(losses[i][1] - losses[i + 1][1]) for i in range(0, len(losses), 2))
    if not error <= _SAME:
        raise ModelError(
            f"training rows and masked fine-tuning differ by {error:.2g} nats a token on {case.name} (rounding is "
            f"below {_SAME:g}), so their times say nothing; run `python -m pytest caploc/tests/interventions`"
        )
    few = held_bytes(contest.rows.rows.parameters, contest.rows.optimizer)
    many = held_bytes(contest.masked.model.parameters(), contest.masked.optimizer)
    ratio, share = Spread.of([b / a for a, b in zip(fast[1:], slow[1:], strict=True)]), few / many
    most = case.most_memory
    memory = at_most(Spread.of([100 * share]), None if most is None else 100 * most)
    return {
        "neurons": f"{case.name} ({contest.mask.count})",
        "lowest": case.lowest,
        "ratio": ratio,
        **at_least(ratio, case.least_ratio),
        "rows": Spread.of(fast[1:]),
        "masked": Spread.of(slow[1:]),
        "share": 100 * share,
        **{f"{key}_share": value for key, value in memory.items()},
        "rows_memory": few / 1e6,
        "masked_memory": many / 1e6,
        "error": error,
    }
