"""Content hashes: the same content gives the same key on every machine, different content never shares one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caploc.errors import CaplocError, DatasetError

if TYPE_CHECKING:
    import torch

HASH_CHUNK_BYTES = 1 << 24


def fingerprint(obj: object) -> str:
    """The sha256 of `obj` in a canonical form, as 64 hexadecimal digits.

    `obj` may be nested from None, bool, int, float, str, list, tuple, dict with string keys, and dataclass
    instances. Dictionaries are sorted by key. A list equals a tuple; a dataclass is told from a dictionary, and
    from another class with the same fields, by its class name. 1, 1.0 and True are three different values (so
    normalize an option, `float(sigma)`, before hashing it), as are 0.0 and -0.0; every NaN is the same value.
    Floats are written by `repr`, hence exactly.

    Raises `CaplocError` for any other type, naming where in `obj` it stands.
    """
    return hashlib.sha256(_canonical(obj, "obj").encode()).hexdigest()


_PLAIN = (type(None), bool, int, float, str)


def _canonical(obj: object, place: str) -> str:
    if isinstance(obj, _PLAIN):
        # json writes the built-in form of subclasses such as np.float64 or StrEnum too
        return json.dumps(obj)
    if isinstance(obj, list | tuple):
        if {*map(type, obj)} == {int}:  # tokens and places of neurons: as below, without a call for each
            return f"[{','.join(map(str, obj))}]"
        return "[" + ",".join(_canonical(item, f"{place}[{i}]") for i, item in enumerate(obj)) + "]"
    if isinstance(obj, Mapping):
        return _canonical_mapping(obj, place)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
        return type(obj).__qualname__ + _canonical_mapping(fields, place)
    raise CaplocError(
        f"cannot fingerprint {place} of type {type(obj).__name__}: convert it to str, int, float, bool, None, "
        "list, dict or a dataclass first"
    )


def _canonical_mapping(obj: Mapping[Any, object], place: str) -> str:
    names = [key for key in obj if isinstance(key, str)]
    if len(names) != len(obj):
        culprit = next(key for key in obj if not isinstance(key, str))
        raise CaplocError(
            f"cannot fingerprint {place}: its key {culprit!r} is not a string; convert it first"
        )
    values = (
        json.dumps(obj[name])
        if isinstance(obj[name], _PLAIN)
        else _canonical(obj[name], f"{place}[{name!r}]")
        for name in sorted(names)
    )
    items = (f"{json.dumps(name)}:{value}" for name, value in zip(sorted(names), values, strict=True))
    return "{" + ",".join(items) + "}"


def tensor_fingerprint(named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str:
    """The sha256 over the names, dtypes, shapes and bytes of a model's tensors, e.g. its `state_dict()`.

    Independent of their order, of their device and of whether they are contiguous; the dtype counts, so bf16 and
    float32 copies of a model differ. Tensors are read in pieces of 16 MiB (a tensor that is not contiguous is
    copied once), several at a time, since hashing frees the interpreter lock.

    Raises `CaplocError` if there is no tensor, if a name occurs twice, or if a tensor has no data (meta device).
    """
    pairs = sorted(
        named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors,
        key=lambda pair: pair[0],
    )
    names = [name for name, _ in pairs]
    if not names:
        raise CaplocError("cannot fingerprint an empty set of tensors: load the model first")
    for name, following in pairwise(names):
        if name == following:
            raise CaplocError(f"cannot fingerprint tensors: the name {name!r} occurs twice")
    for name, tensor in pairs:
        if tensor.is_meta:
            raise CaplocError(
                f"cannot fingerprint tensor {name!r}: it is on the meta device; load its weights first"
            )
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        contents = list(pool.map(_hash_bytes, (tensor for _, tensor in pairs)))
    return fingerprint(
        [
            [name, str(tensor.dtype), list(tensor.shape), content]
            for (name, tensor), content in zip(pairs, contents, strict=True)
        ]
    )


def _hash_bytes(tensor: torch.Tensor) -> str:
    import torch  # here, as most of what is hashed is no tensor

    digest = hashlib.sha256()
    flat = tensor.detach().reshape(-1)
    for piece in flat.split(max(1, HASH_CHUNK_BYTES // flat.element_size())):
        digest.update(memoryview(piece.cpu().view(torch.uint8).numpy()))
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- files of a run

_pinned: dict[Path, str] = {}


def file_hash(path: Path) -> str:
    """The sha256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hashes(files: Iterable[Path]) -> dict[str, str]:
    """Path -> sha256, for `pinned`. What cannot be read is left to whoever reads it."""
    found = {}
    for file in files:
        with suppress(OSError):
            found[str(file.resolve())] = file_hash(file)
    return found


_PACKAGE = Path(__file__).parent
NO_PART = {"benchmarks", "tests"}
"""Folders of this package whose code no number follows from."""


@cache
def code_hash() -> str:
    """Of this package's own code, as it was when first asked for."""
    files = sorted(_PACKAGE.rglob("*.py"))
    parts = {path.relative_to(_PACKAGE).as_posix(): path for path in files}
    return fingerprint(
        {name: file_hash(path) for name, path in parts.items() if name.partition("/")[0] not in NO_PART}
    )


@contextmanager
def pinned(hashes: Mapping[str, str]) -> Iterator[None]:
    """Within, whoever reads a file of ``hashes`` (path -> sha256) refuses another content: several processes, or
    several readings of one, would speak of different data by one name."""
    before = dict(_pinned)
    _pinned.update({Path(path): known for path, known in hashes.items()})
    try:
        yield
    finally:
        _pinned.clear()
        _pinned.update(before)


def read_pinned(path: Path) -> bytes:
    """The content of a data file. Raises `DatasetError`: it cannot be read, or is `pinned` to another content."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the path"
        ) from error
    known = _pinned.get(path.resolve()) if _pinned else None
    if known is not None and hashlib.sha256(content).hexdigest() != known:
        raise DatasetError(
            f"{path}: its content has changed since this run began; start again when nothing writes to it any more"
        )
    return content
