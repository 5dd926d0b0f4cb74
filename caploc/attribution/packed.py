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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from caploc.architectures import Architecture
from caploc.attribution.clean import CleanPass, bind, target_log_probs
from caploc.errors import ModelError


@dataclass(frozen=True)
class Gradients:
    """Result of a packed pass for one layer: rows R, columns C.

    ``probabilities [R, C]`` = P(y | z, alpha a); ``gradients [R, C, width]`` = its derivative with respect to the output
    of the layer's MLP projection.
    """

    probabilities: Tensor
    gradients: Tensor


class _PrefixCache(Cache):
    """Hands each attention layer the clean keys and values followed by the packed tokens' own."""

    def __init__(self, clean: CleanPass) -> None:
        super().__init__(layers=[])
        self._clean = clean

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = key.shape[0]
        clean_key, clean_value = self._clean.keys[layer_idx], self._clean.values[layer_idx]
        return (
            torch.cat([clean_key.expand(rows, -1, -1, -1), key], dim=2),
            torch.cat([clean_value.expand(rows, -1, -1, -1), value], dim=2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._clean.keys[layer_idx].shape[2]


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
        self._pass: _Pass | None = None
        self._projections = [architecture.mlp_out_of(layer) for layer in self._layers]

    def __enter__(self) -> PackedModel:
        with ExitStack() as stack:
            stack.enter_context(_frozen_eval(self._model))
            for index, layer in enumerate(self._layers):
                stack.enter_context(self._patched(index, layer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, clean: CleanPass, columns: Tensor, alphas: Mapping[int, Tensor]) -> dict[int, Gradients]:
        """One packed pass.

        Args:
            clean: the clean pass of the example.
            columns: ``[C]`` indices into ``clean.positions``; repeats are welcome.
            alphas: for each layer that has rows, ``[R, C]`` the scale of each token.
        """
        leaves = {}
        for layer in sorted(alphas):
            bias = self.bias(layer, clean)
            step = clean.mlp_outputs[layer][columns] - bias  # [C, width]
            scale = alphas[layer].to(step)[..., None]
            leaves[layer] = (bias + scale * step).requires_grad_()  # [R, C, width]
        probabilities = self._forward(_Pass(clean, columns, leaves, additive=False))
        gradients = torch.autograd.grad(probabilities.sum(), list(leaves.values()))
        sizes = [len(leaf) for leaf in leaves.values()]
        parts = probabilities.detach().split(sizes)
        return {layer: Gradients(*pair) for layer, pair in zip(leaves, zip(parts, gradients, strict=True), strict=True)}

    def run_unscaled(self, clean: CleanPass) -> dict[int, Gradients]:
        """alpha = 1 for every layer at once: the packed form of the clean run, one row.

        Its log-probabilities must equal the clean run's; callers check that (``check_against_clean``).
        """
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        leaves = {
            layer: torch.zeros_like(output)[None].requires_grad_() for layer, output in enumerate(clean.mlp_outputs)
        }
        probabilities = self._forward(_Pass(clean, columns, leaves, additive=True))
        gradients = torch.autograd.grad(probabilities.sum(), list(leaves.values()))
        return {
            layer: Gradients(probabilities.detach(), gradient)
            for layer, gradient in zip(leaves, gradients, strict=True)
        }

    def bias(self, layer: int, clean: CleanPass) -> Tensor:
        """``[width]`` the output of the layer's MLP projection when all neurons are zero."""
        bias = getattr(self._projections[layer], "bias", None)
        output = clean.mlp_outputs[layer]
        return output.new_zeros(output.shape[-1]) if bias is None else bias.detach()

    def to_neurons(self, layer: int, gradient: Tensor) -> Tensor:
        """Carry ``[C, width]`` gradients at the projection's output to its input: ``[C, neurons]``."""
        projection = self._projections[layer]
        weight = projection.weight.detach().to(gradient.dtype)
        # nn.Linear stores [out, in]; GPT-2's Conv1D [in, out].
        return gradient @ (weight if isinstance(projection, nn.Linear) else weight.T)

    def _forward(self, packed_pass: _Pass) -> Tensor:
        """P of the answer tokens ``[R, C]``, rows in the order of the layers."""
        clean, columns = packed_pass.clean, packed_pass.columns
        embedding = self._model.get_input_embeddings().weight
        dummy = embedding.new_zeros(1, len(columns), embedding.shape[1])  # every layer below the first entry skips it
        self._pass = packed_pass
        try:
            logits = self._model(
                inputs_embeds=dummy,
                attention_mask=packed_pass.mask(0),
                position_ids=clean.positions[columns][None],
                past_key_values=_PrefixCache(clean),
                use_cache=True,
            ).logits
        finally:
            self._pass = None
        return _TargetProbability.apply(logits, clean.targets[columns])

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

        def substitute(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return output if self._pass is None else self._pass.substitute(output)

        handle = projection.register_forward_hook(substitute)
        layer.forward = forward
        try:
            yield
        finally:
            handle.remove()
            del layer.forward

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


class _TargetProbability(torch.autograd.Function):
    """P(target) ``[R, C]`` from logits ``[R, C, vocabulary]``.

    Equal to ``logits.softmax(-1).gather(-1, target)``, whose autograd makes three more tensors as large as the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        probabilities = target_log_probs(logits, targets).exp()
        ctx.save_for_backward(logits, targets, probabilities)
        return probabilities

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, targets, probabilities = ctx.saved_tensors
        scale = (grad * probabilities)[..., None]  # dP/dlogits = P (onehot - softmax)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        slope = wide.softmax(-1).mul_(-scale)
        slope.scatter_add_(-1, targets.expand(logits.shape[:-1])[..., None], scale)
        return slope.to(logits.dtype), None


class _Pass:
    """The state of one packed pass while the model's forward runs."""

    def __init__(self, clean: CleanPass, columns: Tensor, leaves: dict[int, Tensor], additive: bool) -> None:
        self.clean, self.columns, self.leaves, self.additive = clean, columns, leaves, additive
        self.first = min(leaves)
        self.entering: Tensor | None = None
        self._masks: dict[int, Tensor] = {}

    def substitute(self, output: Tensor) -> Tensor:
        if self.entering is None:
            return output
        entering, self.entering = self.entering, None
        return output + entering.reshape(output.shape) if self.additive else entering

    def mask(self, layer: int) -> Tensor:
        """Additive ``[1, 1, C, T + C]``: clean tokens the family lets this layer see, and the token's own key."""
        visible = self.clean.visible[layer]
        for other, made in self._masks.items():
            if self.clean.visible[other] is visible or torch.equal(self.clean.visible[other], visible):
                return made
        count = len(self.columns)
        own = torch.eye(count, dtype=torch.bool, device=visible.device)
        allowed = torch.cat([visible[self.columns], own], dim=1)
        dtype = self.clean.layer_inputs[layer].dtype
        made = torch.zeros(allowed.shape, dtype=dtype, device=visible.device)
        made = made.masked_fill_(~allowed, torch.finfo(dtype).min)[None, None]
        self._masks[layer] = made
        return made


@contextmanager
def _frozen_eval(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no parameter gradients; every module's mode and parameter's flag comes back on leaving."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        model.eval()
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


_LOG_PROB_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}


def check_against_clean(clean: CleanPass, unscaled: Mapping[int, Gradients], dtype: torch.dtype, name: str) -> None:
    """Raise if the packed pass at alpha = 1 does not give the clean run's log-probabilities.

    It is the engine's self-check, done for every example: a model whose attention ignores the cache, the mask or the
    positions that it is given (GPT-Neo: off by 0.69) must not go silently wrong.

    Raises:
        ModelError: naming the example and the largest difference.
    """
    packed = next(iter(unscaled.values())).probabilities[0].log()
    off = (packed - clean.log_probs).abs().max().item()
    if not off <= _LOG_PROB_TOLERANCE[dtype]:
        raise ModelError(
            f"packed attribution does not reproduce this model: at example {name!r} a log-probability differs by "
            f"{off:.2g} (allowed {_LOG_PROB_TOLERANCE[dtype]:g}); its family or attention implementation is unsupported"
        )


def layers_in_chunks(rows: Sequence[tuple[int, int]], columns: int, chunk_tokens: int) -> list[list[tuple[int, int]]]:
    """Cut (layer, row count) pairs into passes of at most ``chunk_tokens`` tokens, at least one row each."""
    most = max(1, chunk_tokens // max(1, columns))
    chunks: list[list[tuple[int, int]]] = []
    room = 0
    for layer, count in rows:
        while count:
            if not room:
                chunks.append([])
                room = most
            taken = min(count, room)
            chunks[-1].append((layer, taken))
            count, room = count - taken, room - taken
    return chunks
