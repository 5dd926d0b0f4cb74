"""Integrate eq. (7)'s gradient over alpha for one example, on top of packed passes.

By a fixed rule, the same nodes for every layer and position; or by the adaptive rule, for every layer and position as
few points as reach a stated completeness error; or, along the path of one neuron, with no sum at all.

The adaptive rule: along alpha the integrand is the derivative of P(alpha a), and P itself is known at every node. So a
panel's error need not be estimated: the quartic through its five slopes, integrated between neighbouring nodes, must
give the differences of P there. The sum of the absolute misses over a panel's four gaps bounds its share of the
completeness error; panels are bisected where it is too large, and bisecting keeps all nodes (four new ones per panel,
Boole's rule on each half). Why not a fixed rule: at layer 0 of small models P is almost a step whose place moves from
token to token, and smooth elsewhere and in all other layers, where the first five points are often enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.method import Tolerance
from caploc.attribution.packed import Gradients, PackedModel
from caploc.rows.clean import CleanPass

# The tokens of a row attend to, and mask, each other's keys: wider rows waste attention.
MOST_COLUMNS = 64

# Weights of five slopes, one node apart, for the integral of their quartic between neighbouring nodes: Adams-Moulton's.
_GAPS = np.array([[251, 646, -264, 106, -19], [-19, 346, 456, -74, 11]]) / 720
_GAPS = np.concatenate([_GAPS, _GAPS[::-1, ::-1]])  # [4 gaps, 5 nodes]
_BOOLE = _GAPS.sum(0)
_FIRST = (0.0, 0.25, 0.5, 0.75)
_NEW = np.array([0.5, 1.5, 2.5, 3.5])  # where bisecting a panel puts its new nodes, in node distances


@dataclass
class Integral:
    """The integral for one example; L layers, Y answer positions.

    ``gradients [L, Y, width]``: integral over alpha of dP/d(output of the MLP projection); neurons instead of width
    where a ``PreactivationModel`` made them.
    ``start``, ``end`` ``[L, Y]``: P at alpha = 0 and at alpha = 1. ``points [L, Y]``: gradient evaluations spent.
    """

    gradients: Tensor
    start: Tensor
    end: Tensor
    points: Tensor

    def completeness_error(self, clean: CleanPass, packed: PackedModel) -> Tensor:
        """``[L, Y]`` signed: (sum over neurons of their attributions) - (P(1) - P(0)); zero for an exact integral.

        The sum over neurons of a * gradient equals the directional derivative at the projection's output.
        """
        step = torch.stack(
            [packed.step(layer, clean) for layer in range(len(self.gradients))]
        )  # [L, Y, width]
        attributed = (step.double() * self.gradients.double()).sum(-1)
        return attributed - (self.end - self.start).double()


def integrate_fixed(
    packed: PackedModel,
    clean: CleanPass,
    unscaled: dict[int, Gradients],
    nodes: np.ndarray,
    weights: np.ndarray,
    chunk_tokens: int,
) -> Integral:
    """The same nodes for every layer and position. alpha = 1, where it is a node, costs one row for all layers."""
    layers, columns = len(clean.keys), torch.arange(len(clean.positions), device=clean.positions.device)
    ends = torch.stack([unscaled[layer].gradients[0] for layer in range(layers)])  # [L, Y, width]
    wide = torch.float64 if ends.dtype == torch.float64 else torch.float32
    rule = list(zip(nodes.tolist(), weights.tolist(), strict=True))
    gradients = sum(weight for node, weight in rule if node == 1.0) * ends.to(wide)
    start = gradients.new_zeros(gradients.shape[:2])
    inner = [(node, weight) for node, weight in rule if node != 1.0]
    if all(node != 0.0 for node, _ in inner):
        inner.insert(0, (0.0, 0.0))  # no node of the rule, but P(0) is needed for the completeness error
    for block in columns.split(MOST_COLUMNS):
        done = [0] * layers
        for chunk in layers_in_chunks(
            [(layer, len(inner)) for layer in range(layers)], len(block), chunk_tokens
        ):
            rows = {layer: inner[done[layer] : done[layer] + count] for layer, count in chunk}
            alphas = {layer: _column(part, 0, block).expand(-1, len(block)) for layer, part in rows.items()}
            for layer, result in packed.run(clean, block, alphas).items():
                weight = _column(rows[layer], 1, block).to(wide)[..., None]
                gradients[layer, block] += (weight * result.gradients.to(wide)).sum(0)
                if rows[layer][0][0] == 0.0:
                    start[layer, block] = result.probabilities[0].to(wide)
                done[layer] += len(rows[layer])
    end = torch.stack([unscaled[layer].probabilities[0] for layer in range(layers)])
    points = torch.full((layers, len(columns)), len(nodes), device=columns.device)
    return Integral(gradients, start, end, points)


def _column(rows: list[tuple[float, float]], index: int, like: Tensor) -> Tensor:
    numbers = [row[index] for row in rows]
    return torch.tensor(numbers, dtype=torch.float64, device=like.device)[:, None]


class _Layer:
    """Nodes and panels of one layer. Nodes are rows of flat arrays; panels index five of them."""

    def __init__(self, positions: int, step: Tensor) -> None:
        self.positions, self._step = positions, step  # [Y, width] turns a gradient into a slope along alpha
        self.slopes, self.values = np.empty(0), np.empty(0)  # [nodes] dP/dalpha and P
        self.gradients: list[Tensor] = []  # concatenated: [nodes, width]
        self.panel_position = np.arange(positions)
        self.panel_low, self.panel_step = np.zeros(positions), np.full(positions, 0.25)
        self.panel_nodes = np.empty((positions, 5), dtype=np.int64)
        self.points = np.full(positions, 5)
        self.start, self.end = np.empty(positions), np.empty(positions)

    def begin(self, nodes: np.ndarray) -> None:
        """The first panels, given the indices of their nodes ``[5, positions]``."""
        self.panel_nodes = nodes.T.copy()
        self.start, self.end = self.values[nodes[0]], self.values[nodes[4]]

    def add_nodes(self, result: Gradients, columns: Tensor) -> np.ndarray:
        """Store ``[R, C]`` evaluations at the positions ``columns``; their indices ``[R, C]``."""
        slopes = (result.gradients.double() * self._step[columns].double()).sum(-1).cpu().numpy()
        start = len(self.slopes)
        self.slopes = np.concatenate([self.slopes, slopes.ravel()])
        self.values = np.concatenate([self.values, result.probabilities.double().cpu().numpy().ravel()])
        self.gradients.append(result.gradients.flatten(0, 1))
        return start + np.arange(slopes.size).reshape(slopes.shape)

    def errors(self) -> np.ndarray:
        """``[panels]`` the sum over a panel's gaps of |integrated slopes - difference of P|."""
        integrated = self.panel_step[:, None] * (self.slopes[self.panel_nodes] @ _GAPS.T)
        return np.abs(integrated - np.diff(self.values[self.panel_nodes], axis=1)).sum(1)

    def to_bisect(self, tolerance: Tolerance) -> np.ndarray:
        """Indices of the panels whose error exceeds an equal share of their position's tolerance."""
        errors, where = self.errors(), self.panel_position
        allowed = tolerance.relative * np.abs(self.end - self.start) + tolerance.absolute  # [positions]
        total = np.bincount(where, errors, self.positions)
        panels = np.bincount(where, minlength=self.positions)
        chosen = np.flatnonzero((total > allowed)[where] & (errors > (allowed / panels)[where]))
        # of each position the panels with the largest errors, as many as it may still spend points on
        chosen = chosen[np.lexsort((-errors[chosen], where[chosen]))]
        rank = np.arange(len(chosen)) - np.searchsorted(where[chosen], where[chosen])
        room = (tolerance.most_points - self.points) // 4
        return np.sort(chosen[rank < room[where[chosen]]])

    def bisect(self, chosen: np.ndarray, new: np.ndarray) -> None:
        """Replace the ``chosen`` panels by their halves, given the indices ``new [4, chosen]`` of their new nodes."""
        old = self.panel_nodes[chosen]
        left = np.stack([old[:, 0], new[0], old[:, 1], new[1], old[:, 2]], axis=1)
        right = np.stack([old[:, 2], new[2], old[:, 3], new[3], old[:, 4]], axis=1)
        half = self.panel_step[chosen] / 2
        self.panel_nodes[chosen], self.panel_step[chosen] = left, half
        self.panel_nodes = np.concatenate([self.panel_nodes, right])
        self.panel_low = np.concatenate([self.panel_low, self.panel_low[chosen] + 4 * half])
        self.panel_step = np.concatenate([self.panel_step, half])
        self.panel_position = np.concatenate([self.panel_position, self.panel_position[chosen]])
        self.points += 4 * np.bincount(self.panel_position[chosen], minlength=self.positions)

    def integral(self, wide: torch.dtype) -> Tensor:
        """``[positions, width]`` the composite Boole rule over all panels."""
        gradients = torch.cat(self.gradients)
        weights = np.zeros((len(self.slopes),))
        np.add.at(weights, self.panel_nodes, self.panel_step[:, None] * _BOOLE)
        owner = np.zeros(len(weights), dtype=np.int64)
        owner[self.panel_nodes] = self.panel_position[:, None]
        weighted = gradients.to(wide) * torch.as_tensor(weights, dtype=wide, device=gradients.device)[:, None]
        total = torch.zeros(self.positions, gradients.shape[1], dtype=wide, device=gradients.device)
        return total.index_add_(0, torch.as_tensor(owner, device=gradients.device), weighted)


