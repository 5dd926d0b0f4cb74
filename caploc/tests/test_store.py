from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import safe_open

from caploc.errors import CaplocError
from caploc.fingerprints import fingerprint
from caploc.store import DamagedError, Store, StoreError, StoreWarning, decode, encode, host_name, same

KEY = fingerprint("an entry")
ARRAYS = {"sum": np.array([[1.5, np.nan], [np.inf, -0.0]]), "count": np.array(3)}
META = {"claim": "D1", "seeds": [0, 1], "nested": {"x": 0.1, "none": None}}

dtypes = st.sampled_from(["bool", "u1", "i2", "<i4", ">i8", "<f2", "<f4", ">f4", "<f8", "<c8"]).map(np.dtype)
arrays = dtypes.flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0, max_side=4))
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "__metadata__")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def files(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


def test_an_entry_is_read_and_hashed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is written, and when it is read; of a large one that is what takes the time."""
    large, hashed, read = {"sum": np.zeros(100_000)}, list[int](), list[str]()
    sha256, own = hashlib.sha256, Store._read

    class Counted:
        def __init__(self, content: bytes = b"") -> None:
            self._hash = sha256(content)
            hashed.append(len(content))

        def update(self, content: bytes) -> None:
            self._hash.update(content)
            hashed.append(len(content))

        def hexdigest(self) -> str:
            return self._hash.hexdigest()

    monkeypatch.setattr("caploc.store.hashlib.sha256", Counted)
    monkeypatch.setattr(Store, "_read", lambda self, key: read.append(key) or own(self, key))
    written = store.put(KEY, large, META)
    assert len([size for size in hashed if size > 100_000]) == 1 and not read
    hashed.clear()
    (found,) = store.compute_all({KEY: lambda: (large, META)})
    assert len([size for size in hashed if size > 100_000]) == 1 and read == [KEY]
    assert same(found, written)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, arrays, max_size=3), st.dictionaries(st.text(), json_values, max_size=3))
def test_round_trip_is_exact(store: Store, arrays: dict[str, np.ndarray], meta: dict[str, object]) -> None:
    key = fingerprint(["round trip", random.random()])
    written = store.put(key, arrays, meta)
    read = Store(store.root).get(key)
    assert read is not None
    assert same(read, written)
    assert list(read.arrays) == list(arrays)
    assert read.meta == meta
    for name, array in arrays.items():
        little = array.astype(array.dtype.newbyteorder("<"))
        assert read.arrays[name].dtype == little.dtype
        assert read.arrays[name].shape == array.shape
        assert read.arrays[name].tobytes() == little.tobytes()


def test_nan_payloads_and_strided_views_keep_their_bits(store: Store) -> None:
    payload = np.array([0x7FF8000000000123, 0xFFF0000000000000], dtype="u8").view("f8")
    table = np.arange(24.0).reshape(4, 6)
    entry = store.put(KEY, {"payload": payload, "view": table[::2, ::-3]}, {})
    assert entry.arrays["payload"].tobytes() == payload.tobytes()
    np.testing.assert_array_equal(entry.arrays["view"], table[::2, ::-3])


def test_an_entry_is_one_valid_safetensors_file(store: Store) -> None:
    assert store.get(KEY) is None
    assert not store.root.exists(), "reading must not create the directory"
    store.put(KEY, ARRAYS, META)
    assert files(store) == {f"v1/{KEY[:2]}/{KEY}.safetensors"}, "no lock and no temporary file may stay"
    with safe_open(store.path(KEY), framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("sum"), ARRAYS["sum"])
    summary = store.describe()
    assert (summary.entries, summary.bytes, summary.damaged) == (1, store.path(KEY).stat().st_size, 0)


def test_every_single_byte_is_covered_by_the_checksum() -> None:
    content = encode(KEY, ARRAYS, META)
    rng = random.Random(0)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        with pytest.raises(DamagedError):
            decode(KEY, bytes(flipped))
        with pytest.raises(DamagedError):
            decode(KEY, content[:position])
    with pytest.raises(DamagedError):
        decode(KEY, content + b"\0")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign", "misplaced", "directory"])
def test_damaged_file_is_set_aside_and_computed_again(store: Store, damage: str) -> None:
    whole = store.put(KEY, ARRAYS, META)
    path = store.path(KEY)
    content = bytearray(path.read_bytes())
    rng = random.Random(damage)
    if damage == "flip":
        content[rng.randrange(len(content))] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: rng.randrange(1, len(content))])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(rng.randbytes(500))
    elif damage == "misplaced":
        path.write_bytes(encode(fingerprint("another entry"), ARRAYS, META))
    else:
        path.unlink()
        path.mkdir()
    with pytest.warns(StoreWarning, match=f"{KEY}.safetensors is damaged .*damaged/{KEY}.0"):
        (entry,) = store.compute_all({KEY: lambda: (ARRAYS, META)})
    assert same(entry, whole)
    assert (store.root / "damaged" / f"{KEY}.0.safetensors").exists()
    assert store.describe().damaged == 1
    path.write_bytes(b"again")
    with pytest.warns(StoreWarning, match=f"damaged/{KEY}.1"):
        assert store.get(KEY) is None


def others_file(path: Path) -> None:
    path.touch()
    path.chmod(0)


def linked(path: Path, to: str) -> None:
    path.symlink_to(path.parent / to)


def full_folder(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "a link to itself": lambda path: linked(path, path.name),
    "a link to nowhere": lambda path: linked(path, "nowhere"),
    "a link through a file": lambda path: linked(path, ".a-file/x"),
    "a link to a folder": lambda path: linked(path, ".."),
    "a link with too long a name": lambda path: path.symlink_to("x" * 300),
    "a folder": Path.mkdir,
    "a folder with something in it": full_folder,
    "a pipe": os.mkfifo,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "another's file": others_file,
    "an empty file": Path.touch,
    "a shorter file": lambda path: path.write_bytes(encode(KEY, ARRAYS, META)[:-1]) and None,
    "a longer file": lambda path: path.write_bytes(encode(KEY, ARRAYS, META) + b"x") and None,
}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(NO_FILES)), min_size=1, max_size=3))
def test_whatever_stands_in_an_entrys_place_is_set_aside(
    store: Store, monkeypatch: pytest.MonkeyPatch, kinds: list[str]
) -> None:
    key = fingerprint(
        ["in place of", time.monotonic_ns()]
    )  # hypothesis makes random numbers the same each time
    opened = os.open

    def as_a_user(path: object, *more: object) -> int:  # the superuser may read anything
        if isinstance(path, Path) and os.path.lexists(path) and not stat.S_IMODE(os.lstat(path).st_mode):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *more)

    path = store.path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / ".a-file").touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", as_a_user)
        for number, kind in enumerate(kinds):
            path.unlink(missing_ok=True)
            NO_FILES[kind](path)
            assert store.has(key) and key in store.kept() and store.damage(key)
            with pytest.warns(StoreWarning, match=f"{key}.safetensors is damaged .*damaged/{key}.{number}.s"):
                (entry,) = store.compute_all({key: lambda: (ARRAYS, META)})
            assert same(entry, decode(key, encode(key, ARRAYS, META)))
            assert store.damage(key) is None and path.is_file() and not path.is_symlink()
            assert os.path.lexists(store.root / "damaged" / f"{key}.{number}.safetensors")


def test_a_link_to_a_sound_file_is_an_entry(store: Store) -> None:
    whole = store.put(KEY, ARRAYS, META)
    store.path(KEY).rename(store.root / "elsewhere")
    store.path(KEY).symlink_to(store.root / "elsewhere")
    (entry,) = store.compute_all({KEY: lambda: pytest.fail("it is there")})
    assert same(entry, whole)


def test_what_passes_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, ARRAYS, META)

    def exhausted(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", exhausted)
        with pytest.raises(StoreError, match=r"Too many open files.*ulimit"):
            store.get(KEY)
    assert store.describe().damaged == 0 and store.get(KEY) is not None


def test_what_a_killed_process_left_is_replaced_and_what_cannot_be_is_named(store: Store) -> None:
    store.path(KEY).parent.mkdir(parents=True)
    temporary = store.path(KEY).with_name(f".{KEY}.{host_name()}.tmp")
    os.mkfifo(temporary)
    store.put(KEY, ARRAYS, META)
    temporary.mkdir()
    with pytest.raises(StoreError, match=f"{temporary.name}.*remove what stands in its place"):
        store.put(KEY, ARRAYS, META)


def test_damage_is_left_alone_while_another_thread_repairs_it(store: Store) -> None:
    store.put(KEY, ARRAYS, META)
    store.path(KEY).write_bytes(b"broken")
    with HeldElsewhere(store, KEY):
        assert store.get(KEY) is None
        assert store.describe().damaged == 0


def test_only_what_is_missing_is_computed(store: Store) -> None:
    keys = [fingerprint(i) for i in range(6)]
    for i in (1, 4):
        store.put(keys[i], {"i": np.array(i)}, {})
    computed = []

    def task(i: int):
        return keys[i], lambda: (computed.append(i), ({"i": np.array(i)}, {}))[1]

    order = [5, 1, 0, 4, 2, 3, 5, 1]
    entries = store.compute_all([task(i) for i in order])
    assert computed == [5, 0, 2, 3], "everything is computed before the first entry is read"
    assert [int(entry.arrays["i"]) for entry in entries] == order
    assert list(store.compute_all([task(i) for i in order])) and len(computed) == 4


def test_what_another_process_finished_just_before_the_lock_is_not_computed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Store.lock

    def lock_late(self: Store, key: str, blocking: bool = True):
        monkeypatch.setattr(Store, "lock", lock)
        self.put(key, ARRAYS, {"by": "the other"})
        return self.lock(key, blocking)

    monkeypatch.setattr(Store, "lock", lock_late)
    (entry,) = store.compute_all({KEY: lambda: (ARRAYS, {"by": "this"})})
    assert entry.meta == {"by": "the other"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_interruption_keeps_what_was_finished(store: Store, error: type[BaseException]) -> None:
    keys = [fingerprint(i) for i in range(3)]

    def fail():
        raise error

    def done():
        return ARRAYS, META

    with pytest.raises(error):
        store.compute_all([(keys[0], done), (keys[1], fail), (keys[2], done)])
    assert [store.get(key) is not None for key in keys] == [True, False, False]
    assert len(list(store.compute_all(dict.fromkeys(keys, done)))) == 3
    assert store.describe().entries == 3


class HeldElsewhere:
    """Another thread holds the lock of a key meanwhile."""

    def __init__(self, store: Store, key: str) -> None:
        self.taken, self.let_go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.hold, args=(store, key))

    def hold(self, store: Store, key: str) -> None:
        with store.lock(key):
            self.taken.set()
            self.let_go.wait(30)

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.taken.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self.thread.join()


def test_lock_excludes_other_threads_and_admits_its_own(store: Store) -> None:
    with HeldElsewhere(store, KEY), store.lock(KEY, blocking=False) as held:
        assert not held
    with store.lock(KEY, blocking=False) as held:
        assert held
        with Store(store.root).lock(KEY) as held_again:
            assert held_again
        store.put(KEY, ARRAYS, META)
        assert (store.root / "locks" / f"{KEY}.lock").exists(), (
            "an inner release must not free the outer lock"
        )
    assert not any((store.root / "locks").iterdir())


def test_key_must_be_a_fingerprint(store: Store) -> None:
    for key in ("", "../../etc/passwd", "a" * 63, "A" * 64, KEY + "\n"):
        with pytest.raises(StoreError, match="64 hex digits"):
            store.get(key)
    computed = []
    with pytest.raises(StoreError, match="64 hex digits"):
        store.compute_all([(KEY, lambda: (computed.append(1), (ARRAYS, META))[1]), ("bad", dict)])
    assert computed == [], "a bad key must show before anything is computed"


@pytest.mark.parametrize(
    ("bad_arrays", "bad_meta", "named"),
    [
        ({"x": np.array(["text"])}, {}, "str"),
        ({"x": np.array([object()])}, {}, "object"),
        ({"x": np.zeros(2, "c16")}, {}, "complex128"),
        ({"__metadata__": np.zeros(2)}, {}, "__metadata__"),
        ({"\ud800": np.zeros(2)}, {}, "surrogates"),
        ({}, {"x": np.float32(1)}, "float32"),
        ({}, {"x": float("nan")}, "JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused(store: Store, bad_arrays, bad_meta, named: str) -> None:
    with pytest.raises(StoreError, match=named):
        store.put(KEY, bad_arrays, bad_meta)
    assert not files(store)


def test_unusable_directory_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    blocked = Store(tmp_path / "file" / "store")
    for use in (lambda: blocked.get(KEY), lambda: blocked.put(KEY, ARRAYS, META)):
        with pytest.raises(CaplocError, match=r"file/store .*--store DIR") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere: run as an ordinary user")
def test_read_only_directory_still_serves_what_it_has(store: Store) -> None:
    store.put(KEY, ARRAYS, META)
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(list(store.compute_all({KEY: lambda: (ARRAYS, META)}))) == 1
        with pytest.raises(StoreError, match=r"cannot write .*--store DIR"):
            store.put(fingerprint("more"), ARRAYS, META)
    finally:
        for path in (store.root, *store.root.rglob("*")):
            path.chmod(0o755)


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPLOC_STORE", str(tmp_path / "chosen"))
    assert Store().root == tmp_path / "chosen"
    assert Store(tmp_path / "explicit").root == tmp_path / "explicit"
    monkeypatch.delenv("CAPLOC_STORE")
    assert Store().root.name == "caploc"
    assert pickle.loads(pickle.dumps(Store(tmp_path))).root == tmp_path
