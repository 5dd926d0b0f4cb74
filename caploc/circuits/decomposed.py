"""A decoder as a sum of senders' outputs, every receiver with a residual stream of its own.

A receiver's input is the sum of what the senders on its edges write, and of the constant sender (``caploc.circuits.
graph``). With all edges on that is the Hugging Face model, which is checked for every prompt. A sender's *deviation* is
its output minus its ablation value (zero, or a mean): pruning an edge takes the deviation out of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from caploc.circuits.weights import Family, Rotary, blocks_of, family_of, graph_of, rotary_of
from caploc.errors import ExampleError, ModelError, OptionError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.model.loading import LanguageModel
from caploc.rows.sizing import Budget, refused_if_too_large


@dataclass(frozen=True, eq=False)
class Flow:
    """The whole model's run of B inputs: what every sender wrote and every receiver got.

    Attributes:
        outputs: per layer ``[heads + 1, B, rows, width]``, its heads and its MLP; rows are all tokens, but in the last
            layer only those that are read.
        attention_inputs: per layer ``[receivers, B, tokens, width]``, one tensor for all queries, keys and values.
        mlp_inputs: per layer ``[1, B, rows, width]``.
        output_input: ``[1, B, rows read, width]``.
        logits: ``[B, rows read, vocabulary]``.
    """

    outputs: list[Tensor]
    attention_inputs: list[Tensor]
    mlp_inputs: list[Tensor]
    output_input: Tensor
    logits: Tensor


@dataclass(eq=False)
class Prompt:
    """One prompt with its teacher-forced answer: T tokens fed (all but the last answer token), Y of them read.

    Attributes:
        id: the example's.
        targets: ``[Y]`` the answer's tokens; the last Y rows of logits predict them.
        embedded: ``[T, width]``.
        rotary: None in families with learned positions.
        masks: per layer ``[T, T]``, added to attention scores: 0 or minus infinity.
        deviations: ``[senders, T, width]`` in the whole model; in the last layer zero but for the last Y rows.
        log_prob: of the answer in the whole model, mean over its tokens.
    """

    id: str
    targets: Tensor
    embedded: Tensor
    rotary: Rotary | None
    masks: list[Tensor]
    deviations: Tensor = field(default_factory=lambda: torch.empty(0))
    log_prob: float = 0.0

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.embedded)

    @property
    def rows(self) -> int:
        """Y."""
        return len(self.targets)


def check_decomposable(lm: LanguageModel) -> Family:
    """The family of ``lm``, if it can be taken apart; no weight is read.

    Raises:
        ModelError: it cannot, or the model is in another dtype than float32 and float64.
    """
    family = family_of(str(lm.config.model_type))
    if lm.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"circuits need model {lm.name!r} in float32 or float64, not {str(lm.dtype).removeprefix('torch.')}; "
            "load it so"
        )
    return family


# Far above float32's rounding (1e-6), far below any error of taking the model apart.
_SAME = 1e-3


class DecomposedModel:
    """Runs a language model edge by edge, on its own weights.

    Args:
        lm: in float32 or float64.
        means: ``[senders, width]`` what a sender is taken to write where its edge is pruned; None for zero.

    Raises:
        ModelError: the family cannot be taken apart, or the model is in another dtype.
        OptionError: ``means`` of another shape.
    """

    def __init__(self, lm: LanguageModel, means: Tensor | None = None) -> None:
        self._family = check_decomposable(lm)
        self.lm = lm
        self.graph = graph_of(lm, self._family)
        self.blocks = blocks_of(lm, self._family, self.graph, lm.layers)
        zero = torch.zeros(self.graph.senders, len(self.blocks[0].mlp_bias)).to(lm.device, lm.dtype)
        if means is not None and means.shape != zero.shape:
            raise OptionError(
                f"means must be [senders, width] = {list(zero.shape)}, got {list(means.shape)}; take them from the "
                "same model"
            )
        self.means = zero if means is None else means.to(zero)
        self.constants = self._constants()
        shared = self.graph.groups == self.graph.heads
        self.group_of = None if shared else torch.from_numpy(self.graph.group_of).to(lm.device)
        self._final_norm = lm.model.get_submodule(self._family.final_norm)
        self._head: nn.Module = lm.model.get_output_embeddings()

    def _constants(self) -> Float[Tensor, "receivers width"]:
        """What each receiver gets with all of its edges pruned: biases written before it, and ablation values."""
        written = self.means.clone()
        for layer, block in enumerate(self.blocks):
            written[self.graph.heads_of(layer).start] += block.attention_bias.to(written.device)
            written[self.graph.mlp_of(layer)] += block.mlp_bias.to(written.device)
        return torch.from_numpy(self.graph.possible).to(written) @ written

    @refused_if_too_large("a prompt, taken apart,", "use a GPU with more memory or shorter prompts")
    @torch.no_grad()
    def prompt(self, example: TokenizedExample) -> Prompt:
        """Run the whole model once on ``example``.

        Raises:
            ModelError: taken apart, the model gives other logits than as a whole.
        """
        ids = example.input_ids[:-1].to(self.lm.device)
        ages = torch.arange(len(ids), device=ids.device)
        ages = ages[:, None] - ages
        masks = [
            torch.where((ages >= 0) & (ages < (block.window or len(ids))), 0.0, -torch.inf).to(self.means)
            for block in self.blocks
        ]
        rotary = rotary_of(self.lm, self._family, len(ids))
        prompt = Prompt(example.id, example.answer_ids.to(ids), self._embed(ids), rotary, masks)
        flow = self.flow(prompt, prompt.embedded[None])
        expected = self.lm.model(input_ids=ids[None], use_cache=False).logits[:, -prompt.rows :]
        error = float((flow.logits - expected).abs().max() / expected.abs().max())
        if not error <= _SAME:
            raise ModelError(
                f"taken apart, model {self.lm.name!r} gives other logits than as a whole (example {example.id!r}, "
                f"relative error {error:.2g}); its configuration has something that caploc/circuits does not know"
            )
        prompt.deviations = self._deviations(prompt, flow)
        prompt.log_prob = float(self.log_probs(prompt, flow.logits))
        return prompt

    def _embed(self, ids: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens width"]:
        states = self.lm.model.get_submodule(self._family.embedding)(ids)
        if self._family.positions is not None:
            positions = torch.arange(len(ids), device=ids.device)
            states = states + self.lm.model.get_submodule(self._family.positions)(positions)
        return cast(Tensor, states)

    def flow(self, prompt: Prompt, embedded: Float[Tensor, "batch tokens width"]) -> Flow:
        """The whole model on other embeddings of the prompt's length. Every receiver's input is a tensor of its own, so
        that gradients with respect to it can be taken."""
        graph, outputs, attention_inputs, mlp_inputs = self.graph, [], [], []
        stream = embedded
        for layer, block in enumerate(self.blocks):
            rows = prompt.rows if layer == graph.layers - 1 else prompt.tokens
            attention_inputs.append(stream.expand(graph.heads + 2 * graph.groups, *stream.shape))
            heads = self.attend(prompt, layer, attention_inputs[-1])
            stream = stream[:, -rows:]
            attended = stream + heads.sum(0) + block.attention_bias.to(stream.device)
            mlp_inputs.append((stream if graph.parallel else attended)[None])
            mlp = block.transform(mlp_inputs[-1])
            stream = attended + mlp[0] + block.mlp_bias.to(stream.device)
            outputs.append(torch.cat([heads, mlp]))
        output_input = stream[None]
        return Flow(outputs, attention_inputs, mlp_inputs, output_input, self.unembed(output_input[0]))

    def attend(
        self, prompt: Prompt, layer: int, inputs: Float[Tensor, "receivers batch tokens width"]
    ) -> Float[Tensor, "heads batch rows width"]:
        """What all heads of a layer write; in the last layer only in the rows that are read."""
        graph = self.graph
        rows = prompt.rows if layer == graph.layers - 1 else prompt.tokens
        query, key, value = self.blocks[layer].normed(inputs).split([graph.heads, graph.groups, graph.groups])
        return self.blocks[layer].attend(
            query[:, :, -rows:],
            key,
            value,
            prompt.rotary,
            prompt.masks[layer][-rows:],
            group_of=self.group_of,
        )

    def _deviations(self, prompt: Prompt, flow: Flow) -> Float[Tensor, "senders tokens width"]:
        """What every sender wrote in the flow's one input, minus its ablation value."""
        deviations = torch.zeros_like(prompt.embedded).repeat(self.graph.senders, 1, 1)
        deviations[0] = prompt.embedded - self.means[0]
        for layer, outputs in enumerate(flow.outputs):
            senders = slice(self.graph.heads_of(layer).start, self.graph.mlp_of(layer) + 1)
            deviations[senders, -outputs.shape[2] :] = outputs[:, 0] - self.means[senders, None]
        return deviations

    @torch.no_grad()
    def run(
        self, prompt: Prompt, kept: Bool[Tensor, "circuits receivers senders"]
    ) -> Float[Tensor, "circuits rows vocabulary"]:
        """The logits in the rows that are read, of circuits that run alone: ``kept`` has the edges of each."""
        graph = self.graph
        on = kept.to(self.means)
        written = [
            (prompt.embedded - self.means[0]).expand(len(on), 1, -1, -1)
        ]  # [circuits, senders, rows, width]

        def received(receivers: slice, rows: int) -> Tensor:
            parts = torch.cat([part[:, :, -rows:] for part in written], dim=1)
            summed = on[:, receivers, : parts.shape[1]] @ parts.flatten(2)
            return (
                summed.unflatten(2, parts.shape[2:]).transpose(0, 1) + self.constants[receivers, None, None]
            )

        for layer, block in enumerate(self.blocks):
            rows = prompt.rows if layer == graph.layers - 1 else prompt.tokens
            inputs = received(graph.attention_of(layer), prompt.tokens)
            heads = self.attend(prompt, layer, inputs) - self.means[graph.heads_of(layer), None, None]
            if not graph.parallel:
                written.append(heads.transpose(0, 1))
            mlp_input = graph.mlp_input_of(layer)
            mlp = (
                block.transform(received(slice(mlp_input, mlp_input + 1), rows))
                - self.means[graph.mlp_of(layer)]
            )
            written.extend(
                [heads.transpose(0, 1), mlp.transpose(0, 1)] if graph.parallel else [mlp.transpose(0, 1)]
            )
        return self.unembed(received(slice(graph.output, graph.output + 1), prompt.rows)[0])

    def run_each(
        self,
        prompt: Prompt,
        kept: Bool[Tensor, "circuits receivers senders"],
        at_once: int,
        read: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> Tensor:
        """What ``read`` makes of the logits of ``run``, on ``at_once`` circuits at a time, or on fewer where CUDA runs
        out of memory.

        Raises:
            ModelError: not even one circuit fits.
        """
        refusal = (
            f"a circuit that runs on example {prompt.id!r} does not fit into the GPU's memory; use a GPU with more "
            "memory or shorter prompts"
        )
        budget = Budget(self.lm, at_once, gradients=False)
        return torch.cat(budget.in_parts(kept, lambda part: read(self.run(prompt, part)), refusal))

    def unembed(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocabulary"]:
        """Logits of residual streams at the output."""
        return cast(Tensor, self._head(self._final_norm(states)))

    @staticmethod
    def log_probs(prompt: Prompt, logits: Float[Tensor, "batch rows vocabulary"]) -> Float[Tensor, " batch"]:
        """The answer's log probability, mean over its tokens."""
        return logits.log_softmax(-1)[:, torch.arange(prompt.rows), prompt.targets].mean(1)

    @staticmethod
    def ranks(prompt: Prompt, logits: Float[Tensor, "batch rows vocabulary"]) -> Int[Tensor, " batch"]:
        """The worst rank of an answer token, counted from 1; tokens with an equal logit count as ranked before it, so
        that logits which are all the same recall nothing."""
        targets = logits[:, torch.arange(prompt.rows), prompt.targets]
        return (logits >= targets[..., None]).sum(2).amax(1)


def mean_outputs(lm: LanguageModel, examples: Sequence[Example]) -> Float[Tensor, "senders width"]:
    """Every sender's output, mean over all tokens of all prompts (answers are left out), each token counted once.

    Raises:
        ExampleError: no example, one that cannot be tokenized, or a prompt of a single token.
    """
    if not examples:
        raise ExampleError("there is no example to take means over; give at least one")
    model = DecomposedModel(lm)
    total, tokens = torch.zeros_like(model.means), 0
    for example in examples:
        ids = tokenize(lm, example).prompt_ids
        if len(ids) < 2:
            raise ExampleError(f"example {example.id!r}: its prompt has one token; means need at least two")
        everything = model.prompt(
            TokenizedExample(ids, 1, example.id)
        )  # an answer from the start: all rows are read
        total += everything.deviations.sum(1)
        tokens += everything.tokens
    return total / tokens
