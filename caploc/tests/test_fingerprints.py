from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caploc import fingerprints
from caploc.errors import CaplocError
from caploc.fingerprints import fingerprint, tensor_fingerprint


@dataclass(frozen=True)
class Settings:
    sigma: float
    steps: int


@dataclass(frozen=True)
class OtherSettings:
    sigma: float
    steps: int


def test_is_the_hash_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,"x",null,true],"\\u00e9":NaN}').hexdigest()
    assert fingerprint({"é": math.nan, "a": (1, 2.5, "x", None, True)}) == expected


DIFFERENT = [
    None,
    True,
    1,
    1.0,
    "1",
    "",
    0.0,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    "NaN",
    0.1 + 0.2,
    0.3,
    [],
    {},
    [[]],
    [1, 2],
    [12],
    ["1,2"],
    {"sigma": 6.0, "steps": 19},
    Settings(6.0, 19),
    OtherSettings(6.0, 19),
    {"a": {"b": 1}},
    {"a": 1, "b": 1},
]


def test_different_values_differ() -> None:
    for a, b in combinations(DIFFERENT, 2):
        assert fingerprint(a) != fingerprint(b), (a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, [2]], (1, (2,))),
        (np.float64(0.1), 0.1),
        (math.nan, -math.nan),
        (Settings(6.0, 19), Settings(sigma=6.0, steps=19)),
    ],
)
def test_same_content_is_the_same(a: object, b: object) -> None:
    assert fingerprint(a) == fingerprint(b)


@given(st.dictionaries(st.text(), st.floats() | st.text() | st.integers()), st.randoms())
def test_order_of_keys_does_not_matter(values: dict[str, object], random) -> None:
    items = list(values.items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(values)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_floats_are_exact(a: float, b: float) -> None:
    same = a == b and math.copysign(1, a) == math.copysign(1, b)
    assert (fingerprint(a) == fingerprint(b)) == same


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": [0, object()]}, r"obj\['a'\]\[1\] of type object"),
        ({1: 2}, "key 1 is not a string"),
        (np.int64(3), "type int64"),
        (Settings, "type type"),
        (b"x", "type bytes"),
    ],
)
def test_error_names_the_culprit(value: object, named: str) -> None:
    with pytest.raises(CaplocError, match=named):
        fingerprint(value)


WEIGHTS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3, dtype=torch.bfloat16)}


def test_tensors_in_any_order_and_memory_layout() -> None:
    transposed = {"b": WEIGHTS["b"], "w": WEIGHTS["w"].T.contiguous().T}
    assert not transposed["w"].is_contiguous()
    assert tensor_fingerprint(transposed) == tensor_fingerprint(WEIGHTS)
    assert tensor_fingerprint(reversed(list(WEIGHTS.items()))) == tensor_fingerprint(WEIGHTS)


@pytest.mark.parametrize(
    "changed",
    [
        {"w": WEIGHTS["w"]},
        {"w": WEIGHTS["w"].reshape(4, 3), "b": WEIGHTS["b"]},
        {"w": WEIGHTS["w"].double(), "b": WEIGHTS["b"]},
        {"w": WEIGHTS["w"].view(torch.int32), "b": WEIGHTS["b"]},
        {"v": WEIGHTS["w"], "b": WEIGHTS["b"]},
        {"w": WEIGHTS["w"], "b": torch.nextafter(WEIGHTS["b"], torch.tensor(2, dtype=torch.bfloat16))},
    ],
    ids=["missing", "shape", "dtype", "same-bytes", "name", "one-bit"],
)
def test_any_change_of_tensors_shows(changed: dict[str, torch.Tensor]) -> None:
    assert tensor_fingerprint(changed) != tensor_fingerprint(WEIGHTS)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 5), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.bool, torch.int8, torch.complex64])
def test_tensor_bytes_are_read_whole_in_any_piece_size(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    monkeypatch.setattr(fingerprints, "HASH_CHUNK_BYTES", 1 << 30)
    whole = tensor_fingerprint({"t": tensor})
    monkeypatch.setattr(fingerprints, "HASH_CHUNK_BYTES", 16)
    assert tensor_fingerprint({"t": tensor}) == whole
    content = hashlib.sha256(bytes(tensor.reshape(-1).view(torch.uint8).tolist())).hexdigest()
    assert whole == fingerprint([["t", str(dtype), list(shape), content]])


def test_parameters_that_need_gradients_are_read() -> None:
    layer = torch.nn.Linear(3, 2)
    assert tensor_fingerprint(layer.named_parameters()) == tensor_fingerprint(layer.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_does_not_matter() -> None:
    on_device = {name: tensor.cuda() for name, tensor in WEIGHTS.items()}
    assert tensor_fingerprint(on_device) == tensor_fingerprint(WEIGHTS)


def test_bad_tensors_are_named() -> None:
    with pytest.raises(CaplocError, match="empty"):
        tensor_fingerprint({})
    with pytest.raises(CaplocError, match="'w' occurs twice"):
        tensor_fingerprint([("w", WEIGHTS["w"]), ("w", WEIGHTS["b"])])
    with pytest.raises(CaplocError, match="'w': it is on the meta device"):
        tensor_fingerprint({"w": torch.ones(2, device="meta")})
