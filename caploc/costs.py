"""What a run takes on a GPU, reckoned from a model's shape before anything is loaded: operations, kernels, bytes, time.

The one place with these formulas: the plan's hours, the size of passes and the memory below which a cell is skipped all
come from here. Operations, kernels launched and bytes are held to what simulated GPUs count, within 20 %
(``caploc/tests/gpu/test_costs.py``); what an H100 does in a second is taken from its data sheet and from how eager
PyTorch is known to run, and was not measured. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = 4e14
"""Floating-point operations a second that long passes in bfloat16 reach on an H100, 40 % of its peak."""
BANDWIDTH = 3e12
"""Bytes a second that an H100 reads of its memory (3.35e12 at most)."""
LAUNCH_SECONDS = 25e-6
"""From one kernel to the next where PyTorch runs a model's layers from Python, hooks among them: short steps wait for
that, not for the GPU."""
CARD_BYTES = 80e9
"""Of the card that times are told for."""

FORWARD, FORWARD_ENDS = 45, 25
"""Kernels of a forward pass: in a layer, and in all before, between and behind the layers."""
GRADIENTS, GRADIENTS_ENDS, ENTERING = 107, 40, 53
"""Kernels of a pass forward and backward: in a layer that rows pass, at its ends, and for each layer rows enter at."""

LEAST_TOKENS = 256
"""In a pass on a GPU, at least, where rows are handed no copies of keys and values."""
SHARE_WITH_GRADIENTS, SHARE, WAITING_SHARE = 0.5, 0.4, 0.1
"""Of the memory that weights leave: for a pass, with and without gradients, and for rows that wait to be run on."""
_SHARES = (SHARE_WITH_GRADIENTS, SHARE)
TRAINED_BYTES = 4
"""For each parameter trained in place: its gradient, in float32; Adam's moments lie on the host
(`caploc.interventions.enhancement.in_place`)."""
NEEDS = ("passes", "attribution", "precise", "training")
"""What a cell may need memory for: passes without gradients; those and packed passes with them; circuits, edits and
single neurons in float32, whatever the run's dtype; training of all neurons but those located."""
_PROMPT = 32  # tokens of a fact's prompt, generously


@dataclass(frozen=True)
class Shape:
    """Of a decoder: sizes, and what decides how much its layers keep.

    ``parameters``: all, tied ones once. ``gated``: whether the MLP has a gate. ``key_heads``: copies of keys and values
    that a row is handed, in heads: the query heads' where a kernel has them repeated, as CUDA's do under a mask.
    ``in_steps``: attention computes its scores and softmax in float32, as the eager implementation does.
    """

    layers: int
    width: int
    neurons: int
    vocabulary: int
    parameters: float
    heads: int
    key_heads: int
    head_size: int
    gated: bool = True
    in_steps: bool = False
    tied: bool = False

    @property
    def layer_parameters(self) -> float:
        """Of one layer."""
        return (self.parameters - self.vocabulary * self.width * (1 if self.tied else 2)) / self.layers

    @property
    def mlp_parameters(self) -> float:
        """Of all MLPs, biases left out."""
        return self.layers * (3 if self.gated else 2) * self.width * self.neurons


# ------------------------------------------------------------------------------------------------- operations, kernels


def forward_flops(shape: Shape, tokens: float, read: float) -> float:
    """Of passes over ``tokens``, of which ``read`` are read out: products with weights, two operations each. What
    attention multiplies beside them is left out: a tenth of it at 1,000 tokens and less below."""
    return 2.0 * (tokens * shape.layers * shape.layer_parameters + read * shape.vocabulary * shape.width)


def passed_flops(shape: Shape) -> float:
    """Of a token that enters behind a layer, whichever: it passes those above, (L - 1) / 2 on average, and the head."""
    return 2.0 * (shape.layer_parameters * (shape.layers - 1) / 2 + shape.vocabulary * shape.width)


def attribution_flops(shape: Shape, prompt: float, answer: float, points: int) -> float:
    """Of packed attribution of one example with ``points`` at which gradients are taken, that at 1 for all layers at
    once. The gradient costs as much again as the pass, parameters being frozen."""
    packed = answer * shape.layers * (points - 1) * 2 * passed_flops(shape)
    whole = 2 * forward_flops(shape, answer, answer)
    return packed + whole + forward_flops(shape, prompt + answer, answer)


def training_flops(shape: Shape, tokens: float, read: float, trained: float = 0.0) -> float:
    """Of a step on ``tokens``: forward, the gradient of what layers put out, and that of ``trained`` parameters."""
    return 2 * forward_flops(shape, tokens, read) + 2.0 * trained * tokens


def forward_launches(shape: Shape) -> int:
    """Kernels of one forward pass, whatever its size."""
    return FORWARD * shape.layers + FORWARD_ENDS


def packed_launches(shape: Shape, lowest: int, entries: int) -> int:
    """Kernels of one packed pass, forward and backward, whose rows enter behind ``entries`` layers from ``lowest``."""
    return GRADIENTS * (shape.layers - 1 - lowest) + GRADIENTS_ENDS + ENTERING * entries


