"""The value that a layer's MLP must put out for the fact to change: ``delta`` beyond what it puts out now, sought by
gradient descent for many layers together (Meng et al. 2022, section 3.1, eq. 4).

A change of layer l's MLP at token t reaches no token before t and no layer below l. So an edit of one layer over P
prompts is P rows of the columns t, t+1, ...; they attend to the unedited run's keys and values in front of t, and join
the batch of those that entered further down with the unedited run's input of layer l. The layer runs them all; behind
its MLP, its own rows get their delta. One forward and one backward give the gradients of all layers' deltas.

Equality with runs of the whole sequence: ``caploc/tests/interventions/test_rank_one_layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from caploc.interventions.rank_one.prompts import Editing, EditPrompts
from caploc.model.loading import LanguageModel
from caploc.rows.caches import KeysValues, RowCache, masks, shared
from caploc.rows.clean import CleanPass, check_reproduced, run_clean, target_log_probs
from caploc.rows.model import RowModel, Rows
from caploc.rows.sizing import Budget, refused_if_too_large


@dataclass(eq=False)
class Recorded:
    """P prompts, each from its edited token on: C columns, those beyond a shorter prompt's end filled with zeros.

    Attributes:
        positions: ``[P, C]`` of the columns in their sequences.
        inputs: per layer ``[P, C, width]``, its input.
        front: per layer keys and values ``[P, key heads, F, head size]`` of attention in front of the edited token,
            zeros beyond a shorter front's end.
        visible: per layer ``[P, C, F + C]`` bool, what each column attends to; one tensor for layers that see the same.
        mlp_inputs: per layer ``[P, neurons]``, what enters the MLP's output projection at the edited token.
        mlp_outputs: per layer ``[P, width]``, what leaves it there.
        read_prompts, read_columns: ``[R]`` where predictions are read, prompt by prompt.
        log_probs: ``[R]`` of the token that really follows there, for a check; meaningless for the last one.
        tuples: whether a decoder layer of this family returns a tuple that begins with its states.
    """

    positions: Int[Tensor, "prompts columns"]
    inputs: list[Tensor]
    front: KeysValues
    visible: list[Tensor]
    mlp_inputs: list[Float[Tensor, "prompts neurons"]]
    mlp_outputs: list[Float[Tensor, "prompts width"]]
    read_prompts: Int[Tensor, " reads"]
    read_columns: Int[Tensor, " reads"]
    log_probs: Float[Tensor, " reads"]
    tuples: bool
    _repeated: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        return len(self.positions)

    @cached_property
    def _masks(self) -> list[Tensor]:
        return masks(self.visible, lambda visible: visible, self.inputs[0].dtype)

    def mask(self, layer: int, rows: int) -> Tensor:
        """Additive ``[rows, 1, C, F + C]``; the prompts of one layer's rows follow those of another's."""
        key = (id(self.visible[layer]), rows)
        if key not in self._repeated:
            self._repeated[key] = self._masks[layer].repeat(rows // self.prompts, 1, 1, 1)
        return self._repeated[key]


@refused_if_too_large("the prompts of an edit", "use a GPU with more memory or fewer prefixes")
@torch.no_grad()
def record(lm: LanguageModel, prompts: EditPrompts) -> Recorded:
    """Run every prompt once. Call it inside ``frozen_eval``."""
    runs = []
    for prompt in prompts.all:
        answered = prompt is not prompts.essence
        # the clean pass reads, and does not feed, one token more: the answer's last, or any
        following = prompts.targets[-1:] if answered else prompt.fed[-1:]
        runs.append(
            run_clean(lm.model, lm.architecture, torch.cat([prompt.fed, following]), prompt.edited + 1)
        )
    columns = max(len(run.positions) for run in runs)
    front = max(prompt.edited for prompt in prompts.all)
    layers = range(lm.num_layers)
    reads = [(index, token) for index, prompt in enumerate(prompts.all) for token in prompt.read]
    rows = [index for index, _ in reads]
    at = [token - prompts.all[index].edited for index, token in reads]
    return Recorded(
        positions=torch.stack([_positions(run, columns) for run in runs]),
        inputs=[_stack([run.layer_inputs[layer][0] for run in runs], 0, columns) for layer in layers],
        front=[
            (
                _fronts([run.keys[layer] for run in runs], prompts, front),
                _fronts([run.values[layer] for run in runs], prompts, front),
            )
            for layer in layers
        ],
        visible=_visible(runs, columns, front),
        mlp_inputs=[torch.stack([run.activations[layer][0] for run in runs]) for layer in layers],
        mlp_outputs=[torch.stack([run.mlp_outputs[layer][0] for run in runs]) for layer in layers],
        read_prompts=torch.tensor(rows, device=lm.device),
        read_columns=torch.tensor(at, device=lm.device),
        log_probs=torch.stack([runs[row].log_probs[column] for row, column in zip(rows, at, strict=True)]),
        tuples=runs[0].tuples,
    )


def _positions(run: CleanPass, columns: int) -> Tensor:
    """Padded columns repeat the last position, so that none lies outside of the context."""
    offsets = torch.arange(columns, device=run.positions.device)
    return run.positions[offsets.clamp(max=len(run.positions) - 1)]


def _stack(tensors: list[Tensor], axis: int, size: int) -> Tensor:
    """Padded with zeros behind the end of ``axis``, and stacked."""
    behind = [0, 0] * (tensors[0].dim() - 1 - axis)
    return torch.stack([pad(tensor, (*behind, 0, size - tensor.shape[axis])) for tensor in tensors])


def _fronts(kept: list[Tensor], prompts: EditPrompts, front: int) -> Tensor:
    """``[P, key heads, F, head size]``"""
    own = [tensor[0, :, : prompt.edited] for tensor, prompt in zip(kept, prompts.all, strict=True)]
    return _stack(own, 1, front)


def _visible(runs: list[CleanPass], columns: int, front: int) -> list[Tensor]:
    """Per layer ``[P, C, F + C]``; layers that see the same share one tensor, so that masks are made once."""
    found = []
    for layer in range(len(runs[0].visible)):
        visible = torch.zeros(
            len(runs), columns, front + columns, dtype=torch.bool, device=runs[0].positions.device
        )
        visible[:, :, front:] = torch.eye(columns, dtype=torch.bool, device=visible.device)
        for row, run in zip(visible, runs, strict=True):
            own, edited = len(run.positions), int(run.positions[0])
            row[:own, :edited] = run.visible[layer][:, :edited]
            row[:own, front : front + own] |= run.visible[layer][:, edited:]
        found.append(visible)
    return shared(found)


class EditedRows(Rows):
    """The recorded prompts as rows for each layer of ``deltas``, in ascending order."""

    def __init__(self, recorded: Recorded, deltas: Mapping[int, Float[Tensor, " width"]]) -> None:
        positions = recorded.positions.repeat(len(deltas), 1)
        super().__init__(RowCache(recorded.front), positions, tuples=recorded.tuples)
        self._recorded, self._deltas = recorded, deltas

    def mask(self, layer: int, rows: int) -> Tensor:
        return self._recorded.mask(layer, rows)

    def in_front(self, layer: int, states: Tensor) -> Tensor | None:
        return self._recorded.inputs[layer] if layer in self._deltas else None

    def mlp_output(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        if layer not in self._deltas:
            return output
        prompts, columns = self._recorded.positions.shape
        changed = output.reshape(-1, columns, output.shape[-1]).clone()  # OPT's MLP flattens rows and columns
        changed[-prompts:, 0] += self._deltas[layer]
        return changed.view(output.shape)

    def read(self, states: Tensor) -> Tensor:
        """Only what is read passes the head, ``[1, layers x reads, width]``."""
        recorded = self._recorded
        by_layer = states.unflatten(0, (-1, recorded.prompts))  # [layers, P, C, width]
        return by_layer[:, recorded.read_prompts, recorded.read_columns].flatten(0, 1)[None]


class EditedLayers(RowModel):
    """A model whose layers let edited rows join; use inside ``with``, which restores it.

    ::

        with EditedLayers(lm.model, lm.architecture) as model:
            logits = model.run(recorded, {layer: delta})      # [layers, reads, vocabulary]
    """

    def run(
        self, recorded: Recorded, deltas: Mapping[int, Float[Tensor, " width"]]
    ) -> Float[Tensor, "layers reads vocabulary"]:
        """The logits that are read where each layer alone has its delta added, layers in ascending order."""
        ordered = {layer: deltas[layer] for layer in sorted(deltas)}
        return self.logits(EditedRows(recorded, ordered)).unflatten(1, (len(deltas), -1))[0]


@dataclass(frozen=True, eq=False)
class Value:
    """What was found for one layer.

    Attributes:
        delta: ``[width]`` to be added to the MLP's output.
        losses: before each update, and at the delta found.
    """

    delta: Float[Tensor, " width"]
    losses: tuple[float, ...]


def find_values(
    lm: LanguageModel,
    prompts: EditPrompts,
    recorded: Recorded,
    layers: Sequence[int],
    editing: Editing,
    name: str,
) -> dict[int, Value]:
    """The value of each of ``layers``, as if it were sought alone. Call it inside ``frozen_eval``.

    The loss of a layer (its own delta added at the edited token of every prompt) is
    -mean log p(answer | prefix + prompt), over prefixes and the answer's tokens, teacher forced,
    + kl_weight KL(edited || unedited) at one token of "SUBJECT is a", + decay |delta| / |v|^2.

    Equals a search in each layer by itself, over whole sequences (``reference.reference_delta``;
    caploc/tests/interventions/test_rank_one_layers.py).

    Raises:
        ModelError: rows without a delta do not reproduce the model at the fact ``name``, its probabilities are not
            numbers, or one layer's rows alone do not fit into the GPU's memory.
    """
    refusal = (
        f"edit {name!r} does not fit into the GPU's memory; use a GPU with more memory or fewer prefixes"
    )
    of_layer = recorded.positions.numel()

    def search(part: Sequence[int]) -> dict[int, Value]:
        with EditedLayers(lm.model, lm.architecture) as model:
            return _Search(model, prompts, recorded, editing, name).run(part)

    budget, found = Budget(lm, len(layers) * of_layer), dict[int, Value]()
    for values in budget.in_parts(sorted(layers), search, refusal, cost=of_layer):
        found |= values
    return found


@dataclass(frozen=True)
class _Search:
    model: EditedLayers
    prompts: EditPrompts
    recorded: Recorded
    editing: Editing
    name: str

    @torch.enable_grad()
    def run(self, layers: Sequence[int]) -> dict[int, Value]:
        editing = self.editing
        unedited = torch.stack([self.recorded.mlp_outputs[layer][0] for layer in layers])  # [L, width]
        norms = torch.linalg.vector_norm(unedited, dim=1)
        deltas = torch.zeros_like(unedited, requires_grad=True)
        optimizer = torch.optim.Adam([deltas], lr=editing.learning_rate)
        found: dict[int, Tensor] = {}
        losses: dict[int, list[float]] = {layer: [] for layer in layers}
        essence = None
        for step in range(editing.steps):
            left = [row for row, layer in enumerate(layers) if layer not in found]
            if not left:
                break
            logits = self.model.run(self.recorded, {layers[row]: deltas[row] for row in left})
            loss = self._loss(logits, essence, deltas[left], norms[left])
            (deltas.grad,) = torch.autograd.grad(loss.sum(), deltas)
            for row, value in zip(left, loss.tolist(), strict=True):
                losses[layers[row]].append(value)
                # a delta that reaches no answer stays zero: later the rounding of the divergence would move it
                if value < editing.stop_loss or (essence is None and not deltas.grad[row].any()):
                    found[layers[row]] = deltas[row].detach().clone()
            if essence is None:
                self._check(logits)
                essence = logits[:1, -1].detach().log_softmax(-1)
            if step == editing.steps - 1:
                break  # as ROME's code: the last loss is computed and leads to no update
            optimizer.step()
            if editing.clamp is not None:
                self._clamp(deltas, editing.clamp * norms)
        return {
            layer: Value(found.get(layer, deltas[row].detach()), tuple(losses[layer]))
            for row, layer in enumerate(layers)
        }

    def _loss(self, logits: Tensor, essence: Tensor | None, deltas: Tensor, norms: Tensor) -> Tensor:
        """``[L]`` from logits ``[L, reads, vocabulary]``. Before the first update, where ``essence`` is None, nothing
        diverges and the divergence has no slope."""
        prompts = len(self.prompts.rewriting)
        log_probs = target_log_probs(logits[:, :-1], self.prompts.targets.repeat(prompts))
        decay = torch.linalg.vector_norm(deltas, dim=1) / norms.square()
        loss = -log_probs.mean(1) + self.editing.decay * decay
        if essence is None:
            return loss
        edited = logits[:, -1].log_softmax(-1)
        divergence = (edited.exp() * (edited - essence)).sum(-1)
        return loss + self.editing.kl_weight * divergence

    @staticmethod
    @torch.no_grad()
    def _clamp(deltas: Tensor, most: Tensor) -> None:
        norms = torch.linalg.vector_norm(deltas, dim=1)
        deltas.mul_((most / norms).clamp(max=1).nan_to_num(1)[:, None])

    def _check(self, logits: Tensor) -> None:
        """Rows whose delta is zero must be the unedited run: a family that goes silently wrong is seen here."""
        targets = self.prompts.targets.repeat(len(self.prompts.rewriting))
        expected = self.recorded.log_probs[:-1]
        found = target_log_probs(logits[:, :-1].detach(), targets)
        check_reproduced(found, expected.expand_as(found), logits.dtype, self.name, "the unedited run")
