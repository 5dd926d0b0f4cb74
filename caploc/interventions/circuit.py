"""Running circuits alone: does what was located recall the fact by itself (paper, Sections 2.3 and 3.2)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.model.loading import LanguageModel

# Tokens x circuits in one pass: enough to keep the matrix products busy, little memory.
_CHUNK_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Recall:
    """What circuits that run alone make of answers, teacher forced.

    Attributes:
        probabilities: ``[examples, circuits]`` of the whole answer, the product over its tokens.
        log_probs: ``[examples, circuits]`` in nats, mean over the answer's tokens.
        ranks: ``[examples, circuits]`` the worst rank of an answer token, from 1; ties count against it.
        whole_probabilities, whole_log_probs, whole_ranks: ``[examples]`` the same of the model itself.
    """

    probabilities: Float[np.ndarray, "examples circuits"]
    log_probs: Float[np.ndarray, "examples circuits"]
    ranks: Int[np.ndarray, "examples circuits"]
    whole_probabilities: Float[np.ndarray, " examples"]
    whole_log_probs: Float[np.ndarray, " examples"]
    whole_ranks: Int[np.ndarray, " examples"]


def run_alone(
    lm: LanguageModel,
    examples: Sequence[Example],
    circuits: Circuit | Sequence[Circuit],
    means: Tensor | None = None,
) -> Recall:
    """Run every circuit alone on every example; edges outside of it carry zero, or ``means`` if given.

    An empty circuit leaves the constant sender: the output norm and head read nothing but biases. The model itself is
    not changed.

    Raises:
        ModelError: a family that cannot be taken apart, or a model not in float32 or float64.
        OptionError: a circuit of another model's graph, or ``means`` of another shape.
        ExampleError: no example, or one that cannot be tokenized.
    """
    listed = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    if not examples:
        raise ExampleError("there is no example to run a circuit on; give at least one")
    model = DecomposedModel(lm, means)
    if any(circuit.graph != model.graph for circuit in listed):
        raise OptionError(f"a circuit is not one of model {lm.name!r}; take the model that it was located in")
    whole = Circuit.whole(model.graph)
    kept = torch.from_numpy(np.stack([circuit.matrix for circuit in [*listed, whole]]))
    tokenized = [tokenize(lm, example) for example in examples]
    rows = [_row(model, model.prompt(example), kept) for example in tokenized]
    probabilities, log_probs, ranks = (np.stack(part) for part in zip(*rows, strict=True))
    return Recall(
        probabilities[:, :-1],
        log_probs[:, :-1],
        ranks[:, :-1],
        probabilities[:, -1],
        log_probs[:, -1],
        ranks[:, -1],
    )


def _row(model: DecomposedModel, prompt: Prompt, kept: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One example's probabilities, log probabilities and ranks, by circuit."""
    chunks = kept.split(max(1, _CHUNK_TOKENS // prompt.tokens))
    logits = torch.cat([model.run(prompt, chunk) for chunk in chunks])
    log_probs = model.log_probs(prompt, logits).double()
    probabilities = (log_probs * prompt.rows).exp()
    parts = (probabilities, log_probs, model.ranks(prompt, logits))
    first, second, third = (part.numpy(force=True) for part in parts)
    return first, second, third
