"""The packed engine: every (layer, position, alpha) of eq. (7) as one token of a batch, exactly and fast.

A change of layer l's neurons at position p reaches no earlier position (causal mask) and no layer below l, and only
p's own prediction is read. So the intervened run for (l, p, alpha) is ONE token that enters behind layer l's MLP and
attends to the clean keys and values before p and to its own. A pass packs them: rows = (layer, alpha), columns =
answer positions; rows of layer l join the batch at layer l's output. The Hugging Face model's own layers do all the
work (``caploc.rows``).

Since the MLP's output projection is affine, scaling its input by alpha gives b + alpha (d - b), d its clean output and
b its bias: the token needs no attention and no projection of its own at layer l, and the gradients of all alphas are
summed there, ``width`` numbers wide, before one product with the projection's weights takes them to the neurons.

Exactness against the slow oracle: ``caploc/tests/attribution/test_exactness.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caploc.architectures import weight_by_input
from caploc.rows.caches import RowCache, masks
from caploc.rows.clean import CleanPass, TargetProbability
from caploc.rows.model import RowModel, Rows


@dataclass(frozen=True)
class Gradients:
    """Result of a packed pass for one layer: rows R, columns C.

    ``probabilities [R, C]`` = P(y | z, alpha a); ``gradients [R, C, width]`` = its derivative with respect to the
    output of the layer's MLP projection.
    """

    probabilities: Tensor
    gradients: Tensor


class PackedPass(Rows):
    """Tokens of the clean pass that enter behind a layer's MLP, each for itself: a row of C columns has no token that
    another sees.

    Args:
        columns: ``[C]`` indices into ``clean.positions``; repeats are welcome.
        leaves: for each layer at which rows enter, ``[R, C, width]`` what its MLP's projection puts out.
    """

    def __init__(self, clean: CleanPass, columns: Tensor, leaves: Mapping[int, Tensor]) -> None:
        front = list(zip(clean.keys, clean.values, strict=True))
        super().__init__(RowCache(front), clean.positions[columns][None], tuples=clean.tuples)
        self.clean, self.columns, self.leaves = clean, columns, leaves
        self._masks = masks(clean.visible, self.allowed, clean.layer_inputs[0].dtype)

    def allowed(self, visible: Tensor) -> Tensor:
        """``[C, T + C]`` clean tokens that the family lets a layer see, and the token's own key."""
        own = torch.eye(len(self.columns), dtype=torch.bool, device=visible.device)
        return torch.cat([visible[self.columns], own], dim=1)

    def mask(self, layer: int, rows: int) -> Tensor:
        return self._masks[layer]

    def behind_mlp(self, layer: int) -> tuple[Tensor, Tensor] | None:
        if layer not in self.leaves:
            return None
        return self.clean.layer_inputs[layer][:, self.columns], self.leaves[layer][:, None]


