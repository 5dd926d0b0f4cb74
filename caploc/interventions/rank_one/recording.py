"""The unedited run of a fact's prompts: their keys and values of the MLPs, and all that edited rows start from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from caploc.interventions.rank_one.prompts import EditPrompts
from caploc.model.loading import LanguageModel
from caploc.rows.clean import CleanPass, run_clean


@dataclass(eq=False)
class Recorded:
    """P prompts, each from its edited token on: C columns, those beyond a shorter prompt's end filled with zeros.

    Attributes:
        positions: ``[P, C]`` of the columns in their sequences.
        inputs: per layer ``[P, C, width]``, its input.
        keys, values: per layer ``[P, key heads, F, head size]`` of attention in front of the edited token, zeros
            beyond a shorter front's end.
        visible: per layer ``[P, C, F + C]`` bool, what each column attends to; one tensor for layers that see the same.
        mlp_inputs: per layer ``[P, neurons]``, what enters the MLP's output projection at the edited token.
        mlp_outputs: per layer ``[P, width]``, what leaves it there.
        read_prompts, read_columns: ``[R]`` where predictions are read, prompt by prompt.
        log_probs: ``[R]`` of the token that really follows there, for a check; meaningless for the last one.
        tuples: whether a decoder layer of this family returns a tuple that begins with its states.
    """

    positions: Int[Tensor, "prompts columns"]
    inputs: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    visible: list[Tensor]
    mlp_inputs: list[Float[Tensor, "prompts neurons"]]
    mlp_outputs: list[Float[Tensor, "prompts width"]]
    read_prompts: Int[Tensor, " reads"]
    read_columns: Int[Tensor, " reads"]
    log_probs: Float[Tensor, " reads"]
    tuples: bool
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        return len(self.positions)

    def mask(self, layer: int, rows: int) -> Tensor:
        """Additive ``[rows, 1, C, F + C]``; the prompts of one layer's rows follow those of another's."""
        visible = self.visible[layer]
        key = (id(visible), rows)
        if key not in self._masks:
            dtype = self.inputs[layer].dtype
            hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            hidden.masked_fill_(~visible, torch.finfo(dtype).min)
            self._masks[key] = hidden[:, None].repeat(rows // len(visible), 1, 1, 1)
        return self._masks[key]


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
        keys=[_fronts([run.keys[layer] for run in runs], prompts, front) for layer in layers],
        values=[_fronts([run.values[layer] for run in runs], prompts, front) for layer in layers],
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
    found: list[Tensor] = []
    for layer in range(len(runs[0].visible)):
        visible = torch.zeros(
            len(runs), columns, front + columns, dtype=torch.bool, device=runs[0].positions.device
        )
        visible[:, :, front:] = torch.eye(columns, dtype=torch.bool, device=visible.device)
        for row, run in zip(visible, runs, strict=True):
            own, edited = len(run.positions), int(run.positions[0])
            row[:own, :edited] = run.visible[layer][:, :edited]
            row[:own, front : front + own] |= run.visible[layer][:, edited:]
        found.append(next((same for same in found if torch.equal(same, visible)), visible))
    return found
