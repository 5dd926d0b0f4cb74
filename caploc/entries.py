"""The file format of a stored result: safetensors, with JSON and a checksum of the whole file in its header."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from caploc.errors import CaplocError

LAYOUT_VERSION = 1

_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_CHECKSUM = "0" * 64


class StoreError(CaplocError):
    """The store's directory cannot be used, or an entry cannot be stored."""


class StoreWarning(UserWarning):
    """A damaged file was set aside."""


class Entry(NamedTuple):
    """One stored result: named arrays, and metadata as JSON gives it back (tuples become lists)."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class DamagedError(Exception):
    """Why the bytes are not the entry they should be."""


def encode(key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The entry as a valid safetensors file whose header holds the sha256 of the file with that field zeroed."""
    plain = {name: _plain(key, name, array) for name, array in arrays.items()}
    document = {"layout": LAYOUT_VERSION, "key": key, "arrays": list(plain), "meta": dict(meta)}
    try:
        header = {"caploc": json.dumps(document, allow_nan=False), "sha256": _NO_CHECKSUM}
        content = bytearray(save(plain, metadata=header))
    except (TypeError, ValueError, SafetensorError) as error:
        raise StoreError(
            f"cannot store entry {key}: {error}; arrays may be bool, integer, float or complex64, metadata must be "
            "JSON (no NaN, no numpy scalars)"
        ) from error
    position = _checksum_position(content)
    content[position : position + 64] = hashlib.sha256(content).hexdigest().encode()
    return bytes(content)


def _plain(key: str, name: str, array: np.ndarray) -> np.ndarray:
    if name == "__metadata__":
        raise StoreError(
            f"cannot store entry {key}: the array name '__metadata__' is reserved; choose another"
        )
    # safetensors writes memory as it lies: C order, little-endian
    array = np.asarray(array, order="C")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def decode(key: str, content: bytes) -> Entry:
    """The entry of `key` from a file's bytes. Raises `DamagedError` unless they are what `encode` made."""
    position = _checksum_position(content)
    view = memoryview(content)
    digest = hashlib.sha256(view[:position])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(view[position + 64 :])
    if digest.hexdigest().encode() != view[position : position + 64]:
        raise DamagedError("its checksum does not match")
    header_bytes = int.from_bytes(content[:8], "little")
    try:
        document = json.loads(json.loads(content[8 : 8 + header_bytes])["__metadata__"]["caploc"])
        written = (document["layout"], document["key"])
        loaded = load(content)
        entry = Entry({name: loaded[name] for name in document["arrays"]}, document["meta"])
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedError("it was not written by caploc") from error
    if written != (LAYOUT_VERSION, key):
        raise DamagedError(f"it holds the entry {written[1]} of layout {written[0]}")
    return entry


def _checksum_position(content: bytes | bytearray) -> int:
    # no array name or metadata can mimic the field: their quotation marks are escaped in the header
    header_end = 8 + int.from_bytes(content[:8], "little")
    match = _CHECKSUM.search(content, 8, min(header_end, len(content)))
    if match is None:
        raise DamagedError("it has no checksum")
    return match.start(1)
