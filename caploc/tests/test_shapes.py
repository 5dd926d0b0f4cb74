"""Declared shapes are checked while the library's tests run (conftest.py); without that they are mere comments."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from caploc.errors import OptionError
from caploc.examples import TokenizedExample
from caploc.neurons import NeuronScores, ScoreSums, Threshold, located
from caploc.tests.conftest import SHAPE_CHECKED

pytest.importorskip("beartype", reason="shapes are checked where beartype is: pip install 'caploc[test]'")


@pytest.mark.parametrize("module", SHAPE_CHECKED)
def test_module_is_imported_through_the_hook(module: str) -> None:
    assert type(sys.modules[module].__loader__).__module__.startswith("jaxtyping")


def test_a_parameter_of_wrong_rank_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="values"):
        located(torch.zeros(3), sigma=3.0)


def test_a_parameter_of_wrong_dtype_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="scores"):
        Threshold(3.0).locate(np.zeros((1, 2, 5), dtype=np.int64))


def test_axes_of_one_name_must_agree_within_an_object() -> None:
    values, per_layer = torch.zeros(2, 5), torch.zeros(2)
    NeuronScores(values, per_layer, per_layer, per_layer, count=1)
    with pytest.raises(TypeCheckError, match="completeness"):
        NeuronScores(values, torch.zeros(3), per_layer, per_layer, count=1)


def test_numpy_arrays_are_checked_as_well() -> None:
    with pytest.raises(TypeCheckError, match="total"):
        ScoreSums(np.zeros((2, 5), dtype=np.float32), np.zeros((2, 5)), *np.zeros((3, 2)), count=1)


def test_a_property_is_checked() -> None:
    assert TokenizedExample(torch.arange(4), 2).answer_ids.tolist() == [2, 3]
    with pytest.raises(TypeCheckError, match="input_ids"):
        TokenizedExample(torch.arange(4.0), 2)


def test_other_parameters_are_left_to_the_library() -> None:
    with pytest.raises(OptionError, match="sigma must be a positive number"):
        located(torch.zeros(2, 5), sigma="six")  # type: ignore[arg-type]