class UnscaledPass(PackedPass):
    """One row that enters at the bottom; the ``leaves [1, C, width]`` are added to every layer's MLP output."""

    def in_front(self, layer: int, states: Tensor) -> Tensor | None:
        return self.clean.layer_inputs[0][:, self.columns] if layer == 0 else None

    def behind_mlp(self, layer: int) -> None:
        return None

    def mlp_output(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        return output + self.leaves[layer].reshape(output.shape)


class PackedModel(RowModel):
    """A model prepared for packed passes; use inside ``with``. Leaving it, even by an exception, restores the model.

    ::

        with PackedModel(model, architecture) as packed:
            packed.run(clean, columns, {layer: alphas})     # -> {layer: Gradients}
            packed.run_unscaled(clean)                      # alpha = 1, all layers in one row
    """

    @torch.enable_grad()
    def run(self, clean: CleanPass, columns: Tensor, alphas: Mapping[int, Tensor]) -> dict[int, Gradients]:
        """One packed pass.

        Args:
            clean: the clean pass of the example.
            columns: ``[C]`` indices into ``clean.positions``; repeats are welcome.
            alphas: for each layer that has rows, ``[R, C]`` the scale of each token.
        """
        leaves = {
            layer: self._scaled(layer, clean, columns, alphas[layer]).requires_grad_()
            for layer in sorted(alphas)
        }
        logits = self.logits(PackedPass(clean, columns, leaves))
        probabilities = TargetProbability.apply(logits, clean.targets[columns])
        gradients = torch.autograd.grad(probabilities.sum(), list(leaves.values()))
        parts = probabilities.detach().split([len(leaf) for leaf in leaves.values()])
        return {
            layer: Gradients(part, gradient)
            for layer, part, gradient in zip(leaves, parts, gradients, strict=True)
        }

    @torch.enable_grad()
    def run_unscaled(self, clean: CleanPass) -> dict[int, Gradients]:
        """alpha = 1 for every layer at once: the packed form of the clean run, one row.

        Its log-probabilities must equal the clean run's; callers check that (``rows.reading.check_reproduced``).
        """
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        leaves = {
            layer: torch.zeros_like(output)[None].requires_grad_()
            for layer, output in enumerate(clean.mlp_outputs)
        }
        logits = self.logits(UnscaledPass(clean, columns, leaves))
        probabilities = TargetProbability.apply(logits, clean.targets[columns])
        gradients = torch.autograd.grad(probabilities.sum(), list(leaves.values()))
        return {
            layer: Gradients(probabilities.detach(), gradient)
            for layer, gradient in zip(leaves, gradients, strict=True)
        }

    @torch.no_grad()
    def probabilities(
        self, clean: CleanPass, columns: Tensor, entering: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """One packed pass without gradients: P ``[R, C]`` where the projections put out ``entering [R, C, width]``."""
        leaves = {layer: entering[layer] for layer in sorted(entering)}
        logits = self.logits(PackedPass(clean, columns, leaves))
        found = TargetProbability.apply(logits, clean.targets[columns])
        return dict(zip(leaves, found.split([len(leaf) for leaf in leaves.values()]), strict=True))

    def step(self, layer: int, clean: CleanPass) -> Tensor:
        """``[Y, width]`` what the path adds up to: alpha * step is how far it has come. It turns a gradient of a
        packed pass into the slope along alpha."""
        return clean.mlp_outputs[layer] - self._bias(layer, clean)

    def scores(self, layer: int, clean: CleanPass, integral: Tensor) -> Tensor:
        """``[Y, neurons]`` attributions from the integral over alpha of a packed pass's gradients."""
        return clean.activations[layer].to(integral.dtype) * self.to_neurons(layer, integral)

    def fall(self, layer: int, clean: CleanPass) -> Tensor:
        """``[Y, neurons]`` the change of each activation when its neuron's value goes to zero."""
        return -clean.activations[layer]

    def projection(self, layer: int) -> nn.Module:
        """The layer's MLP output projection."""
        return self._projections[layer]

    def output_weights(self, layer: int, neurons: slice) -> Tensor:
        """``[neurons, width]`` what one unit of each of these neurons adds to the projection's output."""
        return weight_by_input(self._projections[layer])[neurons].to(self._home)

    def to_neurons(self, layer: int, gradient: Tensor) -> Tensor:
        """Carry ``[..., width]`` gradients at the projection's output to its input: ``[..., neurons]``."""
        weight = weight_by_input(self._projections[layer])
        return (gradient.to(weight.device) @ weight.to(gradient.dtype).T).to(gradient.device)

    def _bias(self, layer: int, clean: CleanPass) -> Tensor:
        """``[width]`` the output of the layer's MLP projection when all neurons are zero."""
        bias = getattr(self._projections[layer], "bias", None)
        output = clean.mlp_outputs[layer]
        return output.new_zeros(output.shape[-1]) if bias is None else bias.detach().to(output.device)

    def _scaled(self, layer: int, clean: CleanPass, columns: Tensor, alphas: Tensor) -> Tensor:
        """``[R, C, width]`` the projection's output at each token's alpha."""
        bias = self._bias(layer, clean)
        step = clean.mlp_outputs[layer][columns] - bias  # [C, width]
        return bias + alphas.to(step)[..., None] * step


class PreactivationModel(PackedModel):
    """Eq. (7) with a neuron's value taken before the nonlinearity, as eq. (11) does: a ``PackedModel`` whose gradients
    ``[R, C, neurons]`` are those with respect to the pre-activations. Needs a clean pass with ``gates``.

    The path scales w, what enters the nonlinearity f, from zero to its clean value. The packed tokens then enter with
    the MLP's output at f(alpha w) * up, and gradients are carried back through the projection and f: w dP/dw. In a
    gated MLP w is the gate's pre-activation and up keeps its clean value. Equals the oracle, plain autograd with a hook
    on f (``caploc/tests/attribution/test_preactivation.py``).
    """

    def step(self, layer: int, clean: CleanPass) -> Tensor:
        return clean.gates[layer].before

    def scores(self, layer: int, clean: CleanPass, integral: Tensor) -> Tensor:
        return clean.gates[layer].before.to(integral.dtype) * integral

    def fall(self, layer: int, clean: CleanPass) -> Tensor:
        gate, everywhere = (
            clean.gates[layer],
            torch.arange(len(clean.positions), device=clean.positions.device),
        )
        return gate.activation(torch.zeros_like(gate.before), everywhere) - clean.activations[layer]

    def run(self, clean: CleanPass, columns: Tensor, alphas: Mapping[int, Tensor]) -> dict[int, Gradients]:
        results = super().run(clean, columns, alphas)
        return {
            layer: self._before(layer, clean, columns, alphas[layer], result)
            for layer, result in results.items()
        }

    def run_unscaled(self, clean: CleanPass) -> dict[int, Gradients]:
        everywhere = torch.arange(len(clean.positions), device=clean.positions.device)
        one = torch.ones(1, len(everywhere), device=everywhere.device)
        return {
            layer: self._before(layer, clean, everywhere, one, result)
            for layer, result in super().run_unscaled(clean).items()
        }

    def _scaled(self, layer: int, clean: CleanPass, columns: Tensor, alphas: Tensor) -> Tensor:
        gate = clean.gates[layer]
        with torch.no_grad():
            before = gate.before[columns]
            activation = gate.activation(alphas.to(before)[..., None] * before, columns)  # [R, C, neurons]
            there = weight_by_input(self.projection(layer)).device
            entering: Tensor = self.projection(layer)(activation.to(there)).to(activation.device)
        return entering

    @torch.enable_grad()
    def _before(
        self, layer: int, clean: CleanPass, columns: Tensor, alphas: Tensor, result: Gradients
    ) -> Gradients:
        """Carry gradients at the projection's output back to the nonlinearity's input."""
        gate = clean.gates[layer]
        before = gate.before[columns]
        scaled = (alphas.to(before)[..., None] * before).requires_grad_()  # [R, C, neurons]
        behind = self.to_neurons(layer, result.gradients)
        (gradients,) = torch.autograd.grad(gate.activation(scaled, columns), scaled, behind)
        return Gradients(result.probabilities, gradients)
