"""KC, knowledge circuits: the edges of the model's graph that an answer needs (paper, Section 2.3, Appendix D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from caploc.circuits.attribution import attribute_edges
from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel
from caploc.circuits.pruning import prune, prune_to
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.model.loading import LanguageModel

Search = Literal["exact", "eap-ig"]


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    method: Search = "exact",
    threshold: float = 0.01,
    share: float | None = None,
    steps: int = 5,
    means: Tensor | None = None,
) -> Circuit:
    """The circuit of one example, or one circuit for several, whose log probabilities are averaged.

    Args:
        method: ``exact`` prunes edge by edge (``caploc.circuits.prune``), ``eap-ig`` by gradients, for large models
            (``caploc.circuits.attribute_edges``).
        threshold: in nats per answer token; an edge that costs less is pruned.
        share: instead of a threshold, the fraction of all edges to keep. With ``exact`` it is met roughly, by search
            for a threshold; with ``eap-ig`` before edges on no path are dropped.
        steps: of ``eap-ig``.
        means: what pruned edges carry instead of zero, from ``caploc.circuits.mean_outputs``.

    The answer's log probability is the mean over its tokens, teacher forced. Whether the model knows the fact plays no
    part: ``caploc.circuits.circuit.run_alone`` gives the answer's rank, of the whole model too.

    Raises:
        ModelError: a family that cannot be taken apart, or a model not in float32 or float64.
        OptionError: an option that makes no sense.
        ExampleError: no example, or one that cannot be tokenized.
    """
    if method not in get_args(Search):
        raise OptionError(f"unknown method {method!r}; choose one of {', '.join(get_args(Search))}")
    if share is not None and not 0 < share <= 1:
        raise OptionError(f"share must be a fraction of the edges in (0, 1], got {share}")
    if not examples:
        raise ExampleError("there is no example to locate a circuit for; give at least one")
    tokenized = [tokenize(lm, example) for example in examples]
    model = DecomposedModel(lm, means)
    prompts = [model.prompt(example) for example in tokenized]
    count = None if share is None else max(1, round(share * model.graph.edges))
    if method == "eap-ig":
        scores = attribute_edges(model, prompts, steps)
        return scores.above(threshold) if count is None else scores.top(count)
    if count is None:
        return prune(model, prompts, threshold).circuit
    return prune_to(model, prompts, count).circuit
