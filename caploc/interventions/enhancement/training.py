"""Fine-tune chosen neurons, and keep what it changed after chosen epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from caploc.errors import ModelError, OptionError
from caploc.examples import TokenizedExample
from caploc.interventions.activations import stacked
from caploc.interventions.enhancement.batches import (
    Batch,
    Batches,
    ReadTokens,
    check_apart,
    orders,
    vocabulary,
)
from caploc.interventions.enhancement.difference import RowDifference, TrainableRows
from caploc.interventions.enhancement.in_place import RowsInPlace, needs_to_be_in_place, zeroed_in_place
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.weights import replaced_weights, zeroed_weights
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import Borrower, frozen_eval, wide_head
from caploc.rows.sizing import Budget, refused_if_too_large

_REFUSAL = (
    "training does not fit into the GPU's memory even one example at a time; set length_limit, load the model in "
    "bfloat16, or use a GPU with more memory"
)
# A run has diverged when its loss is no number, or so many times the first one and above that of guessing, by a nat,
# for so many steps on end.
DIVERGED_TIMES, DIVERGED_NATS, DIVERGED_STEPS = 3.0, 1.0, 5


@dataclass(frozen=True, eq=False)
class Enhancement:
    """A training run.

    Attributes:
        recipe: how it was trained.
        at: by epoch, for those of ``recipe.keep`` that were reached, the trained difference.
        losses: each step's training loss before its update, nats a token; the last may be no number if it diverged.
        held_out: by epoch, 0 being the untrained model and then those of ``recipe.keep``, the loss on the held-out
            examples; empty if there are none.
        steps_per_epoch: so that losses can be drawn over epochs.
        diverged: the number of updates after which training was given up; None if it went to its end.
    """

    recipe: Recipe
    at: Mapping[int, RowDifference]
    losses: Float64[np.ndarray, " steps"]
    held_out: Mapping[int, float]
    steps_per_epoch: int
    diverged: int | None = None

    @property
    def remark(self) -> str | None:
        """One sentence on a run that diverged; None for any other."""
        if self.diverged is None:
            return None
        kept = f"kept are epochs {', '.join(map(str, self.at))}" if self.at else "no epoch was kept"
        return (
            f"training at a rate of {self.recipe.lr:g} diverged after {self.diverged} updates "
            f"(loss {self.losses[0]:.3g} at first, {self.losses[-1]:.3g} at last, nats a token); {kept}; lower the rate"
        )


def enhance(
    lm: LanguageModel,
    mask: NeuronMask,
    examples: Sequence[TokenizedExample],
    recipe: Recipe = Recipe(),  # noqa: B008  frozen
    *,
    held_out: Sequence[TokenizedExample] = (),
    zeroed: NeuronMask | None = None,
    progress: bool = False,
) -> Enhancement:
    """Fine-tune the neurons of ``mask`` on ``examples`` (section 5.4); ``lm`` comes back unchanged.

    Trained are a neuron's rows of the MLP's input projections, their biases, and its column of the output projection,
    as fine-tuning of the whole model with all other gradients set to zero would, in float32 to rounding (test:
    ``test_enhancement_oracle``), without gradients or optimizer state of anything else.

    Args:
        mask: the neurons, at least one. Any number up to all is served well.
        examples: what to train on.
        held_out: other examples, whose loss is measured before training and after the epochs that are kept.
        zeroed: neurons whose weights are 0 during training and in the trained model; with ``mask`` the others it is
            the paper's "w/o located".
        progress: a bar of steps.

    The same seed gives the same batches whatever the neurons. A run that diverges stops and keeps what it had:
    ``Enhancement.diverged`` and ``remark``.

    Raises:
        OptionError: an empty mask, one of another model's shape, a neuron both trained and zeroed, no examples, or a
            held-out example that is trained on.
        ExampleError: an example that does not fit into the model's context or the recipe's limit.
        ModelError: the loss is no number before anything was trained.
    """
    _check(lm, mask, zeroed, examples)
    check_apart(examples, held_out)
    batches = Batches(lm, examples, recipe)
    watched = Batches(lm, held_out, recipe) if held_out else None
    run = _Run(lm, recipe, zeroed, watched)
    with Trainer(lm, mask, recipe, zeroed) as trainer:
        return run.train(trainer, batches, progress)


class _Run:
    """What a training run has measured so far."""

    def __init__(
        self, lm: LanguageModel, recipe: Recipe, zeroed: NeuronMask | None, watched: Batches | None
    ) -> None:
        self._recipe, self._zeroed, self._watched = recipe, zeroed, watched
        self._fingerprint, self._name = lm.fingerprint, lm.name
        self._ceiling = math.log(vocabulary(lm)) + DIVERGED_NATS  # guessing, and more
        self._at: dict[int, RowDifference] = {}
        self._losses: list[float] = []
        self._updates = 0
        self._held_out: dict[int, float] = {}

    def train(self, trainer: Trainer, batches: Batches, progress: bool) -> Enhancement:
        recipe = self._recipe
        per_epoch = -(-len(batches) // recipe.batch_size)
        diverged: int | None = None
        self._measure(trainer, 0)
        with tqdm(total=per_epoch * recipe.epochs, desc="training", unit="step", disable=not progress) as bar:
            for epoch, steps in enumerate(orders(recipe, len(batches)), 1):
                if not self._epoch(trainer, batches, steps, bar) or not self._keep(trainer, epoch):
                    diverged = self._updates
                    break
        return Enhancement(recipe, self._at, np.array(self._losses), self._held_out, per_epoch, diverged)

    def _epoch(self, trainer: Trainer, batches: Batches, steps: Sequence[np.ndarray], bar: tqdm) -> bool:  # type: ignore[type-arg]
        """All updates of one epoch; False if training diverged."""
        for indices in steps:
            self._losses.append(trainer.gradients(batches, indices))
            if self._diverging():
                return False
            trainer.update()
            self._updates += 1
            bar.update()
        return True

    def _diverging(self) -> bool:
        if not math.isfinite(self._losses[-1]):
            if len(self._losses) == 1:
                raise ModelError(
                    f"the loss of {self._name} is {self._losses[0]} before anything was trained; "
                    "use dtype float32, or check its weights"
                )
            return True
        limit = max(DIVERGED_TIMES * self._losses[0], self._ceiling)
        latest = self._losses[-DIVERGED_STEPS:]
        return len(latest) == DIVERGED_STEPS and min(latest) > limit

    def _keep(self, trainer: Trainer, epoch: int) -> bool:
        """Measure and keep the model after ``epoch``; False if it has come to nothing."""
        if not trainer.rows.finite():
            return False
        if epoch in self._recipe.keep:
            if not self._measure(trainer, epoch):
                return False
            self._at[epoch] = trainer.rows.difference(self._fingerprint, self._zeroed)
        return True

    def _measure(self, trainer: Trainer, epoch: int) -> bool:
        if self._watched is None:
            return True
        loss = trainer.held_out(self._watched, self._recipe.batch_size)
        self._held_out[epoch] = loss
        return math.isfinite(loss)


def _check(
    lm: LanguageModel, mask: NeuronMask, zeroed: NeuronMask | None, examples: Sequence[TokenizedExample]
) -> None:
    stacked(lm, [mask] if zeroed is None else [mask, zeroed])
    if mask.count == 0:
        raise OptionError("no neuron is chosen, so there is nothing to train; locate with a lower sigma")
    if zeroed is not None:
        both = int((mask.values.cpu() & zeroed.values.cpu()).sum())
        if both:
            raise OptionError(
                f"{both} neurons are both trained and zeroed; take the zeroed ones out of the mask"
            )
    if not examples:
        raise OptionError("no examples to train on; pass at least one")


class Trainer(Borrower):
    """A model with trainable rows and their optimizer; inside ``with``, which gives the model back as it was.

    ::

        with Trainer(lm, mask, recipe) as trainer:
            loss = trainer.gradients(batches, indices)
            trainer.update()

    Attributes:
        rows: the trained differences; in the model's own matrices where a GPU has no room for them beside it.
        optimizer: torch's Adam on them.
    """

    rows: TrainableRows | RowsInPlace
    optimizer: torch.optim.Optimizer | RowsInPlace

    def __init__(
        self, lm: LanguageModel, mask: NeuronMask, recipe: Recipe, zeroed: NeuronMask | None = None
    ) -> None:
        self._lm, self._zeroed = lm, zeroed
        self._read = ReadTokens(lm)
        self._budget = Budget(lm, recipe.batch_size)  # of examples
        with refused_if_too_large(
            "the rows that are trained", "train fewer neurons or use a GPU with more memory"
        ):
            self._in_place = needs_to_be_in_place(lm, mask, recipe, zeroed)
            if self._in_place:
                self.rows = self.optimizer = RowsInPlace(lm, mask, recipe)
            else:
                self.rows = TrainableRows(lm, mask, recipe.train)
                self.optimizer = torch.optim.Adam(
                    self.rows.parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True
                )

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(frozen_eval(self._lm.model))
        stack.enter_context(wide_head(self._lm.model))
        if self._zeroed is not None and self._in_place:
            stack.enter_context(zeroed_in_place(self._lm, self._zeroed))
        elif self._zeroed is not None:
            stack.enter_context(replaced_weights(self._lm, zeroed_weights(self._lm, self._zeroed)))
        stack.enter_context(self.rows)
        stack.enter_context(self._read)

    def gradients(self, batches: Batches, indices: np.ndarray) -> float:
        """Fill the rows' gradients on the examples ``indices [B]``; their loss, nats a token.

        On CUDA, a batch that does not fit into memory is taken in parts, for the same gradients.

        Raises:
            ModelError: not even one example fits.
        """
        return self._budget.fitting(partial(self._accumulate, batches, indices), _REFUSAL)

    @torch.enable_grad()
    def _accumulate(self, batches: Batches, indices: np.ndarray) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total, tokens = 0.0, batches.tokens(indices)
        for part in np.array_split(indices, -(-len(indices) // self._budget.tokens)):
            batch = batches.batch(part)
            loss = self._loss(batch) * (len(batch.targets) / tokens)
            loss.backward()
            total += float(loss.detach())
        return total

    @refused_if_too_large("the state of the optimizer", "train fewer neurons or use a GPU with more memory")
    def update(self) -> None:
        """Adam's step along the gradients."""
        self.optimizer.step()

    @torch.no_grad()
    def held_out(self, batches: Batches, size: int) -> float:
        """The loss on all of ``batches``, nats a token."""
        return self._budget.fitting(lambda: self._held_out(batches, min(size, self._budget.tokens)), _REFUSAL)

    def _held_out(self, batches: Batches, size: int) -> float:
        total, tokens = 0.0, 0
        for batch in batches.by_length(size):
            total += float(self._loss(batch)) * len(batch.targets)
            tokens += len(batch.targets)
        return total / tokens

    def _loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self._read.logits(batch), batch.targets)
