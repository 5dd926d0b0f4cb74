"""The uncentred covariance C = E[k k^T] of a layer's keys: what an edit must leave alone, on average (Meng et al. 2022,
section 3.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from caploc.errors import CaplocError, ExampleError, ModelError, OptionError
from caploc.examples import check_vocabulary
from caploc.fingerprints import fingerprint
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.sizing import Budget, refused_if_too_large, room
from caploc.spelling import encode
from caploc.store import Store, StoreError

# What C^-1 loses of a float32 key's seven digits is at most its condition number.
WORST_CONDITION = 1e7
_POWER_STEPS = 20
_VERSION = 1


class SingularCovarianceError(CaplocError):
    """The covariance of a layer's keys cannot be inverted with sense."""


@dataclass(eq=False)
class KeyCovariance:
    """C of some layers, over one corpus.

    Attributes:
        matrices: by layer ``[neurons, neurons]`` float64, on the CPU; of those in a store, one in memory at a time.
        tokens: how many keys went into the mean.
        corpus: the fingerprint of the texts.
        ridge: this times the mean of C's diagonal is added to it.
    """

    matrices: Mapping[int, Float[Tensor, "neurons neurons"]]
    tokens: int
    corpus: str
    ridge: float = 0.0
    _factors: dict[int, Tensor] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What results are keyed by and a finding records."""
        return {"corpus": self.corpus, "tokens": self.tokens, "ridge": float(self.ridge)}

    @refused_if_too_large("the covariance of a layer's keys, in float64,")
    def solve(self, layer: int, key: Float[Tensor, " neurons"]) -> Float[Tensor, " neurons"]:
        """C^-1 ``key`` in float64, on the key's device. C's Cholesky factor is kept for further keys, on the CPU: those
        of all layers would fill a GPU (31 GB for a 7B Llama).

        Raises:
            OptionError: no covariance of this layer.
            SingularCovarianceError: C with its ridge is singular, or its condition number above ``WORST_CONDITION``.
        """
        if layer not in self.matrices:
            raise OptionError(
                f"there is no covariance of layer {layer}, only of {sorted(self.matrices)}; add it to the layers of "
                "key_covariance"
            )
        if layer not in self._factors:
            self._factors[layer] = self._factor(layer, key.device).cpu()
        return torch.cholesky_solve(key.double()[:, None], self._factors[layer].to(key.device))[:, 0]

    def _factor(self, layer: int, device: torch.device) -> Tensor:
        matrix = self.matrices[layer].to(device, copy=True)
        matrix.diagonal().add_(self.ridge * matrix.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(matrix)
        condition = torch.inf if failed else _condition(matrix, factor)
        if not condition < WORST_CONDITION:
            raise SingularCovarianceError(
                f"the covariance of layer {layer}'s keys, {self.tokens} tokens, {len(matrix)} neurons, is singular or "
                f"nearly so: its condition number is about {condition:.1g}, at most {WORST_CONDITION:.0e} is allowed; "
                "take a larger and more varied corpus, or a ridge, key_covariance(..., ridge=1e-4)"
            )
        return factor


def _condition(matrix: Tensor, factor: Tensor) -> float:
    """Largest over smallest eigenvalue, by power iteration: close from below, and n times cheaper than all of them."""
    start = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    largest = smallest = start.to(matrix.device)
    for _ in range(_POWER_STEPS):
        largest = matrix @ (largest / largest.norm())
        smallest = torch.cholesky_solve(smallest / smallest.norm(), factor)
    return float(largest.norm() * smallest.norm())


def identity_covariance(lm: LanguageModel) -> KeyCovariance:
    """C = 1 for every layer: an edit that spares no key in particular."""
    ones = torch.eye(lm.num_neurons, dtype=torch.float64)
    return KeyCovariance(dict.fromkeys(range(lm.num_layers), ones), 0, "identity")


def key_covariance(
    lm: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int] | None = None,
    *,
    ridge: float = 0.0,
    store: Store | None = None,
    progress: bool = True,
) -> KeyCovariance:
    """C over all tokens of ``texts`` for ``layers`` (None: all), summed in float64, text by text.

    Texts longer than the model's context are cut there. With a ``store``, each layer's matrix is kept in it under the
    model's and the corpus's fingerprints, and not computed again. Memory: neurons^2 x 8 bytes a layer; on a GPU, the
    corpus is run once for every so many layers as have room beside the weights.

    Raises:
        OptionError: a layer that is not there, or a ridge below 0.
        ExampleError: no text with a token, or one with a token that the model has no embedding of.
        ModelError: not even one layer's matrix fits into the GPU's memory beside the weights.
    """
    wanted = check_layers(lm, layers)
    if not ridge >= 0:
        raise OptionError(f"ridge must be at least 0, got {ridge!r}")
    corpus = fingerprint(list(texts))
    keys = {
        layer: fingerprint(["key-covariance", _VERSION, lm.fingerprint, corpus, layer]) if store else ""
        for layer in wanted
    }
    kept, made = _Kept(store, keys), dict[int, Tensor]()
    tokens = next((found for layer in wanted if layer in kept and (found := kept.tokens(layer))), 0)
    passes = Budget(lm)
    refusal = "one layer's covariance does not fit into the GPU's memory; use a GPU with more memory"

    def means(layers: Sequence[int]) -> int:
        def sums() -> tuple[dict[int, Tensor], int]:
            return _sums(lm, texts, layers, passes.tokens, progress)

        # with several layers it is their number that is halved first
        found, count = sums() if len(layers) > 1 else passes.fitting(sums, refusal)
        for layer in layers:
            mean = found.pop(layer).div_(count).cpu()
            if store:
                store.put(keys[layer], {"second_moment": mean.numpy()}, {"tokens": count})
            else:
                made[layer] = mean
        return count

    missing = [layer for layer in wanted if layer not in kept]
    counts = Budget(lm, layers_at_once(lm)).in_parts(missing, means, refusal)
    matrices = kept if store else made
    return KeyCovariance(matrices, counts[0] if counts else tokens, corpus, float(ridge))


def layers_at_once(lm: LanguageModel) -> int:
    """How many layers' covariances are summed in one run over the corpus: all, but on a GPU as many as half of the
    memory that the weights leave has room for."""
    if lm.device.type != "cuda":
        return lm.num_layers
    return max(1, min(lm.num_layers, room(lm) // (2 * 8 * lm.num_neurons**2)))


class _Kept(Mapping[int, Tensor]):
    """Matrices that a store keeps, by layer: read when asked for."""

    def __init__(self, store: Store | None, keys: Mapping[int, str]) -> None:
        self._store, self._keys = store, keys

    def tokens(self, layer: int) -> int | None:
        """Over how many tokens the mean was taken; None where there is none, or it was damaged."""
        entry = self._store.get(self._keys[layer]) if self._store else None
        return None if entry is None else int(entry.meta["tokens"])

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self:
            raise KeyError(layer)
        entry = self._store.get(self._keys[layer]) if self._store else None
        if entry is None:
            raise StoreError(
                f"the covariance of layer {layer} was damaged in the store; run again to make it anew"
            )
        return torch.from_numpy(entry.arrays["second_moment"].copy())

    def __contains__(self, layer: object) -> bool:
        key = self._keys.get(cast(int, layer))
        return self._store is not None and key is not None and self._store.has(key)

    def __iter__(self) -> Iterator[int]:
        return (layer for layer in self._keys if layer in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@torch.no_grad()
def _sums(
    lm: LanguageModel, texts: Sequence[str], layers: Sequence[int], most: int, progress: bool
) -> tuple[dict[int, Tensor], int]:
    """``[neurons, neurons]`` sum of k k^T by layer, and the number of tokens; ``most`` tokens in a pass."""
    shape = (lm.num_neurons, lm.num_neurons)
    there = {
        layer: lm.architecture.mlp_out_of(lm.layers[layer]).get_parameter("weight").device for layer in layers
    }
    sums = {layer: torch.zeros(shape, dtype=torch.float64, device=device) for layer, device in there.items()}
    tokens = 0
    with (
        frozen_eval(lm.model),
        tqdm(total=len(texts), desc="key covariance", unit="text", disable=None if progress else True) as bar,
    ):
        for batch in _batches(lm, texts, most):
            # padded on the right, where no token that counts looks: no mask is needed
            fed = pad_sequence(batch, batch_first=True).to(lm.device)
            lengths = torch.tensor([len(ids) for ids in batch], device=lm.device)
            real = torch.arange(fed.shape[1], device=lm.device) < lengths[:, None]
            with _summing(lm, sums, real.flatten()):
                lm.model(input_ids=fed, use_cache=False, logits_to_keep=1)
            tokens += int(lengths.sum())
            bar.update(len(batch))
    if not tokens:
        raise ExampleError("the corpus of a covariance has no token; give texts that are not empty")
    return sums, tokens


def _batches(lm: LanguageModel, texts: Sequence[str], most: int) -> Iterator[list[Tensor]]:
    longest, batch = 0, list[Tensor]()
    for number, text in enumerate(texts):
        tokens = encode(lm, text).ids[: lm.max_length]
        check_vocabulary(lm, f"text {number} of the corpus", tokens)
        ids = torch.tensor(tokens, dtype=torch.long)
        if batch and max(longest, len(ids)) * (len(batch) + 1) > most:
            yield batch
            batch, longest = [], 0
        if len(ids):
            batch.append(ids)
            longest = max(longest, len(ids))
    if batch:
        yield batch


@contextmanager
def _summing(lm: LanguageModel, sums: dict[int, Tensor], real: Tensor) -> Iterator[None]:
    def add(total: Tensor, module: nn.Module, args: tuple[Any, ...]) -> None:
        keys = args[0].reshape(len(real), -1)[real.to(total.device)].double()
        total.addmm_(keys.T, keys)

    with ExitStack() as stack:
        for layer, total in sums.items():
            module = lm.architecture.mlp_out_of(lm.layers[layer])
            stack.callback(module.register_forward_pre_hook(partial(add, total)).remove)
        yield


def check_layers(lm: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    """``layers`` in ascending order, each once; None for all.

    Raises:
        OptionError: a layer that is not there, or none.
    """
    count = lm.num_layers
    chosen = range(count) if layers is None else layers
    for layer in chosen:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < count:
            raise OptionError(f"layer {layer!r} is out of range: {lm.name} has the layers 0 to {count - 1}")
    if not chosen:
        raise OptionError("no layer to edit; give at least one, or None for all")
    return sorted(set(chosen))


def check_precise(lm: LanguageModel) -> None:
    """Raise ``ModelError`` unless weights are precise enough for rank-one changes."""
    if lm.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"a rank-one edit changes weights by less than {str(lm.dtype)[6:]} can tell apart; load {lm.name} with "
            "dtype float32"
        )
