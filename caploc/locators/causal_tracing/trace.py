"""What causal tracing measured on one example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from caploc.errors import OptionError

Rank = Literal["last-subject", "sum"]


@dataclass(frozen=True, eq=False)
class Trace:
    """Probabilities of the answer: clean, with noise on the subject, and with one state put back.

    Attributes:
        id: the example's.
        token_ids: the prompt's tokens.
        subject: which of them are the subject.
        clean: P(answer) of the clean run.
        corrupted: the same with each draw of the noise.
        restored_by_draw: with noise and the clean state of (token, layer) put back. Entries that cannot differ from
            ``corrupted``, those of tokens in front of the subject among them, equal it exactly.
        clean_is_top: whether the clean run's most probable token is the answer's (each of them, where the whole
            answer is read).
        corrupted_is_top: the same for each draw.
        settings: what was chosen, and ``deviation``, the noise's standard deviation.
    """

    id: str
    token_ids: tuple[int, ...]
    subject: range
    clean: float
    corrupted: Float[Tensor, " draws"]
    restored_by_draw: Float[Tensor, "draws tokens layers"]
    clean_is_top: bool
    corrupted_is_top: Bool[Tensor, " draws"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def restored(self) -> Float[Tensor, "tokens layers"]:
        """Mean over draws."""
        return self.restored_by_draw.mean(0)

    @property
    def spread(self) -> Float[Tensor, "tokens layers"]:
        """Standard deviation over draws (divided by their number: zero for a single one)."""
        return self.restored_by_draw.std(0, correction=0)

    def by_layer(self, rank: Rank = "last-subject") -> Float[Tensor, " layers"]:
        """P_l of appendix C, a layer's contribution: the restored probability at the subject's last token, or its sum
        over the prompt's tokens. Ranking by the gain over ``corrupted`` gives the same order.

        Raises:
            OptionError: an unknown ``rank``.
        """
        check_rank(rank)
        return self.restored[self.subject[-1]] if rank == "last-subject" else self.restored.sum(0)


def check_rank(rank: str) -> None:
    """Raise ``OptionError`` unless ``rank`` is one."""
    if rank not in get_args(Rank):
        raise OptionError(f"rank must be one of {', '.join(get_args(Rank))}, got {rank!r}")
