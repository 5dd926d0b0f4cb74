"""Many interventions on one example as rows of a batch: each enters where it first changes something.

A row scales the activations of its own set of neurons. Up to the MLP of its lowest touched layer it is the clean run,
so it enters behind that MLP; earlier tokens keep their clean keys and values, and only the columns from the first
scaled token to the last that predicts the answer are run. The model's own layers do the work
(``caploc.attribution.packed``); above its entry a row's activations are scaled as they arise.

Equality with plain runs under hooks: ``caploc/tests/interventions/test_activations.py``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from caploc.attribution.clean import CleanPass
from caploc.attribution.packed import PackedModel
from caploc.attribution.packing import PackedPass, PrefixCache
from caploc.attribution.probability import target_log_probs


class ScaledPass(PackedPass):
    """R rows of C columns, which are the clean pass's positions, neighbouring tokens that see each other.

    Args:
        leaves: for each layer that rows enter at, ``[rows, C, width]`` what its MLP's projection puts out.
        masks: ``[R, layers, neurons]`` the rows' neurons, rows in the order in which they enter.
        factors: ``[R]`` what each row multiplies them by.
        scaled: ``[C]`` bool, in which columns.
    """

    def __init__(
        self, clean: CleanPass, leaves: dict[int, Tensor], masks: Tensor, factors: Tensor, scaled: Tensor
    ) -> None:
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        super().__init__(clean, columns, leaves, additive=False)
        self._members, self._factors, self._scaled = masks, factors, scaled
        self._seen: dict[int, Tensor] = {}

    def scale(self, layer: int, activations: Tensor) -> Tensor:
        """``activations`` of the rows that entered below ``layer``, scaled where and by what their row says."""
        states = activations.view(
            -1, len(self.columns), activations.shape[-1]
        )  # OPT runs its MLP on [R C, neurons]
        members = self._members[: len(states), layer]
        if not members.any():
            return activations
        factors = torch.where(members, self._factors[: len(states), None], 1.0).to(states.dtype)
        states = torch.where(self._scaled[:, None], states * factors[:, None], states)
        return states.view(activations.shape)

    def mask(self, layer: int) -> Tensor:
        """Additive ``[1, 1, C, T + C]``: clean tokens in front of the columns, then the row's own tokens."""
        visible = self.clean.visible[layer]
        if id(visible) not in self._seen:
            first, count = int(self.clean.positions[0]), len(self.columns)
            itself = torch.eye(count, dtype=torch.bool, device=visible.device)
            front = visible.clone()
            front[:, first:] = False
            allowed = torch.cat([front, visible[:, first : first + count] | itself], dim=1)
            dtype = self.clean.layer_inputs[layer].dtype
            mask = torch.zeros(allowed.shape, dtype=dtype, device=visible.device)
            self._seen[id(visible)] = mask.masked_fill_(~allowed, torch.finfo(dtype).min)[None, None]
        return self._seen[id(visible)]


class ScalingModel(PackedModel):
    """A model prepared for scaled rows; use inside ``with``, which restores it."""

    def __enter__(self) -> ScalingModel:
        super().__enter__()
        for layer, projection in enumerate(self._projections):
            hook = projection.register_forward_pre_hook(partial(self._before_projection, layer))
            self._stack.callback(hook.remove)
        return self

    @torch.no_grad()
    def log_probs(
        self, clean: CleanPass, masks: Tensor, factors: Tensor, lowest: Tensor, scaled: Tensor, read: int
    ) -> Tensor:
        """``[R, read]`` log P of the last ``read`` targets of ``clean`` in each row.

        Args:
            masks, factors, scaled: as in ``ScaledPass``.
            lowest: ``[R]`` ascending, the layer that each row enters at: none that it touches lies below.
        """
        leaves = {
            layer: self._entering(
                layer, clean, masks[lowest == layer, layer], factors[lowest == layer], scaled
            )
            for layer in lowest.unique().tolist()
        }
        self._pass = scaled_pass = ScaledPass(clean, leaves, masks, factors, scaled)
        embedding: Tensor = self._model.get_input_embeddings().weight  # type: ignore[assignment]
        try:
            logits = self._model(
                inputs_embeds=embedding.new_zeros(1, len(scaled), embedding.shape[1]),  # replaced on entry
                attention_mask=scaled_pass.mask(0),
                position_ids=clean.positions[None],
                past_key_values=PrefixCache(clean),
                use_cache=True,
                logits_to_keep=read,
            ).logits
        finally:
            self._pass = None
        return target_log_probs(logits, clean.targets[-read:])

    def _entering(
        self, layer: int, clean: CleanPass, members: Tensor, factors: Tensor, scaled: Tensor
    ) -> Tensor:
        """``[rows, C, width]`` the clean output of the layer's projection, and what scaling changes in it."""
        activations = clean.activations[layer][scaled]  # [columns, neurons]
        change = torch.where(members[:, None], activations, 0) * (factors[:, None, None] - 1).to(
            activations.dtype
        )
        entering = clean.mlp_outputs[layer].repeat(len(members), 1, 1)
        entering[:, scaled] += change @ self.output_weights(layer, slice(None))
        return entering

    def _before_projection(
        self, layer: int, module: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        current = self._pass
        if not isinstance(current, ScaledPass) or current.entering is not None:
            return None
        return (current.scale(layer, args[0]), *args[1:])
