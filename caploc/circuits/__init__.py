"""Knowledge circuits (paper, Section 2.3 and Appendix D): the edges of a model's graph that a fact needs.

``DecomposedModel(lm)`` runs a model edge by edge; ``faithful`` prunes it to what an answer needs, in models of
every size; ``prune`` edge by edge (ACDC), its oracle; ``attribute_edges`` scores edges by gradients (EAP-IG).
``caploc.LOCATORS["kc"]`` does any of them for examples; ``run_alone`` runs a circuit alone.
"""

from __future__ import annotations

from caploc.circuits.attribution import EdgeScores, attribute_edges, edge_effects
from caploc.circuits.circuit import Circuit, Recall, run_alone
from caploc.circuits.decomposed import DecomposedModel, Prompt, mean_outputs
from caploc.circuits.faithful import FAITHFULNESS, Faithful, faithful
from caploc.circuits.graph import Graph
from caploc.circuits.pruning import Pruning, edge_score, edge_score_as_printed, prune, prune_to
from caploc.circuits.weights import GPT_NEO

__all__ = [
    "FAITHFULNESS",
    "GPT_NEO",
    "Circuit",
    "DecomposedModel",
    "EdgeScores",
    "Faithful",
    "Graph",
    "Prompt",
    "Pruning",
    "Recall",
    "attribute_edges",
    "edge_effects",
    "edge_score",
    "edge_score_as_printed",
    "faithful",
    "mean_outputs",
    "prune",
    "prune_to",
    "run_alone",
]
