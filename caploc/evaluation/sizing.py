"""How much is run at once."""

from __future__ import annotations

import torch

from caploc.model.loading import LanguageModel

# Larger passes page-fault more than they save on a CPU; a GPU wants far larger ones to be busy.
_CPU_BATCH, _LARGEST_GPU_BATCH, _SMALLEST_GPU_BATCH = 1280, 65536, 256
_CPU_WAITING = 64 << 20
_GPU_SHARE, _GPU_WAITING_SHARE = 0.4, 0.1  # of the free memory; what the formula forgets has the rest


def automatic_batch(lm: LanguageModel) -> int:
    """Tokens in a pass: by the free memory on CUDA, what was fastest on a CPU."""
    if lm.device.type != "cuda":
        return _CPU_BATCH
    fitting = int(_GPU_SHARE * _free(lm) / _bytes_per_token(lm))
    return max(_SMALLEST_GPU_BATCH, min(_LARGEST_GPU_BATCH, fitting))


def waiting_bytes(lm: LanguageModel) -> int:
    """How large the keys and values of rows that wait to be written on may grow."""
    return _CPU_WAITING if lm.device.type != "cuda" else int(_GPU_WAITING_SHARE * _free(lm))


def _bytes_per_token(lm: LanguageModel) -> int:
    """Of a pass at its peak, roughly: each layer's keys and values, one layer's states and activations, and the
    logits, of the model and in float32."""
    vocabulary, width = lm.structure.get_input_embeddings().weight.shape  # type: ignore[misc]
    states = 2 * lm.num_layers * width + 10 * width + 4 * lm.num_neurons
    return int(states * lm.dtype.itemsize + 12 * vocabulary)


def _free(lm: LanguageModel) -> int:
    return int(torch.cuda.mem_get_info(lm.device)[0])