def integrate_adaptive(
    packed: PackedModel,
    clean: CleanPass,
    unscaled: dict[int, Gradients],
    tolerance: Tolerance,
    chunk_tokens: int,
) -> Integral:
    """Refine each (layer, position) until its completeness error is within ``tolerance``."""
    count = len(clean.positions)
    layers = {index: _Layer(count, packed.step(index, clean)) for index in unscaled}
    _first_panels(packed, clean, unscaled, layers, chunk_tokens)
    for index, layer in layers.items():
        while len(chosen := layer.to_bisect(tolerance)):
            _bisect(packed, clean, index, layer, chosen, chunk_tokens)
    wide = torch.float64 if clean.mlp_outputs[0].dtype == torch.float64 else torch.float32

    def stacked(name: str, dtype: torch.dtype) -> Tensor:
        rows = np.stack([getattr(layer, name) for layer in layers.values()])
        return torch.as_tensor(rows, dtype=dtype, device=clean.positions.device)

    gradients = torch.stack([layer.integral(wide) for layer in layers.values()])
    return Integral(gradients, stacked("start", wide), stacked("end", wide), stacked("points", torch.int64))


def _first_panels(
    packed: PackedModel,
    clean: CleanPass,
    unscaled: dict[int, Gradients],
    layers: dict[int, _Layer],
    chunk_tokens: int,
) -> None:
    """One panel over [0, 1] everywhere: four points, several layers to a pass, and alpha = 1, which is known."""
    columns = torch.arange(len(clean.positions), device=clean.positions.device)
    nodes: dict[int, list[np.ndarray]] = {index: [] for index in layers}
    for block in columns.split(min(MOST_COLUMNS, max(1, chunk_tokens // len(_FIRST)))):
        together = max(1, chunk_tokens // (len(_FIRST) * len(block)))
        alphas = torch.tensor(_FIRST, dtype=torch.float64, device=block.device)[:, None].expand(
            -1, len(block)
        )
        indices = list(layers)
        for begin in range(0, len(indices), together):
            results = packed.run(clean, block, dict.fromkeys(indices[begin : begin + together], alphas))
            for index, result in results.items():
                nodes[index].append(layers[index].add_nodes(result, block))
    for index, layer in layers.items():
        last = layer.add_nodes(unscaled[index], columns)
        layer.begin(np.concatenate([np.concatenate(nodes[index], axis=1), last]))


def _bisect(
    packed: PackedModel, clean: CleanPass, index: int, layer: _Layer, chosen: np.ndarray, chunk_tokens: int
) -> None:
    """Evaluate the four new nodes of each ``chosen`` panel: a column is a panel, whatever its position."""
    device = clean.positions.device
    alphas = torch.as_tensor(
        layer.panel_low[chosen] + _NEW[:, None] * layer.panel_step[chosen], device=device
    )
    columns = torch.as_tensor(layer.panel_position[chosen], device=device)
    most = max(1, min(MOST_COLUMNS, chunk_tokens // len(_NEW)))
    parts = []
    for block, scales in zip(columns.split(most), alphas.split(most, dim=1), strict=True):
        parts.append(layer.add_nodes(packed.run(clean, block, {index: scales})[index], block))
    layer.bisect(chosen, np.concatenate(parts, axis=1))


def one_neuron_scores(
    packed: PackedModel, clean: CleanPass, unscaled: dict[int, Gradients], chunk_tokens: int
) -> Tensor:
    """``[L, Y, neurons]`` P(clean) - P(neuron at zero), in float32 at least: eq. (7) along the path of ONE neuron,
    while every other neuron of its layer keeps its clean value.

    The integral from zero to the neuron's value of dP/da_j is this difference, whatever lies between, so no sum
    approximates it: each neuron costs one forward row, and no gradient. The same holds for a value before the
    nonlinearity. Equals the oracle's gradients, integrated (``caploc/tests/attribution/test_one_neuron.py``).

    Args:
        unscaled: the packed clean run, whose probabilities are the ones compared with.
        chunk_tokens: tokens in a packed pass.
    """
    falls = [packed.fall(layer, clean) for layer in range(len(clean.activations))]
    neurons = falls[0].shape[1]
    columns = torch.arange(len(clean.positions), device=clean.positions.device)
    scores = unscaled[0].probabilities.new_empty(len(falls), len(columns), neurons)
    for block in columns.split(MOST_COLUMNS):
        done = [0] * len(falls)
        for chunk in layers_in_chunks([(layer, neurons) for layer in unscaled], len(block), chunk_tokens):
            rows = {layer: slice(done[layer], done[layer] + count) for layer, count in chunk}
            entering = {}
            for layer, part in rows.items():
                change = falls[layer][block, part].T[..., None] * packed.output_weights(layer, part)[:, None]
                entering[layer] = clean.mlp_outputs[layer][block] + change  # [R, C, width]
                done[layer] = part.stop
            for layer, found in packed.probabilities(clean, block, entering).items():
                scores[layer, block, rows[layer]] = (unscaled[layer].probabilities[0, block] - found).T
    return scores


def layers_in_chunks(
    rows: Sequence[tuple[int, int]], columns: int, chunk_tokens: int
) -> list[list[tuple[int, int]]]:
    """Cut (layer, row count) pairs into passes of at most ``chunk_tokens`` tokens, at least one row each."""
    most = max(1, chunk_tokens // max(1, columns))
    chunks: list[list[tuple[int, int]]] = []
    room = 0
    for layer, count in rows:
        left = count
        while left:
            if not room:
                chunks.append([])
                room = most
            taken = min(left, room)
            chunks[-1].append((layer, taken))
            left, room = left - taken, room - taken
    return chunks
