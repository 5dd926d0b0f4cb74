"""One step after another: loss, gradients of the chosen rows, Adam."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from caploc.errors import ModelError
from caploc.interventions.enhancement.batches import Batch, Batches
from caploc.interventions.enhancement.placing import zeroed_weights
from caploc.interventions.enhancement.reading import ReadTokens
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.enhancement.rows import TrainableRows
from caploc.interventions.weights import replaced_weights
from caploc.models import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import frozen_eval, wide_head


class Trainer:
    """A model with trainable rows and their optimizer; inside ``with``, which gives the model back as it was.

    ::

        with Trainer(lm, mask, recipe) as trainer:
            loss = trainer.gradients(batches, indices)
            trainer.update()

    Attributes:
        rows: the trained differences.
        optimizer: torch's Adam on them.
    """

    def __init__(
        self, lm: LanguageModel, mask: NeuronMask, recipe: Recipe, zeroed: NeuronMask | None = None
    ) -> None:
        self._lm, self._zeroed = lm, zeroed
        self._read = ReadTokens(lm)
        self._stack = ExitStack()
        self._parts = 1  # that a batch is cut into
        self.rows = TrainableRows(lm, mask, recipe.train)
        self.optimizer = torch.optim.Adam(
            self.rows.parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True
        )

    def __enter__(self) -> Trainer:
        with ExitStack() as stack:
            stack.enter_context(frozen_eval(self._lm.model))
            stack.enter_context(wide_head(self._lm.model))
            if self._zeroed is not None:
                stack.enter_context(replaced_weights(self._lm, zeroed_weights(self._lm, self._zeroed)))
            stack.enter_context(self.rows)
            stack.enter_context(self._read)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def gradients(self, batches: Batches, indices: np.ndarray) -> float:
        """Fill the rows' gradients on the examples ``indices [B]``; their loss, nats a token.

        On CUDA, a batch that does not fit into memory is taken in parts, for the same gradients.

        Raises:
            ModelError: not even one example fits.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulate(batches, indices)
            except torch.cuda.OutOfMemoryError as error:
                if self._parts >= len(indices):
                    raise ModelError(
                        "training does not fit into the GPU's memory even one example at a time; set length_limit, "
                        "load the model in bfloat16, or use a GPU with more memory"
                    ) from error
                self._parts *= 2
            torch.cuda.empty_cache()

    @torch.enable_grad()
    def _accumulate(self, batches: Batches, indices: np.ndarray) -> float:
        total, tokens = 0.0, batches.tokens(indices)
        for part in np.array_split(indices, min(self._parts, len(indices))):
            batch = batches.batch(part)
            loss = self._loss(batch) * (len(batch.targets) / tokens)
            loss.backward()
            total += float(loss.detach())
        return total

    def update(self) -> None:
        """Adam's step along the gradients."""
        self.optimizer.step()

    @torch.no_grad()
    def held_out(self, batches: Batches, size: int) -> float:
        """The loss on all of ``batches``, nats a token."""
        total, tokens = 0.0, 0
        for batch in batches.by_length(size):
            total += float(self._loss(batch)) * len(batch.targets)
            tokens += len(batch.targets)
        return total / tokens

    def finite(self) -> bool:
        """Whether all trained rows still are numbers."""
        return all(bool(parameter.isfinite().all()) for parameter in self.rows.parameters)

    def _loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self._read.logits(batch), batch.targets)
