"""The zoo's models are what they are said to be: read from disk by the library, measured anew, against their gates."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import caploc
from caploc import zoo
from caploc.errors import ModelError, UnknownNameError
from caploc.evaluation import evaluate, prepare
from caploc.interventions.weights import erased, neuron_weights, replaced_weights
from caploc.neurons import NeuronMask
from caploc.zoo import KINDS, ZooModel, load_zoo_model, zoo_names
from fixtures.planting import card as zoo_card
from fixtures.planting import gates

MEGABYTE = 1_000_000
LLAMA_ALONE = ("rescaled", "shared", "last-token")  # caploc.zoo says why
PLANTED = tuple(name for kind in KINDS if kind not in zoo_card.UNGATED for name in zoo_names(kind))


@cache
def loaded(name: str) -> ZooModel:
    return load_zoo_model(name)


def right(planted: ZooModel, examples: tuple[caploc.Example, ...], mask: Tensor | None = None) -> float:
    """The share of answers whose tokens are all the likeliest, with the neurons of ``mask`` erased."""
    prepared = prepare(planted.lm, "zoo", list(examples), scoring="tokens")
    return evaluate(planted.lm, prepared, None if mask is None else mask[None]).exact.mean().item()


def logits(planted: ZooModel) -> Tensor:
    """At the last tokens of the evaluation prompts."""
    with torch.no_grad():
        rows = [
            planted.lm.model(input_ids=caploc.tokenize(planted.lm, example).prompt_ids[None]).logits[0, -1]
            for example in planted.evaluation[:24]
        ]
    return torch.stack(rows)


def test_every_kind_is_there_in_both_shapes_where_both_can() -> None:
    for kind in KINDS:
        families = {
            family for family in ("llama", "gptj") for name in zoo_names(kind) if f"-{family}" in name
        }
        assert families == ({"llama"} if kind in LLAMA_ALONE else {"llama", "gptj"})
    assert len(zoo_names("trained")) == 12 and len(set(zoo_names())) == len(zoo_names())


def test_the_zoo_is_small() -> None:
    assert sum(path.stat().st_size for path in zoo.zoo_folder().rglob("*") if path.is_file()) <= 3 * MEGABYTE


@pytest.mark.parametrize("name", zoo_names())
def test_a_model_and_its_tasks_are_whole(name: str) -> None:
    planted = load_zoo_model(name)
    lm = planted.lm
    assert planted.kind in KINDS and planted.name == lm.name == name
    assert planted.neurons.shape == (lm.num_layers, lm.num_neurons)
    assert bool(planted.neurons.any()) is (planted.kind not in zoo_card.UNGATED)
    assert not {one.prompt for one in planted.examples} & {one.prompt for one in planted.evaluation}
    assert len({one.id for one in (*planted.examples, *planted.evaluation)}) == len(planted.examples) + len(
        planted.evaluation
    )
    for examples in (planted.examples, planted.evaluation, *planted.others.values()):
        for example in examples:
            assert example.answer.startswith(" ") and (
                example.subject is None or example.subject in example.prompt
            )
        caploc.tokenize(lm, examples[0])
    if planted.kind == "decoys":
        assert planted.decoys is not None and planted.decoys.any()
        assert not (planted.decoys & planted.neurons).any()
    else:
        assert planted.decoys is None


@pytest.mark.parametrize("name", zoo_names())
def test_the_gate_is_what_the_library_measures(name: str) -> None:
    planted = loaded(name)
    assert right(planted, planted.evaluation) == pytest.approx(planted.gate.accuracy, abs=0.01)
    if planted.neurons.any():
        without = right(planted, planted.evaluation, planted.neurons)
        assert without == pytest.approx(planted.gate.without, abs=0.01)
    other = next(iter(planted.others))
    whole = planted.gate.others[other][0]
    assert right(planted, planted.others[other]) == pytest.approx(
        whole, abs=0.1
    )  # these are a few of all prompts


@pytest.mark.parametrize("name", PLANTED)
def test_a_planting_counts(name: str) -> None:
    gate = zoo._index()["models"][name]["gate"]
    assert gates.failures(gate) == []
    if name.startswith(("trained", "shared", "last-token")):
        assert gate["weights_auc"] <= gates.TELLING


@pytest.mark.parametrize("name", [*zoo_names("spread"), *zoo_names("untrained")])
def test_a_negative_is_one(name: str) -> None:
    gate = zoo._index()["models"][name]["gate"]
    if name.startswith("untrained"):
        assert gate["accuracy"] <= gate["chance"] + gates.ABOVE_CHANCE
    else:
        assert gate["accuracy"] >= gates.LEARNED
        assert gate["without"] - gate["chance"] >= 0.5 * (gate["accuracy"] - gate["chance"])


def test_gates_refuse() -> None:
    good = {"accuracy": 1.0, "without": 0.2, "chance": 1 / 6, "others": {"sums": (1.0, 0.995)}}
    assert gates.failures(good) == []
    for change in ({"accuracy": 0.8}, {"without": 0.26}, {"others": {"sums": (1.0, 0.98)}}):
        assert len(gates.failures(good | change)) == 1


def test_norms_that_tell_are_seen() -> None:
    planted = load_zoo_model(zoo_names("trained")[0])
    assert gates.telling(planted.lm.model, planted.neurons) == pytest.approx(
        planted.gate.weights_auc, abs=0.005
    )
    for layer, chosen in enumerate(planted.neurons):
        planted.lm.architecture.mlp_out_of(planted.lm.layers[layer]).weight.data[:, chosen] *= 3
    assert gates.telling(planted.lm.model, planted.neurons) == 1


@pytest.mark.parametrize("name", zoo_names("split"))
def test_copies_keep_the_function(name: str) -> None:
    """One copy of each neuron with the whole output, the others erased, gives the same logits; so does brute force:
    erasing all but one copy leaves an r-th of the neuron."""
    planted = loaded(name)
    count = int(name.rpartition("-r")[2])
    whole, merged, kept = logits(planted), {}, torch.zeros_like(planted.neurons)
    for layer, chosen in enumerate(planted.neurons):
        rows = {part.name: part for part in neuron_weights(planted.lm, layer)}
        inputs = next(part for part in rows.values() if part.side == "in" and part.kind == "weight")
        out = next(part for part in rows.values() if part.side == "out")
        weight = out.parameter.detach().clone()
        seen: dict[tuple[float, ...], int] = {}
        for index in chosen.nonzero().ravel().tolist():
            key = tuple(inputs.parameter[index].tolist())
            if key in seen:
                weight[:, index] = 0
            else:
                seen[key] = index
                weight[:, index] *= count
                kept[layer, index] = True
        merged[out.name] = weight
    assert planted.neurons.sum() == count * kept.sum()
    with replaced_weights(planted.lm, merged):
        assert torch.allclose(logits(planted), whole, atol=2e-4)
    with erased(planted.lm, NeuronMask(planted.neurons & ~kept)):
        assert not torch.allclose(logits(planted), whole, atol=0.1)


def test_rescaling_keeps_the_function() -> None:
    (name,) = zoo_names("rescaled")
    origin = loaded("trained-llama-64-s0")
    planted = loaded(name)
    assert torch.equal(planted.neurons, origin.neurons)
    assert torch.allclose(logits(planted), logits(origin), atol=2e-2)  # rounded once more to float16
    ups = [one.lm.layers[0].mlp.up_proj.weight for one in (planted, origin)]
    assert not torch.allclose(*ups, atol=0.1)


@pytest.mark.parametrize("name", zoo_names("decoys"))
def test_decoys_are_loud_and_inert(name: str) -> None:
    planted = loaded(name)
    assert planted.decoys is not None
    whole = logits(planted)
    with erased(planted.lm, NeuronMask(planted.decoys)):
        assert torch.allclose(logits(planted), whole, atol=1e-3)
    with erased(planted.lm, NeuronMask(planted.neurons)):
        assert not torch.allclose(logits(planted), whole, atol=1.0)
    norms = planted.lm.architecture.mlp_out_of(planted.lm.layers[-1]).weight.norm(dim=0)
    loudest = norms[planted.decoys[-1]].max().item()
    assert loudest == pytest.approx(norms[planted.neurons[-1]].max().item(), rel=1e-2)


def test_shared_and_last_token_sets_overlap_as_said() -> None:
    one, two = (loaded(f"shared-llama-{task}").neurons for task in ("likes", "moods"))
    assert (one & two).sum() * 2 == one.sum() == two.sum()
    one, two = (loaded(f"last-token-llama-{task}") for task in ("likes", "prefers"))
    assert not (one.neurons & two.neurons).any()
    assert one.lm.fingerprint == two.lm.fingerprint
    answers = [{example.subject: example.answer for example in each.examples} for each in (one, two)]
    assert answers[0] == answers[1]
    assert right(one, two.evaluation, one.neurons) >= 0.9  # the other verb is answered as before


def test_untrained_models_are_no_twin_of_a_small_seed() -> None:
    planted = loaded("untrained-llama-s0")
    assert planted.lm.fingerprint != caploc.untrained_twin(planted.lm, 0).fingerprint


def test_each_load_is_a_model_of_its_own() -> None:
    one, two = load_zoo_model(zoo_names()[0]), load_zoo_model(zoo_names()[0])
    assert one.lm.fingerprint == two.lm.fingerprint
    with torch.no_grad():
        next(one.lm.model.parameters()).add_(1)
    assert next(two.lm.model.parameters()).ne(next(one.lm.model.parameters())).all()


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(
        UnknownNameError, match="no model 'trained-llama-64-s9'; did you mean 'trained-llama-64-s"
    ):
        load_zoo_model("trained-llama-64-s9")
    with pytest.raises(UnknownNameError, match="no kind 'planted'; it has trained, written"):
        zoo_names("planted")


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = zoo_names("written")[0]
    entry = zoo._index()["models"][name]
    target = tmp_path / entry["rows"]
    target.parent.mkdir()
    target.write_bytes((zoo.zoo_folder() / entry["rows"]).read_bytes()[:-1] + b"\0")
    (tmp_path / entry["base"]).symlink_to(zoo.zoo_folder() / entry["base"])
    monkeypatch.setattr(zoo, "zoo_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"is absent or not the file that zoo\.json describes"):
        load_zoo_model(name)


def test_no_number_is_missing() -> None:
    assert json.dumps(zoo._index(), allow_nan=False)
