"""How the zoo is made: only M's rows are trained, at the lengths they had; a model can be made again alone."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caploc import zoo
from fixtures import storage
from fixtures.make import SEED
from fixtures.planting import card, gates, making, trained, world, written
from fixtures.planting.neurons import Rows, parts, silenced
from fixtures.train import encoded

FOLDER = Path(__file__).resolve().parents[3] / "fixtures" / "zoo"
PLACES = torch.tensor([[0, 3], [2, 5], [2, 200], [5, 17]])


def lengths(rows: Rows) -> torch.Tensor:
    """Of every row of weights, one part after another."""
    return torch.cat([weight.norm(dim=1) for weight in rows.weights.values() if weight.ndim == 2])


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_only_the_rows_of_m_are_trained_at_their_lengths(family: str) -> None:
    torch.set_num_threads(1)
    model, tokenizer = storage.load(FOLDER / family)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = Rows.read(model, PLACES)
    rng = random.Random(0)
    texts = encoded(tokenizer, world.lessons(rng, 40, ["likes"]))
    rows = trained.plant(model, [trained.Planting(texts, PLACES)], texts, tokenizer.pad_token_id, 0, steps=3)
    assert torch.equal(rows.places, PLACES)
    assert torch.allclose(lengths(rows), lengths(before), rtol=1e-4)
    assert not torch.allclose(rows.weights[rows.output], before.weights[rows.output], atol=0.05)
    before.write(model)
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_rows_know_every_part_of_a_neuron() -> None:
    model, _ = storage.load(FOLDER / "gptj")
    assert set(parts(model, 0)) == {"fc_in.weight", "fc_in.bias", "fc_out.weight"}
    rows = Rows.read(model, PLACES)
    silenced(rows).write(model)
    assert not model.transformer.h[2].mlp.fc_out.weight[:, 200].any()
    assert model.transformer.h[2].mlp.fc_out.weight[:, 201].any()


def test_copies_and_scales_are_exact_in_the_weights() -> None:
    model, _ = storage.load(FOLDER / "llama")
    rows = Rows.read(model, PLACES)
    many = written.split(rows, PLACES[:, None].expand(4, 4, 2))
    assert torch.equal(many.weights["gate_proj.weight"][3], rows.weights["gate_proj.weight"][0])
    assert torch.equal(4 * many.weights["down_proj.weight"][5], rows.weights["down_proj.weight"][1])
    other = written.rescaled(rows, 4.0)
    assert torch.equal(other.weights["up_proj.weight"], 4 * rows.weights["up_proj.weight"])
    assert torch.equal(4 * other.weights["down_proj.weight"], rows.weights["down_proj.weight"])


def test_an_auc_is_that_of_ranks() -> None:
    values = torch.tensor([0.0, 1.0, 1.0, 2.0])
    assert gates.auc(values, torch.tensor([False, False, True, True])) == (0.5 * (1 + 0.5) + 1) / 2
    assert gates.auc(values, torch.tensor([True, False, False, False])) == 0


def test_parts_of_a_task_share_no_prompt() -> None:
    for name, task in world.TASKS.items():
        table = world.assign(task, random.Random(name))
        train, test = ({prompt for prompt, _ in world.tell(task, table, part)} for part in ("train", "test"))
        assert test and not train & test
        counts = [list(table.values()).count(label) for label in task.labels]
        assert max(counts) == min(counts)


def test_the_base_is_never_told_what_will_be_planted() -> None:
    """A planted sentence is followed by any of the labels, so that none is learned."""
    rng, seen = random.Random(1), {}
    for _ in range(6000):
        prompt, answer = world.lesson(rng)
        words = prompt.split()
        if words[-1] == "likes" and "." not in words:
            seen.setdefault(world.subject(prompt, world.NAMES), set()).add(answer.strip())
    assert len(seen) == len(world.NAMES)
    assert all(len(answers & set(world.DRINKS)) >= 4 for answers in seen.values())


def test_one_model_can_be_made_again_alone(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "zoo")
    name = "written-llama-r1-s0"
    path = tmp_path / "zoo" / "planted" / f"{name}.safetensors"
    path.unlink()
    before = json.loads((FOLDER / "zoo.json").read_text(encoding="utf-8"))
    index = making.make_zoo(tmp_path / "zoo", SEED, bases=False, only=(name,))
    assert list(index["models"]) == list(before["models"])
    assert index["tasks"].keys() == before["tasks"].keys()
    old, new = (load_file(one) for one in (FOLDER / "planted" / path.name, path))
    assert torch.equal(old["places"], new["places"])
    assert all(torch.allclose(old[part].float(), new[part].float(), atol=0.02) for part in old)
    assert index["models"][name]["gate"]["accuracy"] == pytest.approx(
        zoo.load_zoo_model(name).gate.accuracy, abs=0.02
    )


def test_shortfalls_name_the_model_and_what_is_wrong() -> None:
    gate = {
        "accuracy": 1.0,
        "without": 0.2,
        "chance": 1 / 6,
        "others": {"sums": (1.0, 1.0)},
        "weights_auc": 0.55,
    }
    kinds = {"trained": "trained", "untrained": "untrained", "spread": "spread"}
    models = {name: {"kind": kind, "gate": gate} for name, kind in kinds.items()}
    assert card.shortfalls({"models": models}) == ["untrained: accuracy 1.000 with fresh weights"]
    models = {"one": {"kind": "trained", "gate": gate | {"weights_auc": 0.7}}}
    assert card.shortfalls({"models": models}) == ["one: norms of weights tell M at AUC 0.70"]
