"""How chosen neurons are trained, beside the model, the neurons and the examples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from caploc.errors import OptionError

LossOn = Literal["answer", "all"]
Train = Literal["both", "in", "out"]


@dataclass(frozen=True)
class Recipe:
    """Adam without weight decay at a constant rate, as far as the paper prints it (section 5.4); the rest is ours.

    ================  ========================================================================================
    ``lr``            the paper prints 1e-5
    ``epochs``        passes over the examples; Table 2 shows 1, 5 and 10
    ``batch_size``    examples a step; the last batch of an epoch may be smaller
    ``seed``          of the order of the examples, drawn anew in every epoch
    ``betas, eps``    of Adam
    ``keep``          the epochs after which the trained difference is kept, ascending
    ``loss_on``       cross entropy, the mean over a batch's tokens: of the ``answer`` and of the end-of-sequence
                      token behind it, or of ``all`` tokens but the first. That end is trained as the answer's last
                      token because scoring by generation needs answers to end; where neither tokenizer nor
                      configuration has such a token there is none
    ``train``         a neuron's rows of the input projections with their biases (``in``), its column of the output
                      projection (``out``), or ``both``
    ``length_limit``  tokens of an example beyond it are cut off, and no end is trained there; None: no limit but
                      the model's context
    ================  ========================================================================================

    Dropout is off.

    Raises:
        OptionError: a value that makes no sense.
    """

    lr: float = 1e-5
    epochs: int = 10
    batch_size: int = 16
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    keep: tuple[int, ...] = (1, 5, 10)
    loss_on: LossOn = "answer"
    train: Train = "both"
    length_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not (_number(getattr(self, name)) and getattr(self, name) > 0):
                raise OptionError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("length_limit", 2)):
            value = getattr(self, name)
            if not (_whole(value, least) or (value is None and name == "length_limit")):
                raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name, choices in (("loss_on", get_args(LossOn)), ("train", get_args(Train))):
            if getattr(self, name) not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if len(self.betas) != 2 or not all(_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise OptionError(f"betas must be two numbers from 0 to below 1, got {self.betas!r}")
        self._check_keep()

    def _check_keep(self) -> None:
        if not self.keep or not all(_whole(epoch, 1) for epoch in self.keep):
            raise OptionError(
                f"keep must name at least one epoch, the first being 1, got {self.keep!r}; (10,) keeps the tenth"
            )
        if list(self.keep) != sorted(set(self.keep)):
            raise OptionError(f"keep must ascend without repeats, got {self.keep!r}")
        if self.keep[-1] > self.epochs:
            raise OptionError(
                f"keep asks for epoch {self.keep[-1]} of {self.epochs}; train longer or keep none beyond the last"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What results are keyed by and a finding records."""
        return asdict(self)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
