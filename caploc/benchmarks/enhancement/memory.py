"""Gradients and optimizer state grow with the neurons that are trained, not with the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from caploc.benchmarks import Options
from caploc.benchmarks.enhancement import Case, Sizes, held_bytes
from caploc.benchmarks.tables import Table
from caploc.interventions.enhancement.batches import Batches
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.enhancement.training import Trainer


def measure_memory(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table, a row for each share of all neurons."""
    lm, recipe = sizes.model(), Recipe()
    batches = Batches(lm, sizes.examples()[:1], recipe)
    table = Table(
        "memory",
        f"Gradients and optimizer state by neurons trained, Llama of {sizes.layers} layers, width {sizes.width}",
        {"neurons": "neurons trained", "share": "of all %", "memory": "MB", "each": "bytes a neuron"},
        notes=[
            "bytes of the tensors after one step; a neuron has a gate row, an up row and a column, "
            f"{lm.parameters_per_neuron:,} weights, each with a gradient and Adam's two moments of 4 bytes"
        ],
    )
    for share in sizes.shares:
        mask = Case("", share).mask(lm.num_layers, lm.num_neurons)
        with Trainer(lm, mask, recipe) as trainer:
            trainer.gradients(batches, np.array([0]))
            trainer.update()
        held = held_bytes(trainer.rows.parameters, trainer.optimizer)
        table.rows.append(
            {
                "neurons": mask.count,
                "share": 100 * mask.ratio,
                "memory": held / 1e6,
                "each": held / mask.count,
            }
        )
    yield table
