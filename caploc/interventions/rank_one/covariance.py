"""The uncentred covariance C = E[k k^T] of a layer's keys: what an edit must leave alone, on average (Meng et al. 2022,
section 3.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from caploc.errors import CaplocError, ExampleError, ModelError, OptionError
from caploc.fingerprints import fingerprint
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.sizing import automatic_chunk
from caploc.spelling import encode
from caploc.store import Store

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
        matrices: by layer ``[neurons, neurons]`` float64, on the CPU.
        tokens: how many keys went into the mean.
        corpus: the fingerprint of the texts.
        ridge: this times the mean of C's diagonal is added to it.
    """

    matrices: dict[int, Float[Tensor, "neurons neurons"]]
    tokens: int
    corpus: str
    ridge: float = 0.0
    _factors: dict[int, Tensor] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What results are keyed by and a finding records."""
        return {"corpus": self.corpus, "tokens": self.tokens, "ridge": float(self.ridge)}

    def solve(self, layer: int, key: Float[Tensor, " neurons"]) -> Float[Tensor, " neurons"]:
        """C^-1 ``key`` in float64, on the key's device, where C's Cholesky factor is then kept for further keys.

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
            self._factors[layer] = self._factor(layer, key.device)
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
    model's and the corpus's fingerprints, and not computed again. Memory: neurons^2 x 8 bytes a layer.

    Raises:
        OptionError: a layer that is not there, or a ridge below 0.
        ExampleError: no text with a token.
    """
    wanted = check_layers(lm, layers)
    if not ridge >= 0:
        raise OptionError(f"ridge must be at least 0, got {ridge!r}")
    corpus = fingerprint(list(texts))
    keys = {
        layer: fingerprint(["key-covariance", _VERSION, lm.fingerprint, corpus, layer]) if store else ""
        for layer in wanted
    }
    matrices: dict[int, Tensor] = {}
    tokens = 0
    for layer in wanted if store else ():
        entry = store.get(keys[layer]) if store else None
        if entry is not None:
            matrices[layer], tokens = (
                torch.from_numpy(entry.arrays["second_moment"].copy()),
                entry.meta["tokens"],
            )
    missing = [layer for layer in wanted if layer not in matrices]
    if missing:
        sums, tokens = _sums(lm, texts, missing, progress)
        for layer in missing:
            matrices[layer] = sums.pop(layer).div_(tokens).cpu()
            if store:
                store.put(keys[layer], {"second_moment": matrices[layer].numpy()}, {"tokens": tokens})
    return KeyCovariance({layer: matrices[layer] for layer in wanted}, tokens, corpus, float(ridge))


@torch.no_grad()
def _sums(
    lm: LanguageModel, texts: Sequence[str], layers: Sequence[int], progress: bool
) -> tuple[dict[int, Tensor], int]:
    """``[neurons, neurons]`` sum of k k^T by layer, and the number of tokens."""
    shape = (lm.num_neurons, lm.num_neurons)
    sums = {layer: torch.zeros(shape, dtype=torch.float64, device=lm.device) for layer in layers}
    tokens = 0
    with (
        frozen_eval(lm.model),
        tqdm(total=len(texts), desc="key covariance", unit="text", disable=None if progress else True) as bar,
    ):
        for batch in _batches(lm, texts):
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


def _batches(lm: LanguageModel, texts: Sequence[str]) -> Iterator[list[Tensor]]:
    most, longest = automatic_chunk(lm), 0
    batch: list[Tensor] = []
    for text in texts:
        ids = torch.tensor(encode(lm, text).ids[: lm.max_length], dtype=torch.long)
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
    def adding(total: Tensor) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            keys = args[0].reshape(len(real), -1)[real].double()
            total.addmm_(keys.T, keys)

        return before

    with ExitStack() as stack:
        for layer, total in sums.items():
            module = lm.architecture.mlp_out_of(lm.layers[layer])
            stack.callback(module.register_forward_pre_hook(adding(total)).remove)
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
