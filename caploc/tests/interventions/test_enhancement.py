"""A training run: what it trains, what it leaves alone, when it stops, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from caploc.benchmarks.measuring import executed
from caploc.errors import CaplocError, ExampleError, ModelError, OptionError
from caploc.examples import TokenizedExample
from caploc.fingerprints import tensor_fingerprint
from caploc.interventions.enhancement import Enhancement, Recipe, enhance, enhanced
from caploc.interventions.enhancement.batches import Batches, end_token
from caploc.interventions.enhancement.difference import TrainableRows
from caploc.interventions.enhancement.training import Trainer
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.attribution.families import VOCABULARY
from caploc.tests.interventions.enhancing import random_examples, random_mask, recipe_of
from caploc.tests.tiny import NEURONS, SHAPE, WIDTH, tiny_lm, tokenizer

EXAMPLES, HELD_OUT = random_examples(1), random_examples(2, 5)
MASK = random_mask(0, 0.1, 0.1)


class Boom(Exception):
    """Thrown midway."""


def state_of(lm: LanguageModel) -> list[Any]:
    """Everything of a model that training could leave behind."""
    modules = list(lm.model.modules())
    return [
        tensor_fingerprint(lm.model.state_dict()),
        [(id(p), p.data_ptr(), p.requires_grad, p.grad) for p in lm.model.parameters()],
        [
            (m.training, m.__dict__.get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in modules
        ],
        lm.fingerprint,
    ]


def plain_loss(lm: LanguageModel, examples: list[TokenizedExample]) -> float:
    """Of the answers and their ends, one example at a time, by the model as it is: nats a token."""
    losses = []
    for example in examples:
        ids = torch.cat([example.input_ids, torch.tensor([tokenizer().eos_token_id])])
        with torch.no_grad():
            logs = lm.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        losses += [-float(logs[at - 1, ids[at]]) for at in range(example.answer_start, len(ids))]
    return float(np.mean(losses))


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
def test_a_run_lowers_the_loss_it_reports(family: str) -> None:
    lm = tiny_lm(family)
    recipe = recipe_of(lr=3e-2, keep=(1, 3, 5))
    found = enhance(lm, MASK, EXAMPLES, recipe, held_out=HELD_OUT)
    assert list(found.at) == [1, 3, 5] and list(found.held_out) == [0, 1, 3, 5]
    assert found.steps_per_epoch == 4 and found.losses.shape == (20,)
    assert found.diverged is None and found.remark is None
    assert found.losses[-4:].mean() < found.losses[:4].mean() - 0.2
    assert found.held_out[0] == pytest.approx(plain_loss(lm, HELD_OUT), abs=1e-5)
    for epoch, difference in found.at.items():
        assert torch.equal(difference.mask.values, MASK.values)
        with enhanced(lm, difference):
            assert plain_loss(lm, HELD_OUT) == pytest.approx(found.held_out[epoch], abs=1e-5)


def test_the_model_comes_back_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    lm.model.train()
    before = state_of(lm)
    rest = NeuronMask(~MASK.values)
    found = enhance(lm, rest, EXAMPLES, recipe_of(epochs=1, keep=(1,)), held_out=HELD_OUT, zeroed=MASK)
    assert state_of(lm) == before

    def boom(trainer: Trainer) -> None:
        raise Boom

    with pytest.raises(Boom), enhanced(lm, found.at[1]):
        raise Boom
    assert state_of(lm) == before
    monkeypatch.setattr(Trainer, "update", boom)
    with pytest.raises(Boom):
        enhance(lm, rest, EXAMPLES, recipe_of(), zeroed=MASK)
    assert state_of(lm) == before


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("share", [0.1, 0.9], ids=["rows", "matrices"])
def test_nothing_below_the_lowest_chosen_neuron_is_in_the_graph(family: str, share: float) -> None:
    lm, lowest = tiny_lm(family), SHAPE[0] - 1
    seen: dict[str, bool] = {}
    hooks = []
    for name, module in lm.model.named_modules():
        hook = module.register_forward_hook(
            lambda _, __, out, name=name: seen.update(
                {name: isinstance(out, torch.Tensor) and out.requires_grad}
            )
        )
        hooks.append(hook)
    trainer = Trainer(lm, random_mask(0, 0, share), recipe_of())
    with trainer:
        trainer.gradients(Batches(lm, EXAMPLES, recipe_of()), np.arange(3))
    layer = f"{lm.architecture.layers}.{lowest}."
    inside = {layer + path for path in (*lm.architecture.mlp_in, lm.architecture.mlp_out)}
    assert inside <= {name for name, graph in seen.items() if graph}
    under = f"{lm.architecture.layers}.0"
    below = [name for name in seen if f"{name}.".startswith(f"{under}.")]
    assert len(below) > 5 and not any(seen[name] for name in below)
    assert not seen[layer + lm.architecture.attention_out]
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    for hook in hooks:
        hook.remove()


def test_the_backward_pass_costs_what_lies_above() -> None:
    """Counted products: with one neuron of the last layer they are those with the head, the neuron's own two vectors
    on the way to its activation, and the gradients of its three."""
    lm = tiny_lm()
    batches = Batches(lm, EXAMPLES, recipe_of())
    tokens, backward = batches.tokens(np.arange(10)), {}
    for lowest in (0, 1):
        mask = NeuronMask(torch.zeros(SHAPE[0], NEURONS, dtype=torch.bool))
        mask.values[lowest, 3] = True
        with Trainer(lm, mask, recipe_of(batch_size=10)) as trainer:
            with executed() as both:
                trainer.gradients(batches, np.arange(10))
            with executed() as forward:
                trainer.held_out(batches, 10)
        backward[lowest] = both.matrix - forward.matrix
    assert backward[1] == 2 * tokens * WIDTH * (VOCABULARY + 2 + 3)
    assert backward[0] > 5 * backward[1]


def test_mlps_run_at_no_padding_and_the_last_at_read_tokens_only() -> None:
    lm, rows = tiny_lm(), []
    for layer in lm.layers:
        lm.architecture.mlp_out_of(layer).register_forward_pre_hook(
            lambda _, args: rows.append(args[0].shape[:-1])
        )
    batches = Batches(lm, EXAMPLES, recipe_of())
    with Trainer(lm, MASK, recipe_of(batch_size=10)) as trainer:
        trainer.gradients(batches, np.arange(10))
    read = sum(example.num_answer_tokens + 1 for example in EXAMPLES)
    assert rows == [(sum(len(example.input_ids) for example in EXAMPLES),), (read,)]


def test_the_seed_alone_decides_the_batches() -> None:
    lm = tiny_lm()
    first, again, other = (enhance(lm, MASK, EXAMPLES, recipe_of(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.losses, again.losses) and not np.array_equal(first.losses, other.losses)
    path, change = next(iter(first.at[5].layers[0].changes.items()))
    assert torch.equal(change, again.at[5].layers[0].changes[path])
    elsewhere = enhance(lm, NeuronMask(~MASK.values), EXAMPLES, recipe_of())
    assert elsewhere.losses[0] == pytest.approx(first.losses[0], abs=1e-6)


def test_kept_epochs_are_those_of_shorter_runs() -> None:
    lm = tiny_lm()
    longer = enhance(lm, MASK, EXAMPLES, recipe_of(keep=(2, 5))).at[2]
    shorter = enhance(lm, MASK, EXAMPLES, recipe_of(epochs=2, keep=(2,))).at[2]
    for layer, rows in shorter.layers.items():
        assert all(
            torch.equal(change, longer.layers[layer].changes[path]) for path, change in rows.changes.items()
        )


def test_zeroed_neurons_stay_zero() -> None:
    lm = tiny_lm()
    found = enhance(lm, NeuronMask(~MASK.values), EXAMPLES, recipe_of(), zeroed=MASK).at[5]
    with enhanced(lm, found):
        for layer, chosen in enumerate(MASK.values):
            mlp = lm.layers[layer].get_submodule("mlp")
            for path, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
                weight = mlp.get_submodule(path).get_parameter("weight").movedim(dim, 0)
                assert not weight[chosen].any() and weight[~chosen].all()


def test_the_end_of_the_sequence_is_trained() -> None:
    lm = tiny_lm()
    end = tokenizer().eos_token_id
    assert end_token(lm) == end
    example = EXAMPLES[0]
    ended = TokenizedExample(torch.cat([example.input_ids, torch.tensor([end])]), example.answer_start)
    for given in (example, ended):
        batch = Batches(lm, [given], recipe_of()).batch(np.array([0]))
        assert torch.equal(batch.input_ids[0], example.input_ids)
        assert batch.targets.tolist() == [*example.answer_ids.tolist(), end]
    cut = Batches(lm, [example], recipe_of(length_limit=example.answer_start + 1)).batch(np.array([0]))
    assert cut.targets.tolist() == example.answer_ids[:1].tolist()
    every = Batches(lm, [example], recipe_of(loss_on="all")).batch(np.array([0]))
    assert every.targets.tolist() == [*example.input_ids[1:].tolist(), end]


def test_half_precision_keeps_small_steps() -> None:
    """A step of 1e-5 is below the rounding of a bfloat16 weight of 0.15."""
    lm = tiny_lm(dtype=torch.bfloat16)
    found = enhance(lm, MASK, EXAMPLES, recipe_of(lr=1e-5))
    changes = [change for rows in found.at[5].layers.values() for change in rows.changes.values()]
    assert all(change.dtype == torch.float32 for change in changes)
    assert 1e-5 < max(float(change.abs().max()) for change in changes) < 3e-4
    better = enhance(lm, MASK, EXAMPLES, recipe_of(lr=3e-2), held_out=HELD_OUT)
    assert better.losses[-4:].mean() < better.losses[:4].mean() - 0.2
    with enhanced(lm, better.at[5]):
        assert plain_loss(lm, HELD_OUT) == pytest.approx(better.held_out[5], abs=0.05)


def test_a_batch_beyond_the_gpus_memory_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, own, limit = tiny_lm(dtype=torch.float64), Trainer._loss, 3
    expected = enhance(lm, MASK, EXAMPLES, recipe_of(batch_size=10))

    def small_memory(trainer: Trainer, batch: Any) -> torch.Tensor:
        if len(batch.input_ids) > limit:
            raise torch.cuda.OutOfMemoryError
        return own(trainer, batch)

    monkeypatch.setattr(Trainer, "_loss", small_memory)
    found = enhance(lm, MASK, EXAMPLES, recipe_of(batch_size=10))
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0, atol=1e-7)
    limit = 0
    with pytest.raises(ModelError, match="does not fit into the GPU's memory even one example at a time"):
        enhance(lm, MASK, EXAMPLES, recipe_of())


def test_a_rate_that_diverges_stops_and_keeps_what_was_measured() -> None:
    lm = tiny_lm()
    found = enhance(lm, MASK, EXAMPLES, recipe_of(lr=1e30), held_out=HELD_OUT)
    assert found.diverged == 1 and not found.at and list(found.held_out) == [0]
    assert len(found.losses) == 2 and np.isfinite(found.losses[0]) and not np.isfinite(found.losses[1])
    assert found.remark is not None and "at a rate of 1e+30 diverged after 1 updates" in found.remark


@pytest.mark.parametrize(
    ("later", "updates"),
    [([float("nan")], 7), ([20.0] * 5, 11), ([20.0] * 4 + [5.0] * 50, None), ([11.0] * 50, None)],
    ids=["not a number", "far above the start", "one epoch's spike", "less than thrice the start"],
)
def test_when_a_run_has_diverged(
    later: list[float], updates: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = iter([4.0] * 7 + later)
    monkeypatch.setattr(Trainer, "gradients", lambda *_: next(planned))
    monkeypatch.setattr(Trainer, "update", lambda _: None)
    found = enhance(tiny_lm(), MASK, EXAMPLES, recipe_of(keep=(1, 5)))
    assert found.diverged == updates
    assert list(found.at) == ([1, 5] if updates is None else [1])
    if updates is not None:
        assert found.remark is not None and "kept are epochs 1; lower the rate" in found.remark


def test_weights_that_end_as_no_numbers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(trainer: Trainer) -> None:
        assert isinstance(trainer.rows, TrainableRows)
        with torch.no_grad():
            trainer.rows.parameters[0].fill_(float("inf"))

    monkeypatch.setattr(Trainer, "update", spoil)
    monkeypatch.setattr(Trainer, "gradients", lambda *_: 4.0)
    found = enhance(tiny_lm(), MASK, EXAMPLES, recipe_of(epochs=1, keep=(1,)))
    assert found.diverged == 4 and not found.at
    assert found.remark is not None and "no epoch was kept" in found.remark


def refused(kind: type[CaplocError], said: str, **changes: Any) -> None:
    lm, given = tiny_lm(), {"mask": MASK, "examples": EXAMPLES, "recipe": recipe_of(), **changes}
    before = state_of(lm)
    with pytest.raises(kind, match=said) as caught:
        enhance(lm, **given)
    assert "\n" not in str(caught.value) and state_of(lm) == before


def test_refuses_what_cannot_be_trained() -> None:
    nothing = NeuronMask(torch.zeros(SHAPE[0], NEURONS, dtype=torch.bool))
    refused(OptionError, "no neuron is chosen, so there is nothing to train", mask=nothing)
    refused(OptionError, r"a mask must be bool of shape \(2, 20\)", mask=NeuronMask(MASK.values[:, :-1]))
    refused(OptionError, r"a mask must be bool of shape \(2, 20\)", zeroed=NeuronMask(MASK.values[:1]))
    refused(OptionError, "4 neurons are both trained and zeroed", zeroed=MASK)
    refused(OptionError, "no examples to train on", examples=[])
    shared = TokenizedExample(EXAMPLES[4].input_ids.clone(), 1, "twin")
    refused(
        OptionError, "held-out example 'twin' has the tokens of the training", held_out=[*HELD_OUT, shared]
    )
    long = TokenizedExample(torch.full((97,), 5), 3, "long")
    refused(ExampleError, "example 'long' has 97 tokens", examples=[*EXAMPLES, long])
    long = TokenizedExample(long.input_ids[:96], 3, "long")
    refused(
        ExampleError,
        "prompt of 3 tokens fills the length limit of 3",
        examples=[long],
        recipe=Recipe(length_limit=3),
    )


def test_refuses_a_model_that_is_broken_already() -> None:
    lm = tiny_lm()
    lm.model.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="the loss of tiny-llama is nan before anything was trained"):
        enhance(lm, MASK, EXAMPLES, recipe_of())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lr": 0}, "lr must be a positive number, got 0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"lr": -1e-5}, "lr must be a positive number"),
        ({"eps": 0.0}, "eps must be a positive number"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers from 0 to below 1"),
        ({"keep": (1, 20)}, "keep asks for epoch 20 of 10; train longer"),
        ({"keep": (5, 1)}, "keep must ascend"),
        ({"keep": ()}, "keep must name at least one epoch"),
        ({"loss_on": "prompt"}, "loss_on must be one of answer, all, got 'prompt'"),
        ({"train": "gate"}, "train must be one of both, in, out"),
        ({"length_limit": 1}, "length_limit must be a whole number of at least 2"),
    ],
)
def test_refuses_recipes_that_make_no_sense(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        Recipe(**fields)
    assert "\n" not in str(caught.value)


def test_settings_name_every_choice() -> None:
    recipe = Recipe(lr=3e-4, length_limit=64)
    assert Recipe(**recipe.settings) == recipe
    assert isinstance(enhance(tiny_lm(), MASK, EXAMPLES, recipe), Enhancement)
