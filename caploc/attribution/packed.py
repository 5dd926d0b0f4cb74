"""The packed engine: every (layer, position, alpha) of eq. (7) as one token of a batch, exactly and fast.

A change of layer l's neurons at position p reaches no earlier position (causal mask) and no layer below l, and only
p's own prediction is read. So the intervened run for (l, p, alpha) is ONE token that enters behind layer l's MLP and
attends to the clean keys and values before p and to its own. A pass packs them: rows = (layer, alpha), columns =
answer positions; rows of layer l join the batch at layer l's output. The Hugging Face model's own layers do all the
work; they only see a cache that returns [clean keys ; own keys] and a mask to match.

Since the MLP's output projection is affine, scaling its input by alpha gives b + alpha (d - b), d its clean output and
b its bias: the token needs no attention and no projection of its own at layer l, and the gradients of all alphas are
summed there, ``width`` numbers wide, before one product with the projection's weights takes them to the neurons.

Exactness against the slow oracle: ``caploc/tests/attribution/test_exactness.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caploc.architectures import Architecture
from caploc.attribution.clean import CleanPass, bind
from caploc.attribution.packing import PackedPass, PrefixCache
from caploc.attribution.probability import TargetProbability
from caploc.attribution.restoring import frozen_eval, replaced_forward
from caploc.errors import ModelError


@dataclass(frozen=True)
class Gradients:
    """Result of a packed pass for one layer: rows R, columns C.

    ``probabilities [R, C]`` = P(y | z, alpha a); ``gradients [R, C, width]`` = its derivative with respect to the
    output of the layer's MLP projection.
    """

    probabilities: Tensor
    gradients: Tensor


class PackedModel:
    """A model prepared for packed passes; use inside ``with``. Leaving it, even by an exception, restores the model.

    ::

        with PackedModel(model, architecture) as packed:
            packed.run(clean, columns, {layer: alphas})     # -> {layer: Gradients}
            packed.run_unscaled(clean)                      # alpha = 1, all layers in one row
    """

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        self._model = model
        self._architecture = architecture
        self._layers = architecture.decoder_layers(model)
        self._stack = ExitStack()
        self._pass: PackedPass | None = None
        self._projections = [architecture.mlp_out_of(layer) for layer in self._layers]

    def __enter__(self) -> PackedModel:
        with ExitStack() as stack:
            stack.enter_context(frozen_eval(self._model))
            for index, layer in enumerate(self._layers):
                stack.enter_context(self._patched(index, layer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

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
        probabilities = self._forward(PackedPass(clean, columns, leaves, additive=False))
        gradients = torch.autograd.grad(probabilities.sum(), list(leaves.values()))
        parts = probabilities.detach().split([len(leaf) for leaf in leaves.values()])
        return {
            layer: Gradients(part, gradient)
            for layer, part, gradient in zip(leaves, parts, gradients, strict=True)
        }

    @torch.enable_grad()
    def run_unscaled(self, clean: CleanPass) -> dict[int, Gradients]:
        """alpha = 1 for every layer at once: the packed form of the clean run, one row.

        Its log-probabilities must equal the clean run's; callers check that (``check_against_clean``).
        """
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        leaves = {
            layer: torch.zeros_like(output)[None].requires_grad_()
            for layer, output in enumerate(clean.mlp_outputs)
        }
        probabilities = self._forward(PackedPass(clean, columns, leaves, additive=True))
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
        found = self._forward(PackedPass(clean, columns, leaves, additive=False))
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
        projection = self._projections[layer]
        weight: Tensor = projection.weight.detach()  # type: ignore[operator]
        # nn.Linear stores [out, in]; GPT-2's Conv1D [in, out].
        return (weight.T if isinstance(projection, nn.Linear) else weight)[neurons]

    def to_neurons(self, layer: int, gradient: Tensor) -> Tensor:
        """Carry ``[..., width]`` gradients at the projection's output to its input: ``[..., neurons]``."""
        return gradient @ self.output_weights(layer, slice(None)).to(gradient.dtype).T

    def _bias(self, layer: int, clean: CleanPass) -> Tensor:
        """``[width]`` the output of the layer's MLP projection when all neurons are zero."""
        bias = getattr(self._projections[layer], "bias", None)
        output = clean.mlp_outputs[layer]
        return output.new_zeros(output.shape[-1]) if bias is None else bias.detach()

    def _scaled(self, layer: int, clean: CleanPass, columns: Tensor, alphas: Tensor) -> Tensor:
        """``[R, C, width]`` the projection's output at each token's alpha."""
        bias = self._bias(layer, clean)
        step = clean.mlp_outputs[layer][columns] - bias  # [C, width]
        return bias + alphas.to(step)[..., None] * step

    def _forward(self, packed_pass: PackedPass) -> Tensor:
        """P of the answer tokens ``[R, C]``, rows in the order of the layers."""
        clean, columns = packed_pass.clean, packed_pass.columns
        embedding: Tensor = self._model.get_input_embeddings().weight  # type: ignore[assignment]
        # what goes in does not matter: layers below the first entry pass it through, and there it is replaced
        dummy = embedding.new_zeros(1, len(columns), embedding.shape[1])
        self._pass = packed_pass
        try:
            logits = self._model(
                inputs_embeds=dummy,
                attention_mask=packed_pass.mask(0),
                position_ids=clean.positions[columns][None],
                past_key_values=PrefixCache(clean),
                use_cache=True,
            ).logits
        finally:
            self._pass = None
        return TargetProbability.apply(logits, clean.targets[columns])

    @contextmanager
    def _patched(self, index: int, layer: nn.Module) -> Iterator[None]:
        """Let ``layer`` run packed rows while a pass is under way, and as ever otherwise."""
        projection, original = self._projections[index], layer.forward
        if not (isinstance(projection, nn.Linear) or type(projection).__name__ == "Conv1D"):
            raise ModelError(
                f"layer {index}: the MLP output projection is a {type(projection).__name__}, not a plain linear layer; "
                "merge adapters and load the model unquantized"
            )

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._pass is None:
                return original(*args, **kwargs)
            return self._run_layer(index, original, bind(layer, args, kwargs).arguments)

        def substitute(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output if self._pass is None else self._pass.substitute(output)

        handle = projection.register_forward_hook(substitute)
        try:
            with replaced_forward(layer, forward):
                yield
        finally:
            handle.remove()

    def _run_layer(self, index: int, original: Any, named: dict[str, Any]) -> Any:
        """Packed rows of lower layers through layer ``index``, then the rows that enter behind its MLP."""
        current = self._pass
        assert current is not None
        named = {name: value for name, value in named.items() if name != "self"}
        extra = named.pop("kwargs", {})
        named["attention_mask"] = current.mask(index)
        hidden = named.pop("hidden_states")
        outputs = []

        def call(states: Tensor) -> Tensor:
            result = original(hidden_states=states, **named, **extra)
            return result[0] if isinstance(result, tuple) else result

        if current.additive:
            if index == 0:
                hidden = current.clean.layer_inputs[0][:, current.columns]
            current.entering = current.leaves[index]
            outputs.append(call(hidden))
        else:
            if index > current.first:
                outputs.append(call(hidden))
            if index in current.leaves:
                leaf = current.leaves[index]
                entry = current.clean.layer_inputs[index][:, current.columns]
                if self._architecture.flat_mlp:
                    entry, leaf = entry.expand(len(leaf), -1, -1), leaf.flatten(0, 1)
                current.entering = leaf
                outputs.append(call(entry))  # one row in; the substituted MLP output makes it R rows
        current.entering = None
        states = torch.cat(outputs) if len(outputs) > 1 else outputs[0] if outputs else hidden
        return (states, None) if current.clean.tuples else states
