"""What decides scores: choices, their errors, and the settings that results are keyed by."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from caploc.attribution.engine import describe, packed_flops
from caploc.attribution.method import PATHS, QUADRATURES, VALUES, Method
from caploc.errors import OptionError
from caploc.tests.attribution.test_exactness import random_example, small_model


def test_settings_of_the_default_name_neither_path_nor_value() -> None:
    """They are part of every store key: results made before there was a choice must stay valid."""
    assert Method().settings == {"quadrature": "paper", "steps": 19}
    assert Method(path="layer", value="post").settings == Method().settings


def test_every_way_to_make_scores_has_settings_of_its_own() -> None:
    ways = [
        Method(quadrature=rule, path=path, value=value)
        for rule, path, value in itertools.product(QUADRATURES, PATHS, VALUES)
        if path == "layer" or rule == "paper"
    ]
    assert len({json.dumps(way.settings, sort_keys=True) for way in ways}) == len(ways) == 10


def test_one_neuron_at_a_time_there_is_no_quadrature() -> None:
    settings = [Method(5, rule, path="neuron").settings for rule in QUADRATURES]
    assert all(found == {"path": "neuron", "quadrature": "exact"} for found in settings)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"path": "head"}, "unknown path 'head'; choose one of layer, neuron"),
        ({"value": "middle"}, "unknown value 'middle'; choose one of post, pre"),
    ],
)
def test_unknown_choices(options: dict[str, str], reason: str) -> None:
    with pytest.raises(OptionError) as caught:
        Method(**options)  # type: ignore[arg-type]
    assert str(caught.value) == reason


def test_the_estimate_counts_a_run_a_neuron_without_gradients() -> None:
    lm, examples = small_model("llama", torch.float32), [random_example(1, 50)]
    twenty, each = (packed_flops(lm, examples, method) for method in (Method(), Method(path="neuron")))
    assert each / twenty == pytest.approx(lm.num_neurons / (2 * 20), rel=0.05)
    assert packed_flops(lm, examples, Method(value="pre")) > twenty
    assert describe(lm, examples, Method(path="neuron"), 100).startswith("attribute llama (")
