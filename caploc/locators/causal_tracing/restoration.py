"""The restored runs of one example: one row of a pass for every layer and draw, one or more passes for every token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from caploc.locators.causal_tracing.joining import JoiningModel
from caploc.locators.causal_tracing.recording import Recording
from caploc.locators.causal_tracing.rows import Rows
from caploc.locators.causal_tracing.settings import Tracing
from caploc.rows.clean import CleanPass
from caploc.rows.reading import target_log_probs


@dataclass(frozen=True)
class Restoration:
    """What restored runs of one example start from.

    Attributes:
        model: the model, entered.
        clean: an ordinary run of the example.
        runs: the recorded clean and corrupted runs, D draws of T tokens.
        tracing: what is restored.
        chunk_tokens: tokens in a pass.
    """

    model: JoiningModel
    clean: CleanPass
    runs: Recording
    tracing: Tracing
    chunk_tokens: int

    def unrestored(self, first: int) -> Tensor:
        """``[L, 2, Y]`` log-probabilities of the clean and the first corrupted run, as rows that join behind each layer
        with nothing but their own states from token ``first`` on."""
        found = []
        for layers in self._passes(range(self._layers), 2 * (self._tokens - first)):
            entries = {layer: self.runs.outputs[layer][:2, first:] for layer in layers}
            found.append(self._log_probs(self._rows(slice(0, 2), first, entries)))
        return torch.cat(found).unflatten(0, (self._layers, 2))

    def probabilities(self, tokens: range) -> Tensor:
        """``[D, tokens, L]`` P of the answer with the clean state of each token and layer put back."""
        corrupted = probability(self.runs.log_probs[1:])
        found = corrupted[:, None, None].repeat(1, len(tokens), self._layers)
        for index, token in enumerate(tokens):
            # behind the last layer, what is restored reaches its own token's prediction alone
            predicts = token >= self._tokens - len(self.runs.targets)
            reaching = [
                layer
                for layer in range(self._layers)
                if self._window(layer).start < self._layers - 1 or predicts
            ]
            for layers in self._passes(reaching, len(corrupted) * (self._tokens - token)):
                restored = probability(self._log_probs(self._restoring(token, layers)))
                found[:, index, list(layers)] = restored.unflatten(0, (len(layers), -1)).T
        return found

    def _restoring(self, token: int, layers: Sequence[int]) -> Rows:
        """Rows (layer, draw), which join behind the first layer that is restored and are held in the others."""
        runs, draws = self.runs, len(self.runs.log_probs) - 1
        entries: dict[int, list[Tensor]] = {}
        held: dict[int, list[int]] = {}
        for index, layer in enumerate(layers):
            window = self._window(layer)
            states = runs.outputs[window.start][1:, token:].clone()
            states[:, 0] = runs.restored[window.start][1:, token]
            entries.setdefault(window.start, []).append(states)
            for later in window[1:]:
                held.setdefault(later, []).extend(range(index * draws, (index + 1) * draws))
        joining = {layer: torch.cat(parts) for layer, parts in entries.items()}
        device = self.clean.targets.device
        values = {
            layer: (torch.tensor(chosen, device=device), runs.parts[layer][token])
            for layer, chosen in held.items()
        }
        return self._rows(slice(1, None), token, joining, values)

    def _rows(
        self,
        of: slice,
        first: int,
        entries: dict[int, Tensor],
        held: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({}),
    ) -> Rows:
        runs = self.runs
        keys, values = [keys[of] for keys in runs.keys], [values[of] for values in runs.values]
        return Rows(self.clean, first, len(runs.targets), entries, keys, values, self.tracing.kind, held)

    def _log_probs(self, rows: Rows) -> Tensor:
        """``[R, Y]``"""
        return target_log_probs(self.model.run(rows), self.runs.targets)

    def _passes(self, layers: Sequence[int], tokens: int) -> Iterator[Sequence[int]]:
        """Cut ``layers`` of ``tokens`` tokens each into passes of at most ``chunk_tokens``, at least one layer each."""
        most = max(1, self.chunk_tokens // tokens)
        return (layers[start : start + most] for start in range(0, len(layers), most))

    def _window(self, layer: int) -> range:
        return self.tracing.restored_layers(layer, self._layers)

    @property
    def _layers(self) -> int:
        return len(self.runs.outputs)

    @property
    def _tokens(self) -> int:
        return self.runs.keys[0].shape[2]


def probability(log_probs: Tensor) -> Tensor:
    """P of the whole answer ``[...]``, in float64 on the CPU, from its tokens' ``[..., Y]``."""
    return log_probs.double().sum(-1).exp().cpu()
