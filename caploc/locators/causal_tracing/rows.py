"""Restored runs as rows: each joins behind the first layer that it is restored in.

Putting back a state of (token t, layer l) reaches no token before t and no layer up to l. So a row has the columns
t..T-1 only, attends to the corrupted run's keys and values in front of t, and joins the batch behind layer l. In the
last layer all columns have keys and values, but only those that predict the answer go on behind them.

Where a window of layers is restored, windows that begin at the same layer, as all do that the model's bottom cuts, are
one run up to the layer where the shorter one ends. There the shorter one leaves the longer as a row of its own; windows
that restore the same layers are one row. So ROME's windows of 10 cost little more than windows of 1.

Equality with runs of the whole sequence: ``caploc/tests/locators/test_causal_tracing.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache, DynamicCache

from caploc.locators.causal_tracing.trace import Kind, Tracing
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import keywords, states_of
from caploc.rows.caches import KeysValues, RowCache, masks
from caploc.rows.clean import CleanPass, target_log_probs
from caploc.rows.model import RowModel, Rows

Part = TypeVar("Part")

# Attention on a CPU takes up to three times as long for 30 keys as for 32: the number of keys is made a multiple of it.
_KEYS = 16


@dataclass
class Recording:
    """B rows of T tokens; row 0 is clean, the others are corrupted.

    Attributes:
        targets: ``[Y]`` the answer's tokens, predicted at the last Y tokens.
        outputs: per layer ``[B, T, width]``, its output.
        restored: per layer ``[B, T, width]``, its output with the layer's own state of ``kind`` clean at that token.
            A layer's attention reads the layer's input, so that no token's output depends on another's restoration:
            one more run of the layer gives all of them.
        parts: per layer ``[T, width]``, the clean output of its MLP or attention; empty for the kind "hidden".
        front: per layer keys and values ``[B, key heads, padding + T, head size]``, those of the padding zero.
        padding: keys that no token sees, in front of all others: see ``_KEYS``.
        log_probs: ``[B, Y]`` of the targets.
        is_top: ``[B]`` whether each answer token is the most probable one.
    """

    targets: Tensor
    outputs: list[Tensor] = field(default_factory=list)
    restored: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    front: KeysValues = field(default_factory=list)
    padding: int = 0
    log_probs: Tensor = field(default_factory=lambda: torch.empty(0))
    is_top: Tensor = field(default_factory=lambda: torch.empty(0))


@torch.no_grad()
def record(lm: LanguageModel, embeddings: Tensor, targets: Tensor, kind: Kind) -> Recording:
    """Run ``embeddings [B, T, width]``, whose last Y tokens predict the answer's ``targets [Y]``."""
    recording = Recording(targets)
    cache = DynamicCache()  # without a config: one made from it drops keys outside a sliding window
    with _recording(lm, kind, recording, embeddings.shape[:2], len(targets)):
        logits = lm.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).logits
    recording.log_probs = target_log_probs(logits, targets)
    recording.is_top = (logits.argmax(-1) == targets).all(-1)
    recording.padding = -embeddings.shape[1] % _KEYS
    in_front = (0, 0, recording.padding, 0)
    kept: list[Any] = list(cache.layers)
    recording.front = [(pad(layer.keys, in_front), pad(layer.values, in_front)) for layer in kept]
    return recording


