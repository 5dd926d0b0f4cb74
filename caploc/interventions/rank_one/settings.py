"""What decides a rank-one edit, beside the model, the fact, the layer and the covariance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from caploc.errors import OptionError

Token = Literal["last-subject", "last-prompt"]
Key = Literal["prompt", "mean"]


@dataclass(frozen=True)
class Editing:
    """How an edit is made. Every number is what ROME's released code sets for GPT-J, unless brackets say so.

    ===================  =====================================================================================
    ``token``            whose key is edited: the subject's last token (ROME's), or the prompt's last
    ``key``              which key gets the new value exactly: that of the bare ``prompt``, as in ROME's code, or
                         the ``mean`` over prefixed prompts, as in its paper; the mean gives the direction of
                         the update in both
    ``prefix_tokens``    the length of each text that is drawn from the model and put in front of the prompt,
                         to make more of it [ROME's code: ten of 5 and ten of 10; its paper: 50 of 2 to 10]
    ``prefixes``         texts to be used instead of drawn ones; an empty tuple for the bare prompt alone
    ``steps``            updates of the value by Adam
    ``learning_rate``    of Adam, in units of the MLP's output
    ``kl_weight``        of KL(edited || unedited) behind "SUBJECT is a" [ROME's code reads it at the edited
                         token; here, as in its paper, behind the whole text]
    ``decay``            of |delta| / |v|^2, v the unedited output of the MLP at the bare prompt
    ``clamp``            |delta| is at most so many |v|; None for no limit
    ``stop_loss``        a layer's value is left as it is once its loss is below
    ``seed``             of the drawn prefixes
    ===================  =====================================================================================

    Raises:
        OptionError: a value that makes no sense.
    """

    token: Token = "last-subject"
    key: Key = "prompt"
    prefix_tokens: tuple[int, ...] = (2, 4, 6, 8, 10)
    prefixes: tuple[str, ...] | None = None
    steps: int = 20
    learning_rate: float = 0.5
    kl_weight: float = 0.0625
    decay: float = 0.5
    clamp: float | None = 4.0
    stop_loss: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("token", get_args(Token)), ("key", get_args(Key))):
            if getattr(self, name) not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in (("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if any(not isinstance(length, int) or length < 1 for length in self.prefix_tokens):
            raise OptionError(f"prefix_tokens must be lengths of at least 1, got {self.prefix_tokens!r}")
        for name in ("learning_rate", "clamp"):
            value = getattr(self, name)
            if not ((value is None and name == "clamp") or (_number(value) and value > 0)):
                raise OptionError(f"{name} must be a positive number, got {value!r}")
        for name in ("kl_weight", "decay", "stop_loss"):
            value = getattr(self, name)
            if not (_number(value) and value >= 0):
                raise OptionError(f"{name} must be a number of at least 0, got {value!r}")

    @property
    def settings(self) -> dict[str, Any]:
        """What results are keyed by and a finding records."""
        return asdict(self)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
