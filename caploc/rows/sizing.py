"""How much is run at once: by the shapes of the model and the kind of device, and less from the first time that it does
not fit.

How texts are laid out in passes decides how sums are rounded, in the last digits. So no layout depends on how much of a
card's memory is free: rounding depends on the model's shapes and dtype, the settings (tokens asked for), the kind of
device (a CPU, or a GPU by the memory it has in all), the machine's libraries and threads, and on nothing else, but for
one exception: where CUDA runs out of memory, because others use the card too, what is left is run in halves.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from transformers.utils import logging

from caploc.costs import (
    LEAST_TOKENS,
    SHARE,
    SHARE_WITH_GRADIENTS,
    WAITING_SHARE,
    Shape,
    power_of_two,
    token_bytes,
)
from caploc.errors import ModelError

if TYPE_CHECKING:
    from caploc.model.loading import LanguageModel

Result = TypeVar("Result")
Parts = TypeVar("Parts", bound="torch.Tensor | Sequence[Any]")

# Larger passes page-fault more than they save on a CPU; a GPU wants far larger ones to be busy.
_CPU_TOKENS, _MOST_GPU_TOKENS = 1280, 65536
_CPU_WAITING_BYTES = 64 << 20
# runs that must fit before a budget is doubled again; each halving doubles it, the first one too
_PATIENCE = 8
# of torch's own message
_OUT_OF_MEMORY = re.compile(
    r"Tried to allocate ([\d.]+ \w+)\. (GPU \d+ has a total capacity of [\d.]+ \w+ of which [\d.]+ \w+ is free)"
)
# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no more
_KEPT_BYTES = 1 << 30


class Budget:
    """How many tokens are run at once; use it for all passes of one model.

    Halved whenever CUDA runs out of memory, and doubled again, up to what it was, once 16 runs have fitted: one long
    example does not slow down all that follow it. Each further halving doubles that number, so that hardly a run is
    lost to trying.

    Args:
        lm: whose passes they are.
        tokens: at first; None chooses by device.
        gradients: whether passes keep what gradients need.
    """

    def __init__(self, lm: LanguageModel, tokens: int | None = None, *, gradients: bool = True) -> None:
        self._lm, self._gradients, self._given = lm, gradients, tokens is not None
        self._most = self._in_use = tokens or automatic_chunk(lm, gradients=gradients)
        self._halvings = self._fitted = 0
        self._patience = _PATIENCE

    @property
    def tokens(self) -> int:
        """How many there may be in a pass whose rows keep keys and values of their own tokens alone."""
        return max(1, self._most >> self._halvings)

    def of_rows(self, columns: int, context: int) -> int:
        """How many where each row, of ``columns`` tokens, is handed a copy of the keys and values of ``context``
        tokens; ``tokens`` on a CPU, and where the number was given."""
        most = self._most
        if not self._given and self._lm.device.type == "cuda":
            most = min(
                most, automatic_chunk(self._lm, gradients=self._gradients, columns=columns, context=context)
            )
        self._in_use = max(1, most >> self._halvings)
        return self._in_use

    def fits(
        self, run: Callable[[], object], refusal: str, *, divisible: bool = False, smallest: int = 1
    ) -> bool:
        """Whether ``run`` had the memory it needs; if not, the budget is smaller from now on.

        Args:
            divisible: whether it consists of several parts, which may still fit one by one.
            smallest: tokens of a part that cannot be divided.

        Raises:
            ModelError: ``refusal``; it did not fit although the budget was for one such part, and is not divisible.
        """
        try:
            run()
        except torch.cuda.OutOfMemoryError as error:
            if self.tokens <= smallest and not divisible:
                raise too_large(refusal, error) from error
        else:
            self._grow()
            return True
        self._halve()
        return False

    def fitting(self, run: Callable[[], Result], refusal: str) -> Result:
        """What ``run`` gives once the budget that it goes by is small enough. Raises as ``fits``."""
        while True:
            self._in_use = self.tokens
            try:
                found = run()
            except torch.cuda.OutOfMemoryError as error:
                if self._in_use <= 1:
                    raise too_large(refusal, error) from error
            else:
                self._grow()
                return found
            self._halve()

    def in_parts(
        self, items: Parts, run: Callable[[Parts], Result], refusal: str, cost: int = 1
    ) -> list[Result]:
        """What ``run`` gives for parts of ``items``, in order, each of as many as the budget has room for at ``cost``
        tokens an item, at least one. Raises as ``fits``."""
        found: list[Result] = []
        left = items
        while len(left):
            part = cast(Parts, left[: max(1, self.tokens // cost)])

            def attempt(part: Parts = part) -> None:
                found.append(run(part))

            if self.fits(attempt, refusal, divisible=len(part) > 1, smallest=cost):
                left = cast(Parts, left[len(part) :])
        return found

    def _halve(self) -> None:
        """Call it behind the ``except``: only with the error's frames gone is what they held free."""
        self._halvings += self.tokens > 1
        self._fitted, self._patience = 0, 2 * self._patience
        _free()

    def _grow(self) -> None:
        self._fitted += 1
        if self._halvings and self._fitted >= self._patience:
            self._halvings, self._fitted = self._halvings - 1, 0