@contextmanager
def _recording(
    lm: LanguageModel, kind: Kind, recording: Recording, shape: Sequence[int], read: int
) -> Iterator[None]:
    restoring = False

    def after_part(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not restoring:
            own = output.view(*shape, -1)[0]  # OPT runs its MLP on [B T, width]
            # a copy: Falcon's layer writes to it
            recording.parts.append(own.to(recording.targets.device, copy=True))
            return None
        clean = recording.parts[-1].to(output.device).expand(*shape, -1)
        return clean.flatten(0, 1) if output.dim() == 2 else clean.clone()

    def before_mlp(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (args[0][:, :1], *args[1:]) if restoring else None  # its output is replaced: spare the work

    def after_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal restoring
        states = states_of(output)
        recording.outputs.append(states)
        if kind == "hidden":
            recording.restored.append(states[:1].expand_as(states))
        else:
            named = keywords(layer, args, kwargs)
            named.update({name: None for name, value in named.items() if isinstance(value, Cache)})
            restoring = True
            recording.restored.append(states_of(layer.forward(**named)))
            restoring = False

    def before_head(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, -read:].contiguous(), *args[1:])

    with ExitStack() as stack:
        head = lm.model.get_output_embeddings()
        stack.callback(head.register_forward_pre_hook(before_head).remove)
        for layer in lm.layers:
            if kind != "hidden":
                # dropout alone, which rests, stands between this projection and the MLP's or attention's output
                path = lm.architecture.mlp_out if kind == "mlp" else lm.architecture.attention_out
                stack.callback(layer.get_submodule(path).register_forward_hook(after_part).remove)
            mlp = lm.architecture.mlp_out.rpartition(".")[0] if kind == "mlp" else ""
            if mlp:  # none of its own in OPT
                stack.callback(layer.get_submodule(mlp).register_forward_pre_hook(before_mlp).remove)
            stack.callback(layer.register_forward_hook(after_layer, with_kwargs=True).remove)
        yield


class RestoredRows(Rows):
    """One pass: rows of the C columns ``first``..T-1, in the order in which they join.

    Args:
        clean: an ordinary run of the same tokens, for what the family lets each of them see.
        runs: what rows differ from; row r from the r-th of the runs ``of``, modulo their number.
        first: the token of the first column.
        kind: whose output is ``held``.
        entries: for each layer behind which rows join, their states ``[rows, C, width]``.
        leaving: for each layer in front of which shorter windows leave longer ones, the windows, and the rows that they
            have been up to there.
        branches: for each layer in front of which such windows join, in this pass or a later one, those of this pass.
        left: the states ``[D, C, width]`` of windows that have left and not joined yet.
        held: for a layer, which of the rows that have joined before have their first column's MLP or attention put out
            a value ``[width]`` there.
    """

    def __init__(
        self,
        clean: CleanPass,
        runs: Recording,
        of: slice,
        first: int,
        kind: Kind,
        entries: Mapping[int, Tensor],
        leaving: Mapping[int, Sequence[tuple[range, slice]]] = MappingProxyType({}),
        branches: Mapping[int, Sequence[range]] = MappingProxyType({}),
        left: dict[range, Tensor] | None = None,
        held: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({}),
    ) -> None:
        seen = runs.padding + first
        front = [(keys[of, :, :seen], values[of, :, :seen]) for keys, values in runs.front]
        tokens = len(clean.positions)
        positions = torch.arange(first, tokens, device=clean.positions.device)[None]
        draws = len(front[0][0])
        rows = sum(map(len, entries.values())) + draws * sum(map(len, branches.values()))
        super().__init__(RowCache(front, first, rows), positions, tuples=clean.tuples)
        self.narrow = self._read = len(runs.targets)
        self._columns, self._kind = tokens - first, kind
        self._entries, self._held = entries, held
        self._leaving, self._branches, self._left = leaving, branches, {} if left is None else left
        self._last = len(runs.outputs) - 1

        def allowed(visible: Tensor) -> Tensor:
            own = torch.eye(tokens, dtype=torch.bool, device=visible.device)
            return pad((visible | own)[first:], (runs.padding, 0))

        self._masks = masks(clean.visible, allowed, runs.front[0][0].dtype)

    def mask(self, layer: int, rows: int) -> Tensor:
        return self._masks[layer]

    def in_front(self, layer: int, states: Tensor) -> Tensor | None:
        for window, rows in self._leaving.get(layer, ()):
            self._left[window] = states[rows].clone()
        windows = self._branches.get(layer)
        return torch.cat([self._left.pop(window) for window in windows]) if windows else None

    def behind(self, layer: int) -> Tensor | None:
        return self._entries.get(layer)

    def mlp_output(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        return self._holding(layer, output) if self._kind == "mlp" else output

    def attention_output(self, layer: int, output: Tensor) -> Tensor:
        return self._holding(layer, output) if self._kind == "attention" else output

    def _holding(self, layer: int, output: Tensor) -> Tensor:
        # in the last layer nobody reads the first column, unless all are read
        if layer in self._held and (layer < self._last or self._columns == self._read):
            chosen, value = self._held[layer]
            output.view(-1, self._columns, output.shape[-1])[chosen, 0] = value  # OPT's is [rows C, width]
        return output

    def read(self, states: Tensor) -> Tensor:
        return states[:, -self._read :].contiguous()


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

    model: RowModel
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
            rows = RestoredRows(self.clean, self.runs, slice(0, 2), first, self.tracing.kind, entries)
            found.append(self._log_probs(rows))
        return torch.cat(found).unflatten(0, (self._layers, 2))

    def probabilities(self, tokens: range) -> Tensor:
        """``[D, tokens, L]`` P of the answer with the clean state of each token and layer put back."""
        corrupted = probability(self.runs.log_probs[1:])
        found = corrupted[:, None, None].repeat(1, len(tokens), self._layers)
        for index, token in enumerate(tokens):
            windows = self._windows(token)
            # of those that begin together the longest first: the others leave it
            ordered = sorted(windows, key=lambda window: (window.start, -window.stop))
            left: dict[range, Tensor] = {}
            for part in self._passes(ordered, len(corrupted) * (self._tokens - token)):
                joining, rows = self._restoring(token, ordered, part, left)
                restored = probability(self._log_probs(rows)).unflatten(0, (len(part), -1))
                for window, of_window in zip(joining, restored, strict=True):
                    found[:, index, windows[window]] = of_window[:, None]
        return found

    def _windows(self, token: int) -> dict[range, list[int]]:
        """The windows that differ for what is read, each with the layers that are the middle of it."""
        last = self._layers - 1
        # behind the last layer's keys and values, what is restored reaches its own token's prediction alone
        predicts = token >= self._tokens - len(self.runs.targets)
        found: dict[range, list[int]] = {}
        for layer in range(self._layers):
            window = self.tracing.restored_layers(layer, self._layers)
            if not predicts:
                window = range(window.start, min(window.stop, last))
            if window:
                found.setdefault(window, []).append(layer)
        return found

    def _restoring(
        self, token: int, windows: Sequence[range], part: Sequence[range], left: dict[range, Tensor]
    ) -> tuple[list[range], RestoredRows]:
        """The pass of rows (window, draw) for ``part`` of a token's ``windows``, and in which order they join.

        A row joins behind the first layer that is restored and is held in the others; but where a longer window begins
        there, it is that one's row up to the layer in front of which its own window ends.
        """
        runs, draws, device = self.runs, len(self.runs.log_probs) - 1, self.clean.targets.device
        longest: dict[int, range] = {}
        for window in windows:
            longest.setdefault(window.start, window)
        shorter = [window for window in windows if window != longest[window.start]]
        joining = sorted(
            part, key=lambda one: (one.stop, 0, one.start) if one in shorter else (one.start, 1, 0)
        )
        rows_of = {window: range(draws * n, draws * (n + 1)) for n, window in enumerate(joining)}
        leaving: dict[int, list[tuple[range, slice]]] = {}
        branches: dict[int, list[range]] = {}
        for window in sorted(shorter, key=lambda one: (one.stop, one.start)):
            rows = rows_of.get(longest[window.start])
            if rows:
                leaving.setdefault(window.stop, []).append((window, slice(rows.start, rows.stop)))
            if window in rows_of:
                branches.setdefault(window.stop, []).append(window)
        entries: dict[int, Tensor] = {}
        held: dict[int, list[int]] = {}
        for window in joining:
            if window in shorter:
                continue
            states = runs.outputs[window.start][1:, token:].clone()
            states[:, 0] = runs.restored[window.start][1:, token]
            entries[window.start] = states
            for later in window[1:]:
                held.setdefault(later, []).extend(rows_of[window])
        values = {
            layer: (torch.tensor(chosen, device=device), runs.parts[layer][token])
            for layer, chosen in held.items()
        }
        made = RestoredRows(
            self.clean,
            runs,
            slice(1, None),
            token,
            self.tracing.kind,
            entries,
            leaving,
            branches,
            left,
            values,
        )
        return joining, made

    def _log_probs(self, rows: RestoredRows) -> Tensor:
        """``[R, Y]``"""
        return target_log_probs(self.model.logits(rows), self.runs.targets)

    def _passes(self, parts: Sequence[Part], tokens: int) -> Iterator[Sequence[Part]]:
        """Cut ``parts`` of ``tokens`` tokens each into passes of at most ``chunk_tokens``, at least one part each."""
        most = max(1, self.chunk_tokens // tokens)
        return (parts[start : start + most] for start in range(0, len(parts), most))

    @property
    def _layers(self) -> int:
        return len(self.runs.outputs)

    @property
    def _tokens(self) -> int:
        return len(self.clean.positions)


def probability(log_probs: Tensor) -> Tensor:
    """P of the whole answer ``[...]``, in float64 on the CPU, from its tokens' ``[..., Y]``."""
    return log_probs.double().sum(-1).exp().cpu()
