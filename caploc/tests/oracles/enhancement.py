"""Enhancement by fine-tuning the whole model with every gradient multiplied by a mask of 0 and 1: slow and large."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from caploc.examples import TokenizedExample
from caploc.interventions.enhancement.batches import end_token, orders
from caploc.interventions.enhancement.recipe import Recipe
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask


class MaskedFineTuning:
    """A copy of the model that is fine-tuned whole, but for the gradients that are masked away.

    Attributes:
        model: the copy.
        masks: for each of its parameters, 1 where it is trained.
        optimizer: torch's Adam on all of its parameters.
    """

    def __init__(
        self, lm: LanguageModel, mask: NeuronMask, recipe: Recipe, zeroed: NeuronMask | None = None
    ) -> None:
        self.model: PreTrainedModel = copy.deepcopy(lm.model).eval().requires_grad_(True)
        self.masks = neuron_parameters(lm, mask, self.model)
        if recipe.train != "both":
            inputs = [f".{path}." for path in lm.architecture.mlp_in]
            for name, part in self.masks.items():
                if any(path in name for path in inputs) != (recipe.train == "in"):
                    part.zero_()
        if zeroed is not None:
            with torch.no_grad():
                for name, part in neuron_parameters(lm, zeroed, self.model).items():
                    self.model.get_parameter(name).mul_(1 - part)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=recipe.lr, betas=recipe.betas, eps=recipe.eps
        )
        self._end, self._loss_on = end_token(lm), recipe.loss_on

    def gradients(self, examples: Sequence[TokenizedExample]) -> float:
        """Gradients of all parameters, those that are not trained set to zero; the batch's loss, nats a token."""
        self.optimizer.zero_grad()
        loss = self._loss(examples)
        loss.backward()
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad *= self.masks[name]
        return float(loss.detach())

    def update(self) -> None:
        """Adam's step."""
        self.optimizer.step()

    def train(self, examples: Sequence[TokenizedExample], recipe: Recipe, steps: int) -> list[float]:
        """``steps`` updates on the recipe's batches; their losses."""
        losses: list[float] = []
        for epoch in orders(recipe, len(examples)):
            for indices in epoch:
                if len(losses) == steps:
                    return losses
                losses.append(self.gradients([examples[index] for index in indices]))
                self.update()
        return losses

    def _loss(self, examples: Sequence[TokenizedExample]) -> Tensor:
        rows = [example.input_ids.tolist() for example in examples]
        if self._end is not None:
            rows = [row if row[-1] == self._end else [*row, self._end] for row in rows]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        attended, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
            ids[index, : len(row)] = torch.tensor(row)
            attended[index, : len(row)] = 1
            first = example.answer_start if self._loss_on == "answer" else 1
            labels[index, first : len(row)] = ids[index, first : len(row)]
        logits = self.model(input_ids=ids, attention_mask=attended, use_cache=False).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def neuron_parameters(lm: LanguageModel, mask: NeuronMask, model: PreTrainedModel) -> dict[str, Tensor]:
    """For each parameter of ``model`` a tensor of its shape, 1 where it is a weight of a neuron of ``mask``."""
    parts = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    conv = lm.architecture.family == "gpt2"  # keeps its matrices as [inputs, outputs]
    for layer, chosen in enumerate(mask.values.cpu()):
        prefix = f"{lm.architecture.layers}.{layer}."
        for path in lm.architecture.mlp_in:
            weight = parts[f"{prefix}{path}.weight"]
            rows = weight.T if conv else weight
            rows[chosen.repeat(len(rows) // len(chosen))] = 1
            bias = parts.get(f"{prefix}{path}.bias")
            if bias is not None:
                bias[chosen] = 1
        weight = parts[f"{prefix}{lm.architecture.mlp_out}.weight"]
        (weight.T if conv else weight)[:, chosen] = 1
    return parts
