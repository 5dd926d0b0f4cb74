"""Results on disk: one file per entry, named by a hash of all it depends on, safe against crash and corruption.

root/v1/ab/abcd....safetensors    an entry: arrays, and JSON in the header; its checksum covers every byte of the file
root/locks/                       one file per entry that is being computed right now (`caploc.store.leases`)
root/damaged/                     what failed its checksum or is no file, set aside for inspection

``python -m caploc.store`` lists, verifies and clears it.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import platform
import re
import stat
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from platformdirs import user_cache_dir
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tqdm import tqdm

from caploc.errors import CaplocError
from caploc.fingerprints import code_hash
from caploc.store import leases

LAYOUT_VERSION = 1

_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_CHECKSUM = "0" * 64
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1 / 64, 1.0

_KEY = re.compile(r"[0-9a-f]{64}")
_OF_THE_ENTRY = frozenset(
    {
        errno.ENOENT,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENXIO,
        errno.ENODEV,
        errno.EIO,
    }
    | {errno.EINVAL, errno.ENAMETOOLONG, errno.EISDIR}
)
"""Why what stands in an entry's place cannot be read, where that is its own fault: links to themselves, to nowhere or
through a file, others' files, sockets, folders, bad blocks. Not what passes, such as too many open files."""
_REMEDIES = {
    "free space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "permit access": (errno.EACCES, errno.EPERM, errno.EROFS),
    "remove what stands in its place": (
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENOTEMPTY,
    ),
    "close files or raise the limit (ulimit -n)": (errno.EMFILE, errno.ENFILE),
}

Compute = Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]


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


@dataclass(frozen=True)
class StoreSummary:
    """What lies in a store: number and size of its entries, and how many damaged files were set aside."""

    root: Path
    entries: int
    bytes: int
    damaged: int


