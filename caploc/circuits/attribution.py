"""Edge attribution: what pruning every edge would cost, estimated by gradients (EAP-IG; Syed et al. 2023, Hanna et al.
2024), and exactly, edge by edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Flow, Prompt
from caploc.circuits.graph import Graph
from caploc.circuits.pruning import Downstream
from caploc.errors import ExampleError, OptionError
from caploc.rows.sizing import Budget, refused_if_too_large


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """``values [edges]``, in the order of ``graph``: what pruning each edge alone costs in log probability, in nats.

    The mean over prompts; ``settings`` names how it was found.
    """

    graph: Graph
    values: Float[np.ndarray, " edges"]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def top(self, count: int) -> Circuit:
        """The ``count`` edges of largest |score|, without those that end up on no path (``Circuit.connected``).

        Raises:
            OptionError: ``count`` is negative.
        """
        if count < 0:
            raise OptionError(f"the number of edges must be at least 0, got {count}")
        chosen = np.zeros(len(self.values), dtype=bool)
        chosen[np.argsort(-np.abs(self.values), kind="stable")[:count]] = True
        return Circuit(self.graph, torch.from_numpy(chosen)).connected()

    def above(self, threshold: float) -> Circuit:
        """The edges with |score| at or above ``threshold``, without those that end up on no path.

        Raises:
            OptionError: ``threshold`` is no number.
        """
        if math.isnan(threshold):
            raise OptionError("threshold must be a number, got nan")
        return Circuit(self.graph, torch.from_numpy(np.abs(self.values) >= threshold)).connected()


def attribute_edges(
    model: DecomposedModel,
    prompts: Sequence[Prompt],
    steps: int = 5,
    corrupted: Sequence[Prompt] | None = None,
) -> EdgeScores:
    """EAP-IG: (what the sender writes) x (gradient of the answer's log probability at the receiver's input).

    The gradient is the mean over inputs whose embeddings lie at k/steps, k = 1..steps, of the way from zero to the
    prompt's; one step is plain EAP. With ``corrupted`` prompts, one for each, the way starts at their embeddings and
    the sender's change from them counts instead of its output: the cost of patching the edge, not of zeroing it. All
    edges cost ``steps`` forward and backward passes, in one batch or, where CUDA runs out of memory, in several. To
    first order the values of plain EAP are those of ``edge_effects``; ``python -m caploc.benchmarks circuits`` measures
    how far they agree.

    Raises:
        OptionError: ``steps`` is below 1.
        ExampleError: no prompt; or corrupted prompts that differ from the prompts in number or length.
        ModelError: not even one step of a prompt fits into the GPU's memory.
    """
    if steps < 1:
        raise OptionError(f"steps must be at least 1, got {steps}")
    _check_prompts(prompts, corrupted)
    total, budget = np.zeros(model.graph.possible.shape), Budget(model.lm, steps)
    for number, prompt in enumerate(prompts):
        total += _one(model, prompt, steps, corrupted[number] if corrupted else None, budget)
    settings = {"method": "eap-ig", "steps": steps, "from": "corrupted" if corrupted else "zero"}
    return EdgeScores(model.graph, (total / len(prompts))[model.graph.possible], settings)


@refused_if_too_large(
    "all edges of a receiver, each pruned alone,", "use a GPU with more memory or shorter prompts"
)
def edge_effects(model: DecomposedModel, prompts: Sequence[Prompt]) -> EdgeScores:
    """The exact cost of pruning each edge alone from the whole model: one state an edge, a receiver's in one batch.

    Raises:
        ExampleError: no prompt.
    """
    _check_prompts(prompts, None)
    graph = model.graph
    used = np.ones(graph.receivers, dtype=bool)
    total = np.zeros(graph.possible.shape)
    for prompt in prompts:
        for receiver, seen in enumerate(graph.seen):
            run = Downstream(model, prompt, graph.possible, used, receiver)
            total[receiver, :seen] += prompt.log_prob - run.log_probs(run.given(~np.eye(seen, dtype=bool)))
    return EdgeScores(graph, (total / len(prompts))[graph.possible], {"method": "exact"})


def _check_prompts(prompts: Sequence[Prompt], corrupted: Sequence[Prompt] | None) -> None:
    if not prompts:
        raise ExampleError("there is no prompt to attribute for; give at least one example")
    if corrupted is None:
        return
    if len(corrupted) != len(prompts):
        raise ExampleError(f"{len(prompts)} prompts have {len(corrupted)} corrupted ones; give one for each")
    for prompt, other in zip(prompts, corrupted, strict=True):
        if (prompt.tokens, prompt.rows) != (other.tokens, other.rows):
            raise ExampleError(
                f"example {prompt.id!r} has {prompt.tokens} tokens and its corrupted one {other.tokens}, of which "
                f"{prompt.rows} and {other.rows} are read; corrupt it token by token"
            )


def _one(
    model: DecomposedModel, prompt: Prompt, steps: int, corrupted: Prompt | None, budget: Budget
) -> Float[np.ndarray, "receivers senders"]:
    """``budget`` counts steps."""
    start = torch.zeros_like(prompt.embedded) if corrupted is None else corrupted.embedded
    written = prompt.deviations if corrupted is None else prompt.deviations - corrupted.deviations
    refusal = (
        f"the gradients of example {prompt.id!r} at one step do not fit into the GPU's memory; use a GPU with more "
        "memory or shorter prompts"
    )
    way = torch.arange(1, steps + 1).to(start)[:, None, None] / steps

    def products(part: Tensor) -> np.ndarray:
        return _products(model, prompt, start + part * (prompt.embedded - start), written, steps)

    return np.sum(budget.in_parts(way, products, refusal), axis=0)


def _products(
    model: DecomposedModel, prompt: Prompt, embedded: Tensor, written: Tensor, steps: int
) -> Float[np.ndarray, "receivers senders"]:
    """What some of the ``steps``, at which the prompt is ``embedded [some, tokens, width]``, add to the scores."""
    with torch.enable_grad():
        flow = model.flow(prompt, embedded.detach().requires_grad_())
        gradients = _gradients(model.log_probs(prompt, flow.logits).sum() / steps, flow)
    scores = np.zeros(model.graph.possible.shape)
    for receivers, gradient in zip(_receivers(model.graph), gradients, strict=True):
        senders = model.graph.seen[receivers.start]
        parts = written[:senders, -gradient.shape[2] :]
        products = (
            gradient.sum(1).flatten(1) @ parts.flatten(1).T
        )  # no edge is materialised by token or coordinate
        scores[receivers, :senders] = products.double().numpy(force=True)
    return scores


def _gradients(log_prob: Tensor, flow: Flow) -> Sequence[Tensor]:
    return torch.autograd.grad(log_prob, [*flow.attention_inputs, *flow.mlp_inputs, flow.output_input])


def _receivers(graph: Graph) -> list[slice]:
    """Whose gradients ``_gradients`` gives."""
    layers = range(graph.layers)
    mlps = [slice(graph.mlp_input_of(layer), graph.mlp_input_of(layer) + 1) for layer in layers]
    return [*map(graph.attention_of, layers), *mlps, slice(graph.output, graph.output + 1)]