# ------------------------------------------------------------------------------------------------------------- memory


def copied_bytes(shape: Shape, item: int, columns: int, context: int) -> float:
    """A layer's keys and values, copied for a row of ``columns`` tokens that sees ``context`` before them, for each of
    the tokens. Attention in steps has keys in float32 instead, and scores."""
    if not context:
        return 0.0
    seen = (context + columns) / columns
    if not shape.in_steps:
        return 2 * shape.key_heads * shape.head_size * item * seen
    scores = shape.heads * (context + columns) * (4 if item >= 4 else 4 + item)
    return shape.heads * shape.head_size * (max(item, 4) + item) * seen + scores


def token_bytes(
    shape: Shape, item: int, *, gradients: bool = True, columns: int = 1, context: int = 0
) -> float:
    """Memory that one token of a pass needs at its peak, ``item`` bytes a number.

    With gradients: what autograd keeps of every layer above the one that rows enter behind (two vectors of the model's
    width and four of its neurons; with a gate three of these, and two more of the width in float32, of RMSNorm) and, at
    the peak, what one layer takes on the way back, or three float32 rows of logits. Without:
    each layer's keys and values, one layer's states and activations, and the logits.

    A row of ``columns`` tokens that is handed the keys and values of ``context`` tokens before it has copies of them.
    """
    copied, logits = copied_bytes(shape, item, columns, context), 12.0 * shape.vocabulary
    if not gradients:
        states = (2 * shape.layers + 10) * shape.width + 4 * shape.neurons
        return states * item + copied + logits
    vectors = shape.width * (2 * item + (2 * max(item, 4) if shape.gated else 0))
    kept = vectors + (3 if shape.gated else 4) * shape.neurons * item
    backward = kept + (copied if not shape.in_steps else copied / 2)
    return (shape.layers - 1) * (kept + copied) + max(backward, logits)


def weight_bytes(shape: Shape, item: int) -> float:
    """The weights, and beside those in half precision the head in float32."""
    wide = 4 * shape.vocabulary * shape.width if item < 4 else 0
    return item * shape.parameters + wide


def least_bytes(shape: Shape, item: int, need: str) -> float:
    """What a GPU must have for one of ``NEEDS`` in a run with ``item`` bytes a number: the weights and the smallest
    pass, which takes its share of what they leave."""
    if need == "precise":
        return _precise_bytes(shape)
    each = {
        share: token_bytes(shape, item, gradients=share == SHARE_WITH_GRADIENTS) / share for share in _SHARES
    }
    smallest = each[SHARE] if need == "passes" else max(each.values())
    found = weight_bytes(shape, item) + LEAST_TOKENS * smallest
    return found + (TRAINED_BYTES * shape.mlp_parameters if need == "training" else 0.0)


def _precise_bytes(shape: Shape) -> float:
    """In float32: weights, and the larger of a circuit and an edit. Of a circuit every node's output and, for one step,
    the input of every query, key and value of every head with its gradient; of an edit one layer's covariance in
    float64, its factor, and a pass."""
    vector = 4.0 * _PROMPT * shape.width
    senders = 1 + shape.layers * (shape.heads + 1)
    receivers = 3 * shape.heads * shape.layers
    circuit = vector * (senders + 2 * receivers)
    edit = 2 * 8.0 * shape.neurons**2 + _PROMPT * token_bytes(shape, 4)
    return weight_bytes(shape, 4) + max(circuit, edit)


# --------------------------------------------------------------------------------------------------------------- time


def step_seconds(shape: Shape, item: int, rows: float, context: float) -> float:
    """Of writing one token in each of ``rows`` texts of ``context`` tokens: kernels are launched, or weights, keys and
    values read, whichever takes longer."""
    read = item * (shape.parameters + rows * context * row_numbers(shape))
    return max(LAUNCH_SECONDS * forward_launches(shape), read / BANDWIDTH)


def row_numbers(shape: Shape) -> float:
    """Keys and values of a token, in all layers."""
    return 2.0 * shape.layers * shape.key_heads * shape.head_size


def rows_at_once(shape: Shape, item: int, context: float, memory: float = CARD_BYTES) -> int:
    """Texts that a card writes side by side: their keys and values have their share of what the weights leave, rounded
    down to a power of two."""
    room = max(0.0, memory - weight_bytes(shape, item))
    whole = power_of_two(max(1, int(WAITING_SHARE * room)))
    return max(1, int(whole / (item * context * row_numbers(shape))))


def power_of_two(number: int) -> int:
    """The largest up to ``number``, which is at least 1."""
    return 1 << number.bit_length() - 1


def held_up_flops(shape: Shape, item: int, context: float) -> float:
    """The operations that could be run while a token is written in one text."""
    rows = rows_at_once(shape, item, context)
    return RATE * step_seconds(shape, item, rows, context) / rows
