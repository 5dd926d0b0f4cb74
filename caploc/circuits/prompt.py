"""A prompt ready to be run edge by edge, and what one run of the whole model leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from caploc.circuits.block import Rotary


@dataclass(frozen=True, eq=False)
class Flow:
    """The whole model's run of B inputs: what every sender wrote and every receiver got.

    Attributes:
        outputs: per layer ``[heads + 1, B, rows, width]``, its heads and its MLP; rows are all tokens, but in the last
            layer only those that are read.
        attention_inputs: per layer ``[receivers, B, tokens, width]``, one tensor for all queries, keys and values.
        mlp_inputs: per layer ``[1, B, rows, width]``.
        output_input: ``[1, B, rows read, width]``.
        logits: ``[B, rows read, vocabulary]``.
    """

    outputs: list[Tensor]
    attention_inputs: list[Tensor]
    mlp_inputs: list[Tensor]
    output_input: Tensor
    logits: Tensor


@dataclass(eq=False)
class Prompt:
    """One prompt with its teacher-forced answer: T tokens fed (all but the last answer token), Y of them read.

    Attributes:
        id: the example's.
        targets: ``[Y]`` the answer's tokens; the last Y rows of logits predict them.
        embedded: ``[T, width]``.
        rotary: None in families with learned positions.
        masks: per layer ``[T, T]``, added to attention scores: 0 or minus infinity.
        deviations: ``[senders, T, width]`` in the whole model; in the last layer zero but for the last Y rows.
        log_prob: of the answer in the whole model, mean over its tokens.
    """

    id: str
    targets: Tensor
    embedded: Tensor
    rotary: Rotary | None
    masks: list[Tensor]
    deviations: Tensor = field(default_factory=lambda: torch.empty(0))
    log_prob: float = 0.0

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.embedded)

    @property
    def rows(self) -> int:
        """Y."""
        return len(self.targets)
