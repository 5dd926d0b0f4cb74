"""The value that a layer's MLP must put out for the fact to change: ``delta`` beyond what it puts out now, sought by
gradient descent for many layers together (Meng et al. 2022, section 3.1, eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caploc.errors import ModelError
from caploc.interventions.rank_one.joining import EditedLayers
from caploc.interventions.rank_one.prompts import EditPrompts
from caploc.interventions.rank_one.recording import Recorded
from caploc.interventions.rank_one.settings import Editing
from caploc.model.loading import LanguageModel
from caploc.rows.reading import target_log_probs

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3}


@dataclass(frozen=True, eq=False)
class Value:
    """What was found for one layer.

    Attributes:
        delta: ``[width]`` to be added to the MLP's output.
        losses: before each update, and that at which it stopped, if it did.
    """

    delta: Float[Tensor, " width"]
    losses: tuple[float, ...]


def find_values(
    lm: LanguageModel,
    prompts: EditPrompts,
    recorded: Recorded,
    layers: Sequence[int],
    editing: Editing,
    name: str,
) -> dict[int, Value]:
    """The value of each of ``layers``, as if it were sought alone. Call it inside ``frozen_eval``.

    The loss of a layer (its own delta added at the edited token of every prompt) is
    -mean log p(answer | prefix + prompt), over prefixes and the answer's tokens, teacher forced,
    + kl_weight KL(edited || unedited) behind "SUBJECT is a", + decay |delta| / |v|^2.

    Equals a search in each layer by itself, over whole sequences (``reference.reference_delta``;
    caploc/tests/interventions/test_rank_one_layers.py).

    Raises:
        ModelError: rows without a delta do not reproduce the model at the fact ``name``, its probabilities are not
            numbers, or one layer's rows alone do not fit into the GPU's memory.
    """
    try:
        with EditedLayers(lm) as model:
            return _Search(model, prompts, recorded, editing, name).run(sorted(layers))
    except torch.cuda.OutOfMemoryError as error:
        if len(layers) == 1:
            raise ModelError(
                f"edit {name!r} does not fit into the GPU's memory; use a GPU with more memory or fewer prefixes"
            ) from error
    torch.cuda.empty_cache()
    half = len(layers) // 2
    return {
        **find_values(lm, prompts, recorded, layers[:half], editing, name),
        **find_values(lm, prompts, recorded, layers[half:], editing, name),
    }


@dataclass(frozen=True)
class _Search:
    model: EditedLayers
    prompts: EditPrompts
    recorded: Recorded
    editing: Editing
    name: str

    @torch.enable_grad()
    def run(self, layers: Sequence[int]) -> dict[int, Value]:
        editing = self.editing
        unedited = torch.stack([self.recorded.mlp_outputs[layer][0] for layer in layers])  # [L, width]
        norms = torch.linalg.vector_norm(unedited, dim=1)
        deltas = torch.zeros_like(unedited, requires_grad=True)
        optimizer = torch.optim.Adam([deltas], lr=editing.learning_rate)
        found: dict[int, Tensor] = {}
        losses: dict[int, list[float]] = {layer: [] for layer in layers}
        essence = None
        for _ in range(editing.steps):
            left = [row for row, layer in enumerate(layers) if layer not in found]
            if not left:
                break
            logits = self.model.run(self.recorded, {layers[row]: deltas[row] for row in left})
            loss = self._loss(logits, essence, deltas[left], norms[left])
            (deltas.grad,) = torch.autograd.grad(loss.sum(), deltas)
            for row, value in zip(left, loss.tolist(), strict=True):
                losses[layers[row]].append(value)
                # a delta that reaches no answer stays zero: later the rounding of the divergence would move it
                if value < editing.stop_loss or (essence is None and not deltas.grad[row].any()):
                    found[layers[row]] = deltas[row].detach().clone()
            if essence is None:
                self._check(logits)
                essence = logits[:1, -1].detach().log_softmax(-1)
            optimizer.step()
            if editing.clamp is not None:
                self._clamp(deltas, editing.clamp * norms)
        return {
            layer: Value(found.get(layer, deltas[row].detach()), tuple(losses[layer]))
            for row, layer in enumerate(layers)
        }

    def _loss(self, logits: Tensor, essence: Tensor | None, deltas: Tensor, norms: Tensor) -> Tensor:
        """``[L]`` from logits ``[L, reads, vocabulary]``. Before the first update, where ``essence`` is None, nothing
        diverges and the divergence has no slope."""
        prompts = len(self.prompts.rewriting)
        log_probs = target_log_probs(logits[:, :-1], self.prompts.targets.repeat(prompts))
        decay = torch.linalg.vector_norm(deltas, dim=1) / norms.square()
        loss = -log_probs.mean(1) + self.editing.decay * decay
        if essence is None:
            return loss
        edited = logits[:, -1].log_softmax(-1)
        divergence = (edited.exp() * (edited - essence)).sum(-1)
        return loss + self.editing.kl_weight * divergence

    @staticmethod
    @torch.no_grad()
    def _clamp(deltas: Tensor, most: Tensor) -> None:
        norms = torch.linalg.vector_norm(deltas, dim=1)
        deltas.mul_((most / norms).clamp(max=1).nan_to_num(1)[:, None])

    def _check(self, logits: Tensor) -> None:
        """Rows whose delta is zero must be the unedited run: a family that goes silently wrong is seen here."""
        targets = self.prompts.targets.repeat(len(self.prompts.rewriting))
        expected = self.recorded.log_probs[:-1]
        if expected.isnan().any():
            raise ModelError(
                f"edit {self.name!r}: the model gives probabilities that are not numbers (nan); check its weights"
            )
        off = (target_log_probs(logits[:, :-1].detach(), targets) - expected).abs().max().item()
        if not off <= _TOLERANCE[logits.dtype]:
            raise ModelError(
                f"edited rows do not reproduce this model: at edit {self.name!r} a log-probability without any change "
                f"differs by {off:.2g} (allowed {_TOLERANCE[logits.dtype]:g}); its family or attention implementation "
                "is unsupported"
            )