class Store:
    """A directory of results that any number of threads and processes may share.

    `root` None means the environment variable CAPLOC_STORE, or else the user's cache directory. Nothing is created
    before the first write. A store holds nothing but its path, so it may be pickled and copied freely.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        directory = root or os.environ.get("CAPLOC_STORE") or user_cache_dir("caploc", appauthor=False)
        self.root = Path(directory).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def path(self, key: str) -> Path:
        """Where the entry of `key` lies or would lie. Raises `StoreError` if `key` is no fingerprint."""
        if not _KEY.fullmatch(key):
            raise StoreError(
                f"store key {key!r} is not 64 hex digits: make it with caploc.fingerprints.fingerprint"
            )
        return self.root / f"v{LAYOUT_VERSION}" / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, its checksum verified, or None if it is missing or was damaged.

        A truncated, altered, foreign or unreadable file, a link that leads nowhere and whatever else is no file are
        moved to `root/damaged`, with a `StoreWarning` that names them.
        """
        try:
            content = self._read(key)
            return None if content is None else decode(key, content)
        except DamagedError:
            return self._set_aside(key)

    def put(
        self, key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], title: str = ""
    ) -> Entry:
        """Store `arrays` and `meta` under `key`, replacing what was there, and return what `get` will give.

        `title` says what it is to whoever lists the store; no result depends on it.

        The file appears whole or not at all: it is written beside its place, flushed to the disk and renamed.
        Waits while another process or thread holds the key's lock.
        Arrays may be bool, integer, float16/32/64 or complex64; their bits are kept, NaN payloads included.
        Raises `StoreError` for other arrays, for metadata that is not JSON (NaN is not), and for a directory that
        is full or cannot be written.
        """
        content = encode(key, arrays, meta, title)
        with self.lock(key):
            self._write(key, content)
        return _entry(key, content)

    def content(self, key: str) -> bytes | None:
        """What the file of a sound entry holds, to be taken by another store (`take`); None as `get`."""
        return self._read(key) if self.get(key) is not None else None

    def take(self, key: str, content: bytes) -> None:
        """Store what `encode` made elsewhere, unless the entry is there. Raises `DamagedError` for anything else."""
        decode(key, content)
        with self.lock(key):
            if not self.has(key):
                self._write(key, content)

    @contextmanager
    def lock(self, key: str, blocking: bool = True) -> Iterator[leases.Lease | None]:
        """Hold the lock of `key`: `with store.lock(key, blocking=False) as held: ...`.

        `held` is None only where `blocking` is False and another process or thread has the lock. It may be taken again
        by the thread that holds it. That of a process that died is free: at once on its own machine, elsewhere after
        `caploc.store.leases.EXPIRY_SECONDS`.

        Raises `StoreError` where the file system cannot keep two processes apart, and where another version of this
        package holds the lock: two of them must not fill one store between them.
        """
        entry, folder = self.path(key), self.root / "locks"
        pause = SHORTEST_WAIT_SECONDS
        while True:
            with self._explained("write"):
                folder.mkdir(parents=True, exist_ok=True)
                if not leases.excludes(folder):
                    raise StoreError(
                        f"the file system of the store {self.root} lets two processes make one file, so they cannot "
                        "share it: choose a directory on another one with --store DIR, or use --engine ray, whose "
                        "workers need no shared store"
                    )
                found = leases.acquire(folder, key)
            if isinstance(found, leases.Lease):
                break
            if found is not None and found.code != code_hash():
                raise StoreError(
                    f"{found.shown} computes into the store {self.root} with another version of caploc's code than "
                    "this run's: wait for it, update one of them, or choose another directory with --store DIR"
                )
            if not blocking:
                yield None
                return
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT_SECONDS)
        try:
            yield found
        finally:
            leases.release(found, folder, key, finished=os.path.lexists(entry))

    def has(self, key: str) -> bool:
        """Whether something lies where the entry of `key` should; only `get` tells whether it is sound."""
        return os.path.lexists(self.path(key))  # a broken link is a damaged entry, no missing one

    def compute_all(
        self,
        tasks: Mapping[str, Compute] | Iterable[tuple[str, Compute]],
        progress: str | None = None,
        each: Callable[[str, bool], None] = lambda key, here: None,
        begin: Callable[[str], None] = lambda key: None,
        title: Callable[[str], str] = lambda key: "",
    ) -> Iterator[Entry]:
        """Compute what is missing of `tasks` (key -> function), then iterate over all entries in the order given.

        A function takes nothing and returns (arrays, meta), as `put` takes them. Everything is computed and stored
        before this returns; only reading is lazy, so one entry at a time is in memory. Processes that run the same
        tasks share the work: each takes what no other is computing, and waits only when nothing else is left. No
        entry is computed twice, unless it is found damaged or gone when it is read; that of a process that died is
        taken over by another. `progress` is the title of a progress bar, shown on terminals; `begin` is told of every
        entry whose computing begins here; `each` of every entry that was missing, once it is there, and whether it
        was computed here; `title` says what an entry is, as in `put`.

        An exception of a function passes through; what was finished before it stays.
        """
        pairs = list(tasks.items() if isinstance(tasks, Mapping) else tasks)
        waiting = {key: compute for key, compute in dict(pairs).items() if not self.has(key)}
        with tqdm(total=len(waiting), desc=progress, unit="entry", disable=None if progress else True) as bar:
            for key, here in self._shared_out(waiting, begin, title):
                bar.update()
                each(key, here)
        return (self.get(key) or self._again(key, compute, title) for key, compute in pairs)

    def _shared_out(
        self, waiting: Mapping[str, Compute], begin: Callable[[str], None], title: Callable[[str], str]
    ) -> Iterator[tuple[str, bool]]:
        """Each key once its entry is there, and whether it was computed here rather than by another process."""
        pause = SHORTEST_WAIT_SECONDS
        while waiting:
            busy = {}
            for key, compute in waiting.items():
                with self.lock(key, blocking=False) as held:
                    if held is None:
                        busy[key] = compute
                        continue
                    # between the look and the lock another process may have finished it
                    here = not self.has(key)
                    if here:
                        begin(key)
                        content = encode(key, *compute(), title(key))
                        if (other := held.lost_to()) is not None:
                            self._tell_of(other, key, content)
                        if not self.has(key):
                            self._write(key, content)
                yield key, here
            if len(busy) < len(waiting):
                pause = SHORTEST_WAIT_SECONDS
            else:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_WAIT_SECONDS)
            waiting = busy

    def _tell_of(self, other: str, key: str, content: bytes) -> None:
        """Warns that an entry was computed twice, and whether both came out alike; the first one written stays."""
        there, mine = self.get(key), decode(key, content)
        alike = (
            "" if there is None or same(there, mine) else ", and came out differently: compare their machines"
        )
        warnings.warn(
            f"store entry {key} was computed here and by {other}{alike}; each took the other for dead, as a machine "
            f"that sleeps is, or the file system of {self.root} does not keep them apart (then use --engine ray)",
            StoreWarning,
            stacklevel=2,
        )

    def _again(self, key: str, compute: Compute, title: Callable[[str], str]) -> Entry:
        """An entry that was damaged or removed since it was computed, computed once more."""
        while (entry := self.get(key)) is None:
            for _ in self._shared_out({key: compute}, lambda key: None, title):
                pass
        return entry

    def kept(self) -> list[str]:
        """The keys of all that lies in entries' places, sound or not, in order."""
        with self._explained("read"):
            names = [path.stem for path in self.root.glob(f"v{LAYOUT_VERSION}/*/*.safetensors")]
        return sorted(name for name in names if _KEY.fullmatch(name) and self.has(name))

    def damage(self, key: str) -> str | None:
        """Why the entry of `key` is damaged, None where it is sound or missing; nothing is moved."""
        try:
            content = self._read(key)
            if content is not None:
                decode(key, content)
        except DamagedError as damage:
            return str(damage)
        return None

    def describe(self) -> StoreSummary:
        """Count the entries and their bytes. Raises `StoreError` if the directory cannot be read."""
        with self._explained("read"):
            sizes = [self.path(key).lstat().st_size for key in self.kept()]
            damaged = sum(1 for _ in self.root.glob("damaged/*"))
        return StoreSummary(self.root, len(sizes), sum(sizes), damaged)

    def _read(self, key: str) -> bytes | None:
        """What the entry's file holds, None where there is none. Raises `DamagedError` for what is no readable file."""
        path = self.path(key)
        with self._explained("read"):
            try:
                # a pipe would be waited for
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        raise DamagedError("it is no file")
                    return file.read()
            except OSError as error:
                if error.errno in _OF_THE_ENTRY and os.path.lexists(path):
                    raise DamagedError(f"it cannot be read: {error.strerror}") from error
                if error.errno == errno.ENOENT:
                    return None
                raise

    def _write(self, key: str, content: bytes) -> None:
        """Write under the key's lock: no other writer on this host then uses this host's temporary name."""
        path = self.path(key)
        temporary = path.with_name(f".{key}.{host_name()}.tmp")
        with self._explained("write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.unlink(missing_ok=True)  # that of a process that was killed
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise

    def _set_aside(self, key: str) -> Entry | None:
        """Move what is damaged out of the way, unless another process just repaired it or is about to."""
        with self.lock(key, blocking=False) as held:
            if held is None:
                return None
            reason = self.damage(key)
            if reason is None:
                return self.get(key)
            with self._explained("write"):
                directory = self.root / "damaged"
                directory.mkdir(exist_ok=True)
                names = (directory / f"{key}.{number}.safetensors" for number in itertools.count())
                aside = next(name for name in names if not os.path.lexists(name))
                self.path(key).rename(aside)
        warnings.warn(
            f"store entry {self.path(key)} is damaged ({reason}): moved to {aside}, to be computed again",
            StoreWarning,
            stacklevel=3,
        )
        return None

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = next((text for text, causes in _REMEDIES.items() if error.errno in causes), "look there")
            where = "" if error.filename is None else f": {error.filename}"
            raise StoreError(
                f"cannot {action} the store {self.root} ({error.strerror or error}{where}): {remedy}, "
                "or choose another directory with --store DIR"
            ) from error


def same(one: Entry, other: Entry) -> bool:
    """Whether two entries hold the same, bit for bit."""
    bits = [
        [(name, array.dtype, array.shape, array.tobytes()) for name, array in entry.arrays.items()]
        for entry in (one, other)
    ]
    return bits[0] == bits[1] and one.meta == other.meta


def host_name() -> str:
    """This machine's part of a temporary name: several may share a store."""
    return re.sub(r"[^\w-]", "_", platform.node())[:64]


def encode(key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], title: str = "") -> bytes:
    """The entry as a valid safetensors file whose header holds the sha256 of the file with that field zeroed."""
    plain = {name: _plain(key, name, array) for name, array in arrays.items()}
    document = {"layout": LAYOUT_VERSION, "key": key, "arrays": list(plain), "meta": dict(meta)}
    try:
        title = title.encode("ascii", "backslashreplace").decode()
        header = {"caploc": json.dumps(document, allow_nan=False), "sha256": _NO_CHECKSUM, "title": title}
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
    return _entry(key, content)


def _entry(key: str, content: bytes) -> Entry:
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
