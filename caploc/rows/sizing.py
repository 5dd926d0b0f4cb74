"""How much is run at once: by the shapes of the model and the kind of device, and less from the first time that it does
not fit.

How texts are laid out in passes decides how sums are rounded, in the last digits. So no layout depends on how much of a
card's memory is free: rounding depends on the model's shapes and dtype, the settings (tokens asked for), the kind of
device (a CPU, or a GPU by the memory it has in all), the machine's libraries and threads, and on nothing else, but for
one exception: where CUDA runs out of memory, because others use the card too, what is left is run in halves.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import TypeVar

import torch
from transformers.utils import logging

from caploc.errors import ModelError
from caploc.model.loading import LanguageModel

Result = TypeVar("Result")

# Larger passes page-fault more than they save on a CPU; a GPU wants far larger ones to be busy.
_CPU_TOKENS, _MOST_GPU_TOKENS, _LEAST_GPU_TOKENS = 1280, 65536, 256
# of the memory that the weights leave; what the formula forgets has the rest
_GPU_SHARE_WITH_GRADIENTS, _GPU_SHARE, _GPU_WAITING_SHARE = 0.5, 0.4, 0.1
_CPU_WAITING_BYTES = 64 << 20
# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no more
_KEPT_BYTES = 1 << 30


class Budget:
    """How many tokens are run at once, halved whenever CUDA runs out of memory; use it for all passes of one model.

    Args:
        lm: whose passes they are.
        tokens: at first; None chooses by device.
        gradients: whether passes keep what gradients need.
    """

    def __init__(self, lm: LanguageModel, tokens: int | None = None, *, gradients: bool = True) -> None:
        self.tokens = tokens or automatic_chunk(lm, gradients=gradients)

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
            return True
        except torch.cuda.OutOfMemoryError as error:
            if self.tokens <= smallest and not divisible:
                raise ModelError(refusal) from error
        self._halve()
        return False

    def fitting(self, run: Callable[[], Result], refusal: str) -> Result:
        """What ``run`` gives once the budget that it goes by is small enough. Raises as ``fits``."""
        while True:
            try:
                return run()
            except torch.cuda.OutOfMemoryError as error:
                if self.tokens <= 1:
                    raise ModelError(refusal) from error
            self._halve()

    def _halve(self) -> None:
        """Call it behind the ``except``: only with the error's frames gone is what they held free."""
        self.tokens = max(1, self.tokens // 2)
        torch.cuda.empty_cache()


def automatic_chunk(lm: LanguageModel, *, gradients: bool = True) -> int:
    """Tokens in a pass: what was fastest on a CPU; on CUDA as many as fit into the memory that the weights leave, as a
    power of two, so that cards of one kind that report a few MB more or less agree."""
    if lm.device.type != "cuda":
        return _CPU_TOKENS
    share = _GPU_SHARE_WITH_GRADIENTS if gradients else _GPU_SHARE
    fitting = max(1, int(share * _room(lm) / bytes_per_token(lm, gradients=gradients)))
    return max(_LEAST_GPU_TOKENS, min(_MOST_GPU_TOKENS, _power_of_two(fitting)))


def bytes_per_token(lm: LanguageModel, *, gradients: bool = True) -> int:
    """Memory that one token of a pass needs at its peak, roughly.

    With gradients: what autograd keeps of every layer (about ten vectors of the model's width and four of its neurons)
    and three float32 rows of logits. Without: each layer's keys and values, one layer's states and activations, and the
    logits, of the model and in float32.
    """
    vocabulary, width = lm.structure.get_input_embeddings().weight.shape  # type: ignore[misc]
    if gradients:
        kept = lm.num_layers * (10 * width + 4 * lm.num_neurons) * lm.dtype.itemsize
        return int(kept + 3 * vocabulary * 4)
    states = 2 * lm.num_layers * width + 10 * width + 4 * lm.num_neurons
    return int(states * lm.dtype.itemsize + 12 * vocabulary)


def waiting_bytes(lm: LanguageModel) -> int:
    """How large the keys and values of rows that wait to be run on may grow."""
    if lm.device.type != "cuda":
        return _CPU_WAITING_BYTES
    return _power_of_two(max(1, int(_GPU_WAITING_SHARE * _room(lm))))


def _room(lm: LanguageModel) -> int:
    """Bytes of the card, used by others or not, beside the model's weights."""
    whole = int(torch.cuda.get_device_properties(lm.device).total_memory)
    return max(0, whole - lm.num_parameters * lm.dtype.itemsize)


def _power_of_two(number: int) -> int:
    """The largest up to ``number``."""
    return 1 << number.bit_length() - 1


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