def too_large(refusal: str, error: torch.cuda.OutOfMemoryError) -> ModelError:
    """What is raised where no smaller pass is left: ``refusal``, with what CUDA says was asked for and found.

    Lets go of what the failed run held, which the error's frames would keep for as long as a report keeps the error.
    """
    traceback.clear_frames(error.__traceback__)
    _free()
    said = _OUT_OF_MEMORY.search(str(error))
    return ModelError(f"{refusal} (asked for {said[1]} more; {said[2]})" if said else refusal)


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def refused_if_too_large(what: str, remedy: str = "use a GPU with more memory") -> Iterator[None]:
    """For what cannot be run in parts: raises one line, a ModelError, where CUDA runs out of memory within it."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise too_large(f"{what} does not fit into the GPU's memory; {remedy}", error) from error


def automatic_chunk(lm: LanguageModel, *, gradients: bool = True, columns: int = 1, context: int = 0) -> int:
    """Tokens in a pass: what was fastest on a CPU; on CUDA as many as fit into the memory that the weights leave, as a
    power of two, so that cards of one kind that report a few MB more or less agree. ``columns`` and ``context`` as in
    ``bytes_per_token``."""
    if lm.device.type != "cuda":
        return _CPU_TOKENS
    share = SHARE_WITH_GRADIENTS if gradients else SHARE
    needed = bytes_per_token(lm, gradients=gradients, columns=columns, context=context)
    fitting = max(1, int(share * room(lm) / needed))
    return max(1 if context else LEAST_TOKENS, min(_MOST_GPU_TOKENS, power_of_two(fitting)))


def bytes_per_token(lm: LanguageModel, *, gradients: bool = True, columns: int = 1, context: int = 0) -> int:
    """Memory that one token of a pass needs at its peak: `caploc.costs.token_bytes`, keys and values copied for each
    query head."""
    return int(
        token_bytes(shape_of(lm), lm.dtype.itemsize, gradients=gradients, columns=columns, context=context)
    )


def shape_of(lm: LanguageModel) -> Shape:
    """What costs are reckoned from; the weights may be absent."""
    config, embeddings = lm.config, lm.structure.get_input_embeddings().weight
    vocabulary, width = embeddings.shape  # type: ignore[misc]
    heads = config.num_attention_heads
    # of a head that computes in float32 for a while the weights are its own (`caploc.rows.borrowing.wide_head`)
    head = getattr(lm.structure.get_output_embeddings(), "weight", None)
    return Shape(
        layers=lm.num_layers,
        width=int(width),
        neurons=lm.num_neurons,
        vocabulary=int(vocabulary),
        parameters=lm.num_parameters,
        heads=heads,
        key_heads=heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        gated=lm.parameters_per_neuron >= 3 * width,
        in_steps=getattr(config, "_attn_implementation", "eager") != "sdpa",
        tied=bool(getattr(config, "tie_word_embeddings", True)) if head is None else head is embeddings,
    )


def waiting_bytes(lm: LanguageModel) -> int:
    """How large the keys and values of rows that wait to be run on may grow."""
    if lm.device.type != "cuda":
        return _CPU_WAITING_BYTES
    return power_of_two(max(1, int(WAITING_SHARE * room(lm))))


def room(lm: LanguageModel) -> int:
    """Bytes of the card, used by others or not, beside the model's weights."""
    whole = int(torch.cuda.get_device_properties(lm.device).total_memory)
    return max(0, whole - lm.num_parameters * lm.dtype.itemsize)


def keep_freed_memory() -> bool:
    """Ask glibc to hold on to up to 1 GiB that this process frees; whether it did.

    Otherwise every tensor of some megabytes comes fresh from the system, page by page, and goes back: a fifth of the
    CPU time of attributing a small model. For a process of our own, such as an audit's; a library should not decide
    this for its host, so ``caploc.attribute`` does not call it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    )


def prepare_process() -> None:
    """The same numbers whatever the machine: one thread a process; more processes share the work. No bars but the
    audit's own line: transformers draws one for every model, whatever the terminal shows."""
    keep_freed_memory()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
